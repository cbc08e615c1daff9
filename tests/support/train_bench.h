/* A trainer whose start, latents, noise, times and texts a reference file gives, beside what that reference made of them. */
#ifndef ATELIER_TESTS_TRAIN_BENCH_H
#define ATELIER_TESTS_TRAIN_BENCH_H

#include "io/safetensors.h"
#include "train/trainer.h"

struct train_bench_run {
    const char *model, *targets; /* "-te" behind the targets: the text encoders learn too */
};
struct train_bench {
    struct arena *a;
    struct st_file *golden;
    struct engine *e;
    struct trainer *t;
    struct shape latent; /* of one step: n is the batch */
    float *latents, *noise, *context, *pooled, *time_ids; /* pooled, time_ids: SDXL */
    float *ids[MODEL_MAX_TEXTS];                          /* where the text encoders learn; else context */
    int *times, steps;
    size_t n_step; /* floats of latents per step */
    float *losses;
};

/* NAME.train-TARGETS on a rig of session.h; change may alter the settings, NULL: it does not. */
struct train_bench train_bench_open(const struct train_bench_run *r, int rig, bool remat,
                                    void (*change)(struct train_params *p));
void train_bench_close(struct train_bench *b);
/* Mean loss of step k; trains on if `update`. */
double train_bench_step(struct train_bench *b, int k, bool update);
/* Every gradient of the last step against those of a file, over each tensor's largest value; prints the worst. */
void train_bench_gradients(struct train_bench *b, const struct st_file *golden, const char *what, double tolerance);

#endif
