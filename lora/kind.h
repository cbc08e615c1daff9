/* Kinds of adapters: what tensors a module of that kind holds and what they mean. One file and one row in kinds.def
 * per kind. */
#ifndef ATELIER_LORA_KIND_H
#define ATELIER_LORA_KIND_H

#include "base/error.h"

struct lora_module;

enum { LORA_MAX_SLOTS = 8 };

struct lora_kind {
    const char *name, *title;
    const char *slots[LORA_MAX_SLOTS]; /* tensors of a module; the first n_required must be there */
    int n_slots, n_required;
    /* Checks the tensors against each other and, where m->target is set, against the layer; sets m->rank. On failure
     * the error holds a clause without subject ("has rank 8 in ... but 4 in ..."). */
    bool (*fit)(struct lora_module *m, struct error *e);
    /* Low-rank factors as canonical f32 rows (graph/shape.h): down {k*k,1,rank,in}, up {1,1,out,rank}. */
    bool (*factors)(const struct lora_module *m, float *down, float *up, struct error *e);
};

/* NULL for a kind that is recognised in files but cannot be applied. */
const struct lora_kind *lora_kind_find(const char *name);

#endif
