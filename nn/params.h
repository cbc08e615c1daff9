#pragma once
/* Named parameters of one model: a tensor_set whose slots are declared by building the model once, then
 * bound to tensors of memory-mapped checkpoints.
 *
 *   declare: builders ask for (path, shape); the first mention adds the slot.
 *   seal:    the set is complete; asking for an unknown path is from now on an error.
 *   bind:    every slot finds its tensor, with the right shape (nn/bind.h).
 *   read:    a slot's canonical f32 rows (graph/shape.h), for upload.
 *
 * Canonical paths are those of diffusers and transformers. Files and shapes:
 *   vector {1,1,1,c}: [c] · matrix {1,1,o,i}: [o,i] or [o,i,1,1] · convolution {k*k,1,o,i}: [o,i,k,k].
 * Not thread-safe, but read may run from several threads. */
#include "graph/graph.h"
#include "io/safetensors.h"

struct nn_params {
    struct arena *arena;
    struct tensor_set *set;
    const struct st_tensor **tensors; /* per slot after nn_params_bind (nn/bind.h); the file must stay open */
    bool sealed;
    int32_t *buckets; /* open addressing: slot + 1, or 0 */
    int n_buckets;    /* a power of two */
};

/* max_chunk_bytes: as tensor_set_create. Memory lives until nn_params_destroy or the parent's end. */
struct nn_params *nn_params_create(struct arena *parent, const char *name, enum tensor_dtype dtype,
                                   bool trainable, int64_t max_chunk_bytes);
void nn_params_destroy(struct nn_params **p);

int nn_params_find(const struct nn_params *p, const char *path); /* slot, or -1 */
/* Slot of path, declared if need be; -1 with a sentence for a shape other than the declared one, or for an
 * unknown path once sealed. */
int nn_params_declare(struct nn_params *p, const char *path, struct shape shape, struct error *e);
void nn_params_seal(struct nn_params *p);
int64_t nn_params_count(const struct nn_params *p); /* numbers in all slots */

/* Fills dst with the slot's shape_elems f32 values in canonical order. Needs a bound slot. */
void nn_params_read_slot(const struct nn_params *p, int slot, float *dst);
/* The same as texels of the set's type (graph/shape.h), padding included, as the device keeps them: faster than through
 * rows. False where the slot's or the file's type is none of f32, f16 and (in files) bf16. */
bool nn_params_pack_slot(const struct nn_params *p, int slot, void *dst);
/* Rows from any f32, f16 or bf16 tensor whose shape nn_params_fits. */
bool nn_params_fits(const struct st_tensor *t, struct shape shape);
void nn_params_read_tensor(const struct st_tensor *t, struct shape shape, float *dst);
