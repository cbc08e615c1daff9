#pragma once
/* A planned tape, recorded once and replayed with changed inputs. */
#include "gpu/device.h"
#include "graph/plan.h"

/* Where the data of a tensor_set's bank is. */
struct gpu_binding {
    const struct tensor_set *set;
    enum set_bank bank;
    struct gpu_set *data;
};
struct gpu_program_params {
    const char *name;
    const struct gpu_binding *bindings;
    int n_bindings;
    const char *force_kernel; /* "op=variant": that row for that op, or an error when it does not fit */
    bool profile;             /* timestamps per node */
    bool step;                /* one submission per node */
    bool stop_at_nan;         /* implies step: fails at the first node whose result is not finite */
    bool check;               /* implies step: compares each node with its double reference */
    bool no_reuse;            /* plan without sharing memory */
    bool no_prepare;          /* only kernels that use weights as they are stored: less memory, slower on the CPU class */
    int64_t memory_limit;     /* bytes this program may take; 0: what the device has left */
    int64_t ring_bytes;       /* for the weights of streamed sets in turn; at least gpu_program_ring_least, and at least
                               * that is taken. Such programs prepare no weights. */
    /* Its activations lie where this program's do, as far as they fit there: for programs that never run at the same
     * time and keep nothing from run to run. It must live longer. NULL: memory of its own. */
    const struct gpu_program *share;
    const char *memory_hint;  /* what the user can do when it does not fit */
};
struct gpu_memory_use {
    int64_t activations, io, scratch_peak, prepared, ring;
    int64_t live_peak;                 /* most bytes of activations alive at once */
    const char *peak_label, *peak_op;  /* the node where that is; the graph owns the text */
};
struct gpu_program;
/* Selects kernels, plans, checks memory, allocates and records. `g` must outlive the program. */
struct gpu_program *gpu_program_create(struct gpu_device *dev, struct graph *g, const struct gpu_program_params *p,
                                       struct error *err);
void gpu_program_destroy(struct gpu_program **prog);
/* Only plans: what gpu_program_create would take. No device memory is touched. */
bool gpu_program_measure(struct gpu_device *dev, struct graph *g, const struct gpu_program_params *p,
                         struct gpu_memory_use *use, struct error *err);

/* The smallest ring that a program over this tape needs to stream `set`: twice the largest weight that does not
 * stay anyway. */
int64_t gpu_program_ring_least(const struct graph *g, const struct tensor_set *set);

/* IO values: canonical [rows][c] f32. */
void gpu_program_write(struct gpu_program *prog, int value, const float *data);
void gpu_program_read(struct gpu_program *prog, int value, float *data);
/* Runs once and waits. The first run also prepares weights. False: device lost, or NaN found. */
bool gpu_program_run(struct gpu_program *prog, struct error *err);
/* Runs the same inputs again node by node; false with the node that first makes NaN or infinity. */
bool gpu_program_trace_nan(struct gpu_program *prog, struct error *err);
/* Weights changed: prepare them again before the next run. */
void gpu_program_invalidate(struct gpu_program *prog);
/* Any activation after a run with no_reuse (tests). */
bool gpu_program_peek(struct gpu_program *prog, int value, float *data, struct error *err);

struct gpu_memory_use gpu_program_memory(const struct gpu_program *prog);
/* After a profiled run: seconds and row per node; returns the node count. */
struct gpu_timing {
    const char *label, *op, *variant;
    double seconds;
    double flops; /* multiply-adds counted twice; 0 where it is not arithmetic that counts */
};
int gpu_program_timings(const struct gpu_program *prog, struct gpu_timing *out, int max);
/* Multiply-adds of a whole tape, counted twice. */
double gpu_graph_flops(const struct graph *g);
const struct graph *gpu_program_graph(const struct gpu_program *prog);
