/* What shows a LoRA's concept: noised pictures of it and their texts, for methods that watch the model at work. */
#ifndef ATELIER_TRAIN_CONCEPT_H
#define ATELIER_TRAIN_CONCEPT_H

#include "engine/adapter.h"
#include "engine/prompt.h"

struct schedule;
struct rng;

struct concept_params {
    const struct adapter *adapter; /* with the LoRA whose concept this is */
    const float *strength;         /* [adapter->n]: that one's, 0 for the others */
    const char *data, *caption;    /* a folder of pictures, and the caption of those without; or */
    const char *prompt;            /* pictures that the LoRA draws: */
    int n_drawn, steps;
    float cfg;
    uint64_t seed;  /* of the first; the others follow */
    int side;       /* pixels */
    const struct embedding_list *words; /* learnt words of the LoRAs; NULL: none */
};
struct concept {
    int n;          /* pictures */
    size_t n_latent;    /* numbers of one */
    float *latents;     /* [n][h][w][channels], as the UNet knows them */
    const char **texts; /* [n] */
    float *contexts;    /* [n][tokens][model_context_dim], as the model reads the texts with the strengths above */
    float *pooled;      /* [n][model_pooled_dim] */
};
/* Reads or draws the pictures and encodes the texts. Memory from a. False with a sentence, or when interrupted. */
bool concept_show(struct engine *e, const struct concept_params *p, struct arena *a, struct concept *out, struct error *err);
/* The texts again, under other strengths. */
bool concept_encode(struct engine *e, const struct prompter_params *pp, const float *strength, const struct concept *c,
                    struct arena *a, float **contexts, float **pooled, struct error *err);
/* What SDXL is told of a square picture. */
void concept_time_ids(int side, float dst[6]);

#endif
