#pragma once
/* Places activations and IO of a tape before any device is touched. Deterministic; no device in sight.
 * Offsets are bytes from the start of a chunk and multiples of PLAN_ALIGN; the first PLAN_ZERO_BYTES of
 * every chunk stay zero (out-of-image reads go there). */
#include "graph/graph.h"

enum { PLAN_ALIGN = 64, PLAN_ZERO_BYTES = SET_ZERO_TEXELS * 16, PLAN_MAX_CHUNKS = 16 };

struct plan_params {
    int64_t max_chunk_bytes; /* 0: 2 GiB - 64 KiB */
    /* Scratch bytes that running `node` needs beside its operands; NULL: none. */
    int64_t (*scratch)(void *ctx, const struct graph *g, int node);
    void *ctx;
    bool no_reuse; /* every value its own place (debugging, tests) */
};
struct plan_place {
    int chunk; /* -1: not placed (slots, unused) */
    int64_t offset;
};
struct plan {
    struct plan_place *values;  /* per value; views resolved */
    struct plan_place *scratch; /* per node */
    int64_t act_bytes[PLAN_MAX_CHUNKS];
    int n_act_chunks;
    int64_t io_bytes;
    int64_t peak_live_bytes; /* most bytes live at once: the lower bound of sum(act_bytes) */
    int peak_node;
};
/* Memory of `out` belongs to g's arena. */
bool graph_plan(struct graph *g, const struct plan_params *p, struct plan *out, struct error *err);
/* Bytes a value takes (its own storage, not through views). */
int64_t graph_value_bytes(const struct graph *g, int v);

/* Runs the whole tape in plain C double (the meaning of the program). `data[v]` are canonical arrays:
 * the caller fills IO inputs, slots and flats; results are allocated in `a`. */
void graph_eval_ref(const struct graph *g, double **data, struct arena *a);
