/* Merging LoRAs by watching the model at work: what layers read, or what the UNet answers, while each LoRA shows its
 * concept. A table of methods (mergers.def), one file each; every method ends in a matrix per layer and LoRA on the
 * layer's input (struct lora_merge_maps), so that the result stays as thin as the LoRAs are together. One thread. */
#ifndef ATELIER_TRAIN_MERGER_H
#define ATELIER_TRAIN_MERGER_H

#include "engine/engine.h"
#include "lora/merge.h"

/* Options that not every method has. */
enum train_merge_option {
    TRAIN_MERGE_STEPS = 1 << 0,
    TRAIN_MERGE_BATCH = 1 << 1,
    TRAIN_MERGE_LR = 1 << 2,
    TRAIN_MERGE_SIMILARITY = 1 << 3,
    TRAIN_MERGE_TIMES = 1 << 4,
    TRAIN_MERGE_CONCEPTS = 1 << 5, /* pictures or prompts, one per LoRA, and what goes with them */
    TRAIN_MERGE_PROMPTS = 1 << 6,  /* prompts alone */
    TRAIN_MERGE_CAPTIONS = 1 << 7,
};
struct train_merge;
struct train_merger {
    struct lora_merger merger; /* takes_rank and whole, as a rule */
    unsigned takes;            /* enum train_merge_option */
    /* Learns, and sets m->state. False with a sentence, or when interrupted. plan_only: only fills m->plan. */
    bool (*learn)(struct train_merge *m, bool plan_only, struct error *err);
    bool (*apply)(void *merge, int file, const struct lora_module *module, float *rows, size_t n, struct error *err);
    void (*destroy)(struct train_merge *m); /* of the state; called if it is set */
    char *(*settings)(const struct train_merge *m, struct arena *a); /* what made the result, as options */
};
const struct train_merger *train_merger_find(const char *name); /* NULL: unknown, or a method of lora/merge.h */
const struct train_merger *train_merger_at(int i);              /* NULL past the last */

struct train_merge_progress {
    const char *what;
    int done, of;
    double loss;     /* negative: none */
    double seconds_left;
};
struct train_merge_params {
    const struct train_merger *method;
    struct engine *e;
    const char *const *loras; /* n */
    const float *weights;
    int n;
    /* What shows each LoRA's concept: [n] folders of pictures with captions, or [n] prompts, or NULL. */
    const char *const *data, *const *prompts;
    const char *caption;        /* for pictures without one */
    const char *captions;       /* a text file: captions that go on being drawn as they are, a line each */
    int pictures, draw_steps;   /* of a prompt */
    float draw_cfg;
    int resolution;             /* 0: the model's own */
    int steps, batch;
    float lr, similarity;
    int times;                  /* at how many times a picture is watched */
    int64_t sum_bytes;          /* most that gradient fusion's sums take on the host; 0: 1 GiB */
    uint64_t seed;
    int rank;                   /* 0: as the method does */
    enum st_dtype dtype;
    const char *out;
    void (*report)(void *ctx, const struct train_merge_progress *p);
    void *ctx;
};
struct train_merge_params train_merge_params_default(void);

/* What a run takes beside the model. */
struct train_merge_plan {
    int n_layers, passes;        /* layers that learn; runs over the pictures */
    int64_t host_bytes;          /* kept with the host */
    int64_t device_bytes, total; /* most at once on the device, weights included; what the device has */
};
/* False with a sentence; the file appears by rename or not at all. The same input gives the same bytes. */
bool train_merge(const struct train_merge_params *p, struct lora_merge_result *r, struct error *err);
/* Nothing is learnt, drawn or written. */
bool train_merge_plan(const struct train_merge_params *p, struct train_merge_plan *out, struct error *err);

#endif
