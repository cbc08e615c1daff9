#pragma once
/* A flat tape of operators over statically shaped tensors. Built once on one thread, then transformed
 * by passes (graph_grad, graph_remat, graph_plan) and handed to gpu/ for recording.
 *
 * Builders (graph/build.h) never fail loudly: the first shape error sets the graph's sticky error and
 * every later builder returns -1. Check graph_ok() once at the end.
 * Owner: the graph's arena holds all; graph_destroy frees it. Not thread-safe. */
#include <stddef.h>
#include "base/arena.h"
#include "base/error.h"
#include "graph/quant.h"
#include "graph/shape.h"

enum op {
#define OP(id, name, n_in, n_out, inplace, shape, grad, ref) OP_##id,
#include "graph/ops.def"
#undef OP
    OP_COUNT
};

enum { GRAPH_MAX_IN = 8, GRAPH_MAX_OUT = 3 };

/* A set of tensors placed once and shared by programs: a model's weights, an adapter's parameters.
 * Banks repeat the same layout: gradient and optimiser moments of a parameter set. */
/* GRAD_SUM: gradients added up over micro-batches. EMA: moving average of the values. */
enum set_bank { SET_DATA, SET_GRAD, SET_GRAD_SUM, SET_MOMENT1, SET_MOMENT2, SET_MOMENT3, SET_MOMENT4, SET_EMA, SET_BANKS };
struct tensor_slot {
    const char *name; /* canonical dotted path, e.g. "down_blocks.0.resnets.0.conv1.weight" */
    struct shape shape;
    enum tensor_dtype dtype; /* the set's, or its matrix_dtype */
    int chunk;      /* which allocation of the set */
    int64_t offset; /* texels of the set's dtype from the chunk's start */
};
struct tensor_set {
    struct arena *arena;
    const char *name;
    enum tensor_dtype dtype;
    enum tensor_dtype matrix_dtype; /* of large matrices and convolutions; tensor_set_narrow */
    int narrow_least;
    bool trainable;
    struct tensor_slot *slots;
    int n_slots, cap_slots;
    int64_t chunk_texels[16]; /* chunk 0 texel 0.. of each chunk is a reserved zero texel block */
    int n_chunks;
    int64_t max_chunk_texels;
};
struct tensor_set *tensor_set_create(struct arena *parent, const char *name, enum tensor_dtype dtype,
                                     bool trainable, int64_t max_chunk_bytes);
/* Matrices and convolutions of at least `least` inputs and outputs that are added from now on are stored as `dtype`:
 * f16, int8 or nf4. For frozen sets; the rest (biases, norms, first and last layers) keeps the set's own. */
enum { TENSOR_NARROW_LEAST = 32 }; /* what models use */
void tensor_set_narrow(struct tensor_set *set, enum tensor_dtype dtype, int least);
/* Bytes on the device of a tensor of this shape, scales included. */
int64_t tensor_bytes(enum tensor_dtype dtype, struct shape shape);
/* Whether one more tensor of this shape finds a place. */
bool tensor_set_has_room(const struct tensor_set *set, struct shape shape);
/* Adds a tensor and places it; returns its slot. */
int tensor_set_add(struct tensor_set *set, const char *name, struct shape shape);
int tensor_set_find(const struct tensor_set *set, const char *name); /* -1 if absent */
/* Reserved zero texels at the start of every chunk of every class: out-of-image reads go there. */
enum { SET_ZERO_TEXELS = 32 };
/* Inputs of the optimisers' ops (graph/ops.def): numbers in hyper, texels that share a rate. */
enum { OPTIMISE_HYPER = 12, OPTIMISE_RATE_TEXELS = 8 };

enum value_class {
    VALUE_ACT, /* planned inside the program, lives from producer to last use */
    VALUE_IO,  /* host-visible input or output of the program, kept for its whole life */
    VALUE_SET, /* a slot of a tensor_set */
    VALUE_FLAT /* a whole bank of a tensor_set chunk, as {1,1,texels,4} */
};
struct value {
    struct shape shape;
    enum value_class cls;
    enum tensor_dtype dtype;
    int producer;        /* node, or -1 */
    int view_of;         /* value whose storage this one shares, or -1 */
    int64_t view_texels; /* offset inside it */
    struct tensor_set *set;
    enum set_bank bank;
    int slot;  /* slot for VALUE_SET, chunk for VALUE_FLAT */
    bool needs_grad;
    bool keep; /* live until the program's end (outputs) */
    const char *label;
};

enum unary_kind { UNARY_SILU, UNARY_GELU, UNARY_QUICK_GELU, UNARY_RELU, UNARY_KINDS };
/* How a second operand's rows follow the first's: same rows, one row per image, one row in all; or one number per
 * image, the first channel of b's row, or per row, the channel that the attribute says (factors of mul only, and no
 * gradient to them). */
enum bcast { BCAST_NONE, BCAST_IMAGE, BCAST_ALL, BCAST_NUMBER, BCAST_ROW };
/* What is dropped at once: a number, a channel of an image, or everything. */
enum dropout_each { DROPOUT_NUMBER, DROPOUT_CHANNEL, DROPOUT_ALL };

union op_attr {
    struct { int32_t trans; } matmul; /* 0: w rows are outputs; 1: w rows are inputs (gradient form) */
    struct { int32_t k, stride, pad, up; } conv; /* up 1: input is read through nearest x2 first */
    struct { int32_t groups; float eps; int32_t silu; } gnorm;
    struct { float eps; } lnorm;
    struct { int32_t kind; } unary;
    struct { int32_t bcast, channel; } binary;
    struct { float factor; } scale;
    struct { int32_t first; } slice;
    struct { int32_t heads; float scale; int32_t causal; } attn;
    struct { int32_t per_image; } sum;
    struct { int32_t flip_sin_to_cos; float freq_shift; } timestep;
    struct { int32_t each; float rate; int32_t rescale; uint32_t stream; } dropout; /* each: enum dropout_each */
    /* Padding stays out: of every `period` rows the first `rows` count, and the first `channels`. */
    struct { int32_t period, rows, channels; float rate; } adafactor;
    struct { float scale, most; } pair_norm;
};

struct node {
    enum op op;
    union op_attr attr;
    int in[GRAPH_MAX_IN]; /* -1: optional input left out */
    int n_in;
    int out[GRAPH_MAX_OUT]; /* -1: result nobody asked for (gradients) */
    int n_out;
    int segment; /* recompute segment, 0 = none */
    bool recompute; /* a clone made by graph_remat */
    const char *label;
};

struct graph {
    struct arena *arena;
    struct node *nodes;
    int n_nodes, cap_nodes;
    struct value *values;
    int n_values, cap_values;
    enum tensor_dtype act_dtype; /* storage type of activations made by builders */
    bool failed;
    struct error error;
    char prefix[256]; /* label path of the layer being built */
    int segment, n_segments;
    int n_forward; /* nodes before graph_grad appended its own; 0 before */
};

struct graph *graph_create(struct arena *parent, enum tensor_dtype act_dtype);
void graph_destroy(struct graph **g);
bool graph_ok(const struct graph *g, struct error *err);
/* Sets the sticky error with the current label; returns -1. */
int graph_fail(struct graph *g, const char *fmt, ...);

/* Labels: graph_push(g, "down_blocks.%d", i) ... graph_pop(g, mark). */
size_t graph_push(struct graph *g, const char *fmt, ...);
void graph_pop(struct graph *g, size_t mark);
/* Marks a recompute segment: what lies between begin and end may be dropped and replayed. */
void graph_segment_begin(struct graph *g);
void graph_segment_end(struct graph *g);

/* Values that no node makes. */
int graph_io(struct graph *g, const char *label, struct shape shape);
int graph_slot(struct graph *g, struct tensor_set *set, enum set_bank bank, int slot);
int graph_flat(struct graph *g, struct tensor_set *set, enum set_bank bank, int chunk);
/* Makes `value` an output the host can read: copies it into an IO value (f32). */
int graph_output(struct graph *g, const char *label, int value);
int graph_view(struct graph *g, int value, struct shape shape, int64_t offset_texels);

/* Low level: appends a node whose shapes come from the op's rule. Returns the node index or -1. */
int graph_append(struct graph *g, enum op op, const int *in, int n_in, union op_attr attr);
int graph_append_shaped(struct graph *g, enum op op, const int *in, int n_in, union op_attr attr,
                        const struct shape *out, int n_out);

static inline struct value *graph_value(const struct graph *g, int v) { return &g->values[v]; }
static inline struct shape graph_shape(const struct graph *g, int v) { return g->values[v].shape; }

/* --- the operator table ------------------------------------------------------------------------ */
struct op_info {
    const char *name;
    int n_in, n_out; /* most inputs; outputs */
    int inplace;     /* input whose storage the first output may take over, or -1 */
    /* Shapes of the outputs from the inputs; false with a graph_fail message. NULL: caller gives them
     * (SIZE_STATED in ops.def). */
    bool (*shape)(struct graph *g, const struct node *node, struct shape out[GRAPH_MAX_OUT]);
    /* Emits nodes for the gradient. grad_out[i] is the gradient of output i (-1: none); want[i] says if
     * input i needs one; fills grad_in[i]. NULL: op is NO_GRAD (stated in ops.def). */
    void (*grad)(struct graph *g, int node, const int *grad_out, const bool *want, int *grad_in);
    /* Plain C in double over canonical [rows][c] arrays: the meaning of the op. in[i] NULL if absent,
     * out[i] NULL if not asked for. */
    void (*ref)(const struct graph *g, const struct node *node, const double *const *in, double *const *out);
    bool no_grad;
};
extern const struct op_info op_table[OP_COUNT];

/* --- passes -------------------------------------------------------------------------------------- */
/* Appends the backward nodes of `loss` (per-image losses [n,1]) with `seed` ([n,1], d total / d loss).
 * Gradients of trainable slots end in the SET_GRAD bank of their set. False on error. */
bool graph_grad(struct graph *g, int loss, int seed, struct error *err);
/* Gradient of any value after graph_grad (for tests); -1 if none. `grad_of` has n_values entries. */
bool graph_grad_values(struct graph *g, int loss, int seed, const int *wrt, int n_wrt, int *grads,
                       struct error *err);
/* Drops what lies inside marked segments after the forward pass and replays it before its gradient. */
bool graph_remat(struct graph *g, struct error *err);
/* Removes nodes that no output, IO write or SET/FLAT write depends on. */
void graph_prune(struct graph *g);
bool graph_verify(const struct graph *g, struct error *err);
/* One line per node: op, label, shapes. `write` gets each line. */
void graph_dump(const struct graph *g, void (*write)(void *ctx, const char *line), void *ctx);
