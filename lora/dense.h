/* Host arithmetic on weights in canonical rows, {k*k,1,out,in}: row tap*out + o. For kinds whose change of weight is
 * computed when a file is opened. All cores; the result does not depend on their number. */
#ifndef ATELIER_LORA_DENSE_H
#define ATELIER_LORA_DENSE_H

#include "graph/shape.h"
#include "io/safetensors.h"

struct arena;

/* c[rows][columns] = a[rows][inner] * b[inner][columns]. */
void lora_dense_product(float *c, const float *a, const float *b, size_t rows, size_t inner, size_t columns);

void lora_dense_transpose(float *dst, const float *src, size_t rows, size_t columns); /* dst[columns][rows] */

/* [rows][inner][taps] as files have it -> [taps][rows][inner], and back. */
void lora_dense_taps_first(float *dst, const float *src, size_t rows, size_t inner, size_t taps);
void lora_dense_taps_last(float *dst, const float *src, size_t rows, size_t inner, size_t taps);

/* All elements as f32 in the file's order; NULL and a sentence where they are no floats. */
float *lora_dense_read(const struct st_tensor *t, struct arena *a, struct error *e);

/* A whole weight, {k*k,1,out,in} for the file's [out,in,k,k]; t must have as many elements. */
bool lora_dense_read_rows(const struct st_tensor *t, struct shape weight, float *rows, struct error *e);

/* A kernel in a file: whole [rows, columns(, k, k)]; or a product a [rows, r] * b [r, columns(, k, k) or columns*k*k];
 * or with a Tucker core t [p, q, k, k] between a [p, rows] and b [q, columns], each transposed as LyCORIS has them. */
struct lora_piece {
    const struct st_tensor *whole, *a, *b, *t;
};
struct lora_piece_size {
    size_t rows, columns, taps, rank; /* rank 0: whole */
};
/* taps: what the layer has, 0 where it is not known (then the answer's is 1). False where tensors do not belong
 * together. */
bool lora_piece_measure(const struct lora_piece *p, size_t taps, struct lora_piece_size *out);
/* dst[taps][rows][columns]; size as measured. */
bool lora_piece_build(const struct lora_piece *p, const struct lora_piece_size *size, float *dst, struct error *e);

#endif
