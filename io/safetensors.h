/* Safetensors files: a strict, memory-mapped reader and a writer. No knowledge of models. What torch.save writes (.ckpt,
 * .pt, .bin) reads as the same list of tensors; nothing in such a file is ever run.
 * A file is read-only after st_open and may be used from any thread. */
#ifndef ATELIER_IO_SAFETENSORS_H
#define ATELIER_IO_SAFETENSORS_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* In the order that decides where tensors are written (highest first). */
enum st_dtype {
    ST_BOOL,
    ST_F4,
    ST_F6_E2M3,
    ST_F6_E3M2,
    ST_U8,
    ST_I8,
    ST_F8_E5M2,
    ST_F8_E4M3,
    ST_F8_E8M0,
    ST_F8_E4M3FNUZ,
    ST_F8_E5M2FNUZ,
    ST_I16,
    ST_U16,
    ST_F16,
    ST_BF16,
    ST_I32,
    ST_U32,
    ST_F32,
    ST_C64,
    ST_F64,
    ST_I64,
    ST_U64,
    ST_DTYPE_COUNT
};

const char *st_dtype_name(enum st_dtype d);
int st_dtype_bits(enum st_dtype d); /* per element: 4 .. 64 */
bool st_dtype_parse(const char *name, enum st_dtype *out);

enum { ST_MAX_RANK = 8 };

struct st_tensor {
    const char *name;
    enum st_dtype dtype;
    int rank; /* 0 = one element */
    int64_t dims[ST_MAX_RANK];
    const void *data; /* little-endian, row-major; may stand at any address, so copy before casting */
    size_t bytes;
};

size_t st_tensor_elements(const struct st_tensor *t);
bool st_tensor_has_shape(const struct st_tensor *t, int rank, const int64_t *dims);
/* "[320, 4, 3, 3]" into dst; returns dst. */
enum { ST_SHAPE_TEXT_BYTES = 192 };
char *st_tensor_shape_text(const struct st_tensor *t, char dst[ST_SHAPE_TEXT_BYTES]);

/* ---- Reading ---- */

struct st_file;

/* Opens a safetensors file, a zip of torch.save, or FILE.index.json whose shards lie beside it and appear as one file.
 * Every rule of the format is checked before anything is returned. The file stays mapped until st_close.
 * Of torch.save: the tensors of the dictionary (of its "state_dict" if it has one), nested names joined by dots;
 * metadata are the numbers and texts beside them ("global_step"). */
struct st_file *st_open(const char *path, struct error *e);
void st_close(struct st_file **f);

/* False with a sentence if the file was written to or shortened since st_open: what was read then is not sound. */
bool st_intact(const struct st_file *f, struct error *e);

size_t st_count(const struct st_file *f);
const struct st_tensor *st_at(const struct st_file *f, size_t i);              /* file order; owned by f */
const struct st_tensor *st_find(const struct st_file *f, const char *name);    /* NULL if absent */
const char *st_path(const struct st_file *f);

size_t st_meta_count(const struct st_file *f);
const char *st_meta_key(const struct st_file *f, size_t i);
const char *st_meta_value(const struct st_file *f, size_t i);
const char *st_meta_find(const struct st_file *f, const char *key); /* NULL if absent */

/* Elements as f32: every dtype but the packed ones and C64. n must be the element count; a mismatch or an
 * unsupported dtype is an error. dst must not overlap the file. */
bool st_read_f32(const struct st_tensor *t, float *dst, size_t n, struct error *e);

/* SHA-256 of everything after the header (AutoV3, sshs_model_hash): independent of metadata. Single files only. */
void st_data_sha256(const struct st_file *f, char hex[65]);

/* ---- Writing ---- */

struct st_writer;
struct st_writer *st_writer_create(void);
void st_writer_destroy(struct st_writer **w);

/* Metadata in the order given; setting a key again replaces its value. Both strings are copied. */
void st_writer_meta(struct st_writer *w, const char *key, const char *value);

/* Name and shape are copied, data is not: it must live until the last save. The byte count follows from dtype and
 * dims (rank 0 = one element). */
void st_writer_add(struct st_writer *w, const char *name, enum st_dtype dtype, int rank, const int64_t *dims,
                   const void *data);

/* The same from f32 values, converted to ST_F32, ST_F16 or ST_BF16; copied, so that src may go. */
void st_writer_add_f32(struct st_writer *w, const char *name, enum st_dtype dtype, int rank, const int64_t *dims,
                       const float *src);

/* Data that is made only while the file is written, so that large files need no memory: fill gets the tensor's bytes to
 * write; false, with a sentence, ends the save. It runs once per save and once per st_writer_hashes. */
typedef bool st_fill(void *ctx, void *dst, size_t bytes, struct error *e);
void st_writer_add_fill(struct st_writer *w, const char *name, enum st_dtype dtype, int rank,
                        const int64_t *dims, st_fill *fill, void *ctx);

/* Writes by rename. Duplicate names and text that is not UTF-8 are refused. The bytes depend only on what was
 * added, not on the order of st_writer_add. */
bool st_writer_save(struct st_writer *w, const char *path, struct error *e);

/* What kohya stores as sshs_model_hash (64 hex digits) and sshs_legacy_hash (8), over the file as it would be saved
 * now. Call before adding the keys that hold them. */
bool st_writer_hashes(struct st_writer *w, char model[65], char legacy[9], struct error *e);

#endif
