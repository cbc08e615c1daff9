/* Gradient fusion's least squares (Gu et al., Mix-of-Show: Decentralized Low-Rank Adaptation for Multi-Concept Customization of
 * Diffusion Models, 2023): the change D of a layer's weight that minimises the sum over LoRAs of |(w_i dW_i - D) X_i|^2, X_i
 * being what the layer reads while the model draws LoRA i's concept with that LoRA alone. The public implementation walks
 * there by L-BFGS; the problem is linear, so here it is solved: with G_i = X_i X_i',
 *     D = sum of w_i dW_i G_i (sum of G_k)^-1,
 * a matrix on the input of every LoRA's factors. A ridge of 1e-7 of the mean of the diagonal decides where no input ever
 * points: no change there. In double; deterministic. */
#ifndef ATELIER_TRAIN_FUSION_H
#define ATELIER_TRAIN_FUSION_H

#include "engine/adapter.h"
#include "engine/watch.h"

/* Noised pictures of one concept with their texts, n of them; all is given per picture. */
struct fusion_inputs {
    int n, w, h, side;      /* latent pixels; pixels, for SDXL */
    const float *x, *t;     /* [n][h][w][channels], [n] */
    const float *context, *pooled; /* [n][tokens][width], [n][model_pooled_dim] */
};
/* Adds up what the watched layers of the UNet read with these strengths [adapter->n]. step: after every few pictures; false
 * stops (it sets the error). NULL: none. */
struct fusion_step {
    bool (*done)(void *ctx, int pictures, struct error *err);
    void *ctx;
};
bool fusion_watch_unet(struct engine *e, const struct adapter *a, const float *strength, const struct fusion_inputs *in,
                       struct watch *w, const struct fusion_step *step, struct error *err);
/* What that would take on the device. */
bool fusion_plan_unet(struct engine *e, const struct adapter *a, const struct fusion_inputs *in, struct watch *w,
                      int64_t *bytes, struct error *err);
/* The same of a text encoder (0 or 1) that reads n texts. */
bool fusion_watch_text(struct engine *e, const struct adapter *a, const float *strength, int which, const char *const *texts,
                       int n, struct watch *w, struct error *err);

/* A layer's system: G_k [in][in] of n LoRAs. NULL where nothing was read at all. */
struct fusion_system;
struct fusion_system *fusion_system_create(struct arena *parent, const double *const *grams, int n, int in);
/* rows[n_rows][in] become rows G_k (sum of G)^-1. */
void fusion_system_apply(const struct fusion_system *s, int k, float *rows, size_t n_rows);
void fusion_system_destroy(struct fusion_system **s);

#endif
