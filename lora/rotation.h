/* Rotations of a weight's rows in blocks, for the OFT kinds. A rotation R is the Cayley transform of a skew matrix Q;
 * what is kept is R - I, since the change that it makes is small beside the weight. f64 inside. */
#ifndef ATELIER_LORA_ROTATION_H
#define ATELIER_LORA_ROTATION_H

#include "graph/shape.h"

#include <stddef.h>

/* r[b][b] = (I + Q)(I - Q)^-1 - I for skew q[b][b], times -1 for the sign of Q: invert gives the rotation of -Q, which is
 * the transpose. */
void lora_rotation_cayley(double *r, const double *q, size_t b, bool invert);
/* The start of its series that PEFT uses, I + 2Q + 2Q^2 .. + Q^(terms-1), without the I. terms >= 1. */
void lora_rotation_series(double *r, const double *q, size_t b, int terms);

/* One stage: rows of the change are grouped in blocks of b; the row at place i of the grouping is row row_of[i] of every
 * tap (NULL: i). Each block j turns into r[j] times it. */
struct lora_rotation {
    const double *r; /* [n][b][b], R - I */
    size_t n, b;
    const size_t *row_of;
};
/* d += (R - I)(base + d), rows as {taps,1,n*b,c}. Stages follow one another. */
void lora_rotation_apply(const struct lora_rotation *rotation, struct shape shape, const float *base, float *d);

#endif
