#pragma once
/* Several adapters at once on the layers of one or more models. Low-rank ones as two tensors per layer:
 *     y = base + up * (strength . (down * x))
 * and others as a change of the weight and of the bias each, beside the base model's:
 *     y = base + layer(strength * x; dW) + strength * db          (norms: base + strength * norm(x; dW, db))
 *
 * The low-rank LoRAs that touch a layer lie side by side along the rank; the sum of their ranks is padded to a
 * multiple of 4 with zeros. Strengths are an input of the program, one row per image of the batch, so that
 * sliders, schedules and different LoRAs per image are writes to a small buffer.
 *
 * Strength columns. Layers touched by the same LoRAs with the same ranks share a LAYOUT, a block of columns
 * (first % 4 == 0); all blocks side by side are the input "<label>.strength" {n,1,1,n_columns}. A layout's
 * column holds the strength of the LoRA that owns it, padding columns hold 0. In a trainable stack the
 * column also carries alpha/rank, so that the file's numbers are what trains; in a frozen one alpha/rank is
 * folded into `up` at upload, so that files with many alphas need few layouts. Behind the blocks every adapter
 * with changes of weights has 4 columns: its strength, and zeros.
 *
 * Order of use: create, add models, add adapters, add factors, seal; then bind to graphs, upload. Everything
 * lives in the stack's arena; factor arrays given to lora_stack_add must outlive it. Not thread-safe. */
#include "base/rng.h"
#include "nn/target.h"

/* One layer's numbers, f32 in canonical rows (graph/shape.h). */
struct lora_factors {
    int rank;
    float alpha; /* the change is alpha/rank * up * down; files without it mean alpha = rank */
    int in, out, k;
    const float *down; /* {k*k,1,rank,in} */
    const float *up;   /* {1,1,out,rank} */
};
struct lora_stack_part {
    int adapter, rank, first; /* columns first .. first+rank-1 */
    float scale;              /* alpha/rank */
    const float *down, *up;
};
/* A change that is computed when it is uploaded. read fills canonical rows of the layer's weight and its outputs'
 * biases; either may be NULL. False with a sentence. */
struct lora_dense {
    bool weight, bias; /* which of them there are */
    bool (*read)(const void *ctx, float *dw, float *db, struct error *e);
    const void *ctx; /* outlives the upload */
};
struct lora_stack_dense {
    int adapter;
    struct lora_dense change;
    int weight, bias; /* slots like the layer's weight, and {1,1,out,4} (a norm's both {1,1,1,c}); or -1 */
};
struct lora_stack_layer {
    int model;
    const struct nn_target *target;
    struct lora_stack_part *parts;
    int n_parts, cap_parts;
    int columns;  /* sum of the ranks, padded */
    int layout;   /* -1 without parts */
    int down, up; /* slots: {k*k,1,columns,in} and {1,1,out,columns}; -1 without parts */
    struct lora_stack_dense *dense;
    int n_dense, cap_dense;
};
/* A tensor that trains beside the layers and belongs to none of them: a learnt word's vectors. */
struct lora_stack_own {
    const char *name;
    struct shape shape;
    const float *start; /* canonical rows */
    int slot;           /* once sealed */
};
struct lora_stack_layout {
    int first, columns;
    const struct lora_stack_layer *like; /* the first layer that has it */
};
struct lora_stack_model {
    const char *name;
    const struct nn_target_list *targets;
    int *layer_of; /* per target by nn_target_index: layer, or -1 */
};

enum { LORA_MAX_MODELS = 4 };
struct lora_stack {
    struct arena *arena;
    struct tensor_set *set;
    struct lora_stack_model models[LORA_MAX_MODELS];
    int n_models;
    int n_adapters;
    struct lora_stack_layer *layers;
    int n_layers, cap_layers;
    struct lora_stack_layout *layouts;
    int n_layouts, n_columns;
    struct lora_stack_own *own;
    int n_own;
    int *dense_column; /* per adapter: its strength among the columns, or -1 */
    bool sealed;
};

struct lora_stack *lora_stack_create(struct arena *parent, const char *name, enum tensor_dtype dtype,
                                     bool trainable, int64_t max_chunk_bytes);
void lora_stack_destroy(struct lora_stack **s);
/* A model ("unet", "text_encoder") and the layers it has; targets must outlive the stack. Returns its index.
 */
int lora_stack_model(struct lora_stack *s, const char *name, const struct nn_target_list *targets);
int lora_stack_adapter(struct lora_stack *s); /* returns its index */

/* False with a sentence if the model lacks the layer, its shape differs, or the adapter has it already. */
bool lora_stack_add(struct lora_stack *s, int adapter, int model, const char *path,
                    const struct lora_factors *f, struct error *e);
/* The same for a change of weight or bias. An adapter may have both on a layer: factors and a bias. */
bool lora_stack_add_dense(struct lora_stack *s, int adapter, int model, const char *path, const struct lora_dense *d,
                          struct error *e);
/* Fresh factors for training: down uniform in +-1/sqrt(in*k*k), up zero. */
bool lora_stack_add_new(struct lora_stack *s, int adapter, int model, const char *path, int rank, float alpha,
                        struct rng *rng, struct error *e);
/* Returns its index among the stack's own tensors; start must outlive the stack. */
int lora_stack_add_own(struct lora_stack *s, const char *name, struct shape shape, const float *start);
/* Places the slots; nothing can be added afterwards. False with a sentence if they are more than a set can place. */
bool lora_stack_seal(struct lora_stack *s, struct error *e);

/* A slot's canonical f32 rows, for upload. False where a change of weight could not be computed. */
bool lora_stack_read_slot(const struct lora_stack *s, int slot, float *dst, struct error *e);
/* The way back: one part's factors from the rows of its layer's slots; either pair may be NULL. */
void lora_stack_extract(const struct lora_stack_layer *layer, const struct lora_stack_part *part,
                        const float *down_slot, const float *up_slot, float *down, float *up);

/* strength[image*n_adapters + adapter] -> dst[n*n_columns], the rows of the strength input. */
void lora_stack_fill_strengths(const struct lora_stack *s, int n, const float *strength, float *dst);

/* Regularisers of a training step, kohya's three: rates from 0 to below 1. network drops numbers between down and
 * up, rank whole ranks of a picture (both scale what stays by 1/(1-rate)), module the layer's LoRA for all pictures. */
struct lora_dropout {
    float network, rank, module;
};

/* Attaches a sealed stack to a model being built. One binding per model and graph; it must live until the
 * model is built. Give binding->hook to nn_begin. */
struct lora_binding {
    const struct lora_stack *stack;
    int model;
    int strength; /* the input's value; -1 where the stack has no layers */
    int next, next_norm; /* target looked for next: builders ask in the recorded order */
    int *columns; /* per layout, then per adapter's dense strength: the slice of the input, or -1 */
    /* By region: shares of the parts, and what was made of them and the columns for features of one size. */
    const int *shares;
    int n_shares;
    struct lora_map {
        int share, map; /* {n,h,w,columns}; share -1: none yet */
    } *maps;
    struct lora_dropout dropout; /* none unless the caller sets it, with dropout_key, a value as OP_DROPOUT has it */
    int dropout_key;
    struct nn_hook hook;
};
void lora_stack_bind(const struct lora_stack *s, int model, struct graph *g, const char *label, int n,
                     struct lora_binding *binding);
/* The same with the strength input of an earlier binding on the same graph and batch size. */
void lora_stack_bind_with(const struct lora_stack *s, int model, struct graph *g, int strength,
                          struct lora_binding *binding);
/* Strengths by region: every row of the features gets the parts' strengths by its shares of them. The strength input is
 * {n_parts,1,1,n_columns} with n_parts % 4 == 0, the same for all images; shares[n_shares] are {n,h,w,n_parts} and must outlive
 * the binding, one for every size that layers' results have. One of 1x1, the parts' shares of the picture, serves layers with
 * a row per image (time embeddings). Frozen stacks only:
 *     y = base + up * (map . (down * x))        y = base + map . layer(x; dW) + map . db        map = shares * strength */
void lora_stack_bind_regions(const struct lora_stack *s, int model, struct graph *g, const char *label, int n_parts,
                             const int *shares, int n_shares, struct lora_binding *binding);
