#pragma once
/* What a picture starts from, when it is not noise alone: another picture (img2img), part of one (inpainting), or the
 * latents of a first pass. Order of draws and rules are those of diffusers' pipelines of these names. */
#include "diffusion/noise_stream.h"
#include "engine/engine.h"

struct init_image {
    const uint8_t *rgb;   /* [h][w][3], of the size that is drawn; NULL: latents */
    const float *latents; /* [channels][h/f][w/f] as the UNet knows them; no draw is made for them */
    const uint8_t *mask;  /* [h][w], from 128 on: draw anew; NULL: everything */
    double strength;      /* 0 to 1: share of the steps that is done. 1 with a mask: from noise alone */
};

/* Steps that are done, of n: diffusers' rule. May be 0, which init_encoder_start refuses. */
int init_image_steps(int n, double strength);

/* Holds the encoded pictures of one size while they stay the same. */
struct init_encoder;
struct init_encoder *init_encoder_create(struct engine *e, int w, int h);
void init_encoder_destroy(struct init_encoder **s);

/* All in torch's order, [channels][h/f][w/f], until the next call. */
struct init_start {
    int first;          /* step to start at; -1: from noise alone, at step 0 */
    const float *noise; /* of the start */
    const float *z0;    /* NULL without a picture */
    const float *mask;  /* 1: draw anew; NULL: all of it, or the UNet is an inpainting one and sees to it */
    const float *extra; /* inpainting UNets: [h/f][w/f][model_extra_channels], for denoiser_set_extra; else NULL */
};
/* im NULL: from noise. Advances the stream as the reference pipeline does. */
bool init_encoder_start(struct init_encoder *s, const struct init_image *im, int n_steps, struct noise_stream *noise,
                        struct init_start *out, struct error *err);
/* Frees the device from the encoder after one or more starts; the next one loads it again. */
void init_encoder_rest(struct init_encoder *s);
