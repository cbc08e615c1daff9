/* Keys and values of cross-attention joined in closed form (Kumari and others, Multi-Concept Customization of
 * Text-to-Image Diffusion, 2023, section 3.2). Of all W with
 *     W c = W_k c          for every text feature c of the captions of file k
 * the one whose answers to regularisation captions differ least from the model's: it minimises |(W - W0) C_reg^T|_F.
 * With R = C_reg^T C_reg, the captions' features as rows of C, D = C R^-1 and the files' changes dW_k,
 *     W - W0 = sum over k of dW_k C_k^T ((D C^T)^-1 D)_k
 * where the index k takes file k's rows. Only the dW_k differ from layer to layer. Host arithmetic, in doubles. */
#ifndef ATELIER_LORA_CLOSED_FORM_H
#define ATELIER_LORA_CLOSED_FORM_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>

struct arena;

struct lora_closed_form {
    int n, width;     /* features; their length */
    const int *files; /* [n]: whose caption a feature is from */
    const double *features; /* C [n][width] */
    double *duals;    /* [n][width]: (D C^T)^-1 D; memory from the arena of solve */
};

/* Fills duals. gram: R [width][width], symmetric; a millionth of its mean diagonal is added to its diagonal, so that few
 * captions do; it is overwritten. False with a sentence where the features depend on each other. */
bool lora_closed_form_solve(struct lora_closed_form *f, double *gram, struct arena *a, struct error *e);
/* rows[n][width] become rows * C_k^T duals_k of file k. */
void lora_closed_form_apply(const struct lora_closed_form *f, int file, float *rows, size_t n);

#endif
