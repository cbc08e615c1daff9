#pragma once
/* Parameters find their tensors in a file, whatever names it uses. A naming says how a file spells a canonical path;
 * the tables stand beside the models (unet/ldm.h, vae/ldm.h, textenc/clip_naming.h). */
#include "nn/params.h"

struct nn_place {
    char name[256];  /* the tensor in the file */
    int part, parts; /* rows of part `part` of `parts` equal ones that lie in one tensor; parts 0: all of it */
    bool transposed; /* a matrix stored [in, out] */
};
struct nn_naming {
    /* Spelling number `attempt` (0, 1, ...) of a path; false where there are no more. NULL: the path itself. */
    bool (*place)(const void *ctx, const char *path, int attempt, struct nn_place *out);
    const void *ctx;
};
/* name := prefix + path; false if that is too long. */
bool nn_place_set(struct nn_place *p, const char *prefix, const char *path);

struct nn_bind_report { /* lists owned by the params */
    const struct st_tensor *const *used; /* of the file, one per slot: a tensor with parts appears for each */
    const char *const *missing;          /* canonical path, then how the file would spell it */
    const char *const *misfit;           /* one sentence each: wrong shape or type */
    int n_used, n_missing, n_misfit;
};
/* Binds every slot (p is sealed) and fills the report in any case. False, with a sentence about the first of them, if
 * a slot has no tensor that fits. The file must stay open as long as p is read. */
bool nn_params_bind(struct nn_params *p, const struct st_file *file, const struct nn_naming *naming,
                          struct nn_bind_report *report, struct error *e);

/* The shape that a file keeps for it: "[320, 4, 3, 3]". */
char *nn_shape_text(struct shape s, char *dst, size_t bytes);
/* Whether weights may be stored like that. */
bool nn_dtype_is_weight(enum st_dtype d);
