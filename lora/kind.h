/* Kinds of adapters: what tensors a module of that kind holds and what they mean. One file and one row in kinds.def
 * per kind.
 *
 * Whatever the kind, a module's effect is linear in its strength s: W' = W + s * dW, bias' = bias + s * db, where dW is
 * the change that the kind's own program makes at strength 1, measured from the base model's weight. For LoRA, LoHa,
 * LoKr, GLoRA, (IA)3, kohya's and LyCORIS' OFT and plain differences that is the programs' own reading of s. DoRA
 * follows ComfyUI and the A1111 web UI, which interpolate W + s * (W'(1) - W), so that 0 is the base model; LyCORIS
 * keeps the direction and scales the magnitude's change, PEFT scales the low-rank part before the norm. BOFT, where
 * LyCORIS interpolates every rotation, and PEFT's OFT, BOFT and (IA)3, which know no strength, are read the same way.
 * Adapters that share a layer add up, in any order. */
#ifndef ATELIER_LORA_KIND_H
#define ATELIER_LORA_KIND_H

#include "base/error.h"

struct lora_module;

enum { LORA_MAX_SLOTS = 12 };

struct lora_kind {
    const char *name, *title;
    const char *slots[LORA_MAX_SLOTS]; /* tensors of a module; the first n_required must be there */
    int n_slots, n_required;
    /* Slots that any kind may have, 0: none. bias: a difference of the layer's bias, taken as it is. magnitude: DoRA's
     * lengths of the rows or columns of W + dW, by its shape; row_magnitude: of the rows, whatever its shape. */
    int bias, magnitude, row_magnitude;
    int scaled_bias; /* like bias, but alpha/rank goes with it */
    bool for_norms;  /* belongs on norms, and only there */
    bool for_all;    /* on norms as on layers; otherwise on layers only */
    bool needs_base; /* delta wants the base model's weight */
    /* Checks the tensors against each other and, where m->target is set, against the layer; sets m->rank where the kind
     * has one. Bias and magnitude are checked by the caller. On failure the error holds a clause without subject ("has
     * rank 8 in ... but 4 in ..."). */
    bool (*fit)(struct lora_module *m, struct error *e);
    /* Low-rank kinds: factors as canonical f32 rows (graph/shape.h): down {k*k,1,rank,in}, up {1,1,out,rank}, without
     * the scale. Others have NULL here. */
    bool (*factors)(const struct lora_module *m, float *down, float *up, struct error *e);
    /* All other kinds: the change dW of m->target's weight with the scale in it, {k*k,1,out,in}, at strength 1. base:
     * the layer's weight in the same rows, or NULL where not needed. */
    bool (*delta)(const struct lora_module *m, const float *base, float *dw, struct error *e);
    /* Kinds that change the layer's own bias, where it has one: the change for bias {1,1,1,out}. NULL: none. */
    bool (*delta_bias)(const struct lora_module *m, const float *bias, float *db, struct error *e);
};

/* NULL for a kind that is recognised in files but cannot be applied. */
const struct lora_kind *lora_kind_find(const char *name);

#endif
