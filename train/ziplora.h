/* ZipLoRA's coefficients (Shah et al., ZipLoRA: Any Subject in Any Style by Effectively Merging LoRAs, 2023): for every
 * layer that several LoRAs change, a number per LoRA and input channel, all 1 at first, with
 *     dW = sum of w_i dW_i diag(m_i).
 * What is minimised is the sum over the LoRAs of the mean squared distance between the UNet's answers with dW and with
 * w_i dW_i alone on that LoRA's pictures, plus lambda times the sum over layers and pairs of LoRAs of mean |m_i m_k|: the
 * public implementation's penalty, element by element, where the paper's text has the size of the dot product. One thread. */
#ifndef ATELIER_TRAIN_ZIPLORA_H
#define ATELIER_TRAIN_ZIPLORA_H

#include "engine/adapter.h"
#include "engine/memory.h"

struct ziplora_params {
    const struct adapter *const *adapters; /* [n], one LoRA in each; must outlive the ziplora */
    const float *weights;                  /* [n] */
    int n, batch;                          /* LoRAs; pictures of each in a step */
    int w, h, tokens;                      /* of latents and contexts */
    float similarity;                      /* lambda */
};
/* Inputs of a step: n * batch images, those of the first LoRA first. */
struct ziplora_batch {
    const float *x;       /* [..][h][w][channels]: noised latents */
    const float *t;       /* [..] */
    const float *context; /* [..][tokens][width] */
    const float *added;   /* [..][unet.added_dim]; NULL where the model takes none */
    const float *target;  /* [..][h][w][channels]: the answer with the image's own LoRA alone */
};
struct ziplora_loss {
    double distance, overlap; /* the sum over LoRAs; the penalty with its lambda */
};
struct ziplora;
/* Plans: nothing is on the device but the adapters. NULL with a sentence. */
struct ziplora *ziplora_create(struct engine *e, const struct ziplora_params *p, struct error *err);
void ziplora_destroy(struct ziplora **z);
int ziplora_layers(const struct ziplora *z);         /* that several LoRAs share */
int64_t ziplora_device_bytes(const struct ziplora *z); /* when open: the model's weights and all of the step */
bool ziplora_open(struct ziplora *z, struct error *err);
/* One step of Adam. lr 0: only the loss and the gradients. */
bool ziplora_step(struct ziplora *z, const struct ziplora_batch *b, float lr, struct ziplora_loss *loss, struct error *err);
/* A layer's m or its gradient, [in], as of the last step; NULL where the LoRA shares no such layer. Until the next call. */
const float *ziplora_columns(const struct ziplora *z, int lora, const struct nn_target *t);
const float *ziplora_gradient(const struct ziplora *z, int lora, const struct nn_target *t);
/* For tests: other values in place of the present ones. */
bool ziplora_set_columns(struct ziplora *z, int lora, const struct nn_target *t, const float *m, struct error *err);

#endif
