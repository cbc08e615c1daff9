/* Reference answers from tests/data (what is in them: tests/reference/README.md), in the engine's order.
 * Every function fails the running test with a sentence if something is missing.
 * ATELIER_GOLDENS names a folder that is looked in first: regenerate.py --seed N --out makes one, and the
 * same tests then run on other weights. */
#ifndef ATELIER_TESTS_GOLDEN_H
#define ATELIER_TESTS_GOLDEN_H

#include "base/arena.h"
#include "graph/shape.h"
#include "io/safetensors.h"

/* Path of a file or folder of tests/data; owned by a. "demo" and what is below it is the model of assets/. */
const char *golden_path(struct arena *a, const char *name);

/* golden_open("mini-sd1.golden"); the caller closes it with st_close. */
struct st_file *golden_open(const char *name);

/* Data as canonical rows, owned by a; shape may be NULL.
 * [n,c,h,w] -> {n,h,w,c}; [steps,n,c,h,w] -> {steps*n,h,w,c}; [n,t,c] -> {n,1,t,c}; [n,t] -> {n,1,t,1};
 * [n] -> {n,1,1,1}. */
float *golden_rows(const struct st_file *f, const char *name, struct arena *a, struct shape *shape);

/* A weight: [out,in] -> {1,1,out,in}; [O,I,kh,kw] -> {kh*kw,1,O,I}. */
float *golden_weight(const struct st_file *f, const char *name, struct arena *a, struct shape *shape);

/* A picture's bytes [h][w][3], owned by f. */
const uint8_t *golden_picture(const struct st_file *f, const char *name, int *h, int *w);

/* Metadata. */
const char *golden_text(const struct st_file *f, const char *key);
double golden_number(const struct st_file *f, const char *key);

/* Largest difference over the range of want; nan if any value of got is. */
double golden_range_error(const float *got, const float *want, size_t n);
/* Prints that figure and fails the test if it is not at most `tolerance`. */
void golden_near(const char *what, const float *got, const float *want, size_t n, double tolerance);
/* The same over the largest absolute value of want: for gradients. */
void golden_near_peak(const char *what, const float *got, const float *want, size_t n, double tolerance);

/* Peak signal to noise ratio of bytes in dB; infinite if equal. */
double golden_psnr(const uint8_t *got, const uint8_t *want, size_t n);

#endif
