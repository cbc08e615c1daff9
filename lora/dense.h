/* Host arithmetic on weights in canonical rows, {k*k,1,out,in}: row tap*out + o. For kinds whose change of weight is
 * computed when a file is opened. All cores; the result does not depend on their number. */
#ifndef ATELIER_LORA_DENSE_H
#define ATELIER_LORA_DENSE_H

#include "graph/shape.h"
#include "io/safetensors.h"

struct arena;

/* c[rows][columns] = a[rows][inner] * b[inner][columns]. */
void lora_dense_product(float *c, const float *a, const float *b, size_t rows, size_t inner, size_t columns);

/* [rows][inner][taps] as files have it -> [taps][rows][inner], and back. */
void lora_dense_taps_first(float *dst, const float *src, size_t rows, size_t inner, size_t taps);
void lora_dense_taps_last(float *dst, const float *src, size_t rows, size_t inner, size_t taps);

/* All elements as f32 in the file's order; NULL and a sentence where they are no floats. */
float *lora_dense_read(const struct st_tensor *t, struct arena *a, struct error *e);

/* A whole weight, {k*k,1,out,in} for the file's [out,in,k,k]; t must have as many elements. */
bool lora_dense_read_rows(const struct st_tensor *t, struct shape weight, float *rows, struct error *e);

/* Elements as a matrix with so many rows; 0 columns where they do not divide. */
size_t lora_dense_columns(const struct st_tensor *t, size_t rows);

#endif
