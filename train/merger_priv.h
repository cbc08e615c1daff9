#pragma once
#include "diffusion/schedule.h"
#include "engine/adapter.h"
#include "engine/memory.h"
#include "lora/file.h"
#include "textenc/embedding.h"
#include "train/concept.h"
#include "train/merger.h"

struct train_merge {
    struct arena *arena;
    struct train_merge_params params;
    struct engine *e;
    struct lora_file **files; /* [n] */
    struct lora_keys *keys;
    struct adapter *adapter;  /* every LoRA; NULL once train_merge_release was called */
    struct schedule *schedule;
    int side, lw, lh, tokens; /* pixels; latent pixels */
    struct embedding_list words; /* what the LoRAs' files bring along, after train_merge_words */
    struct concept *concepts; /* [n], after train_merge_show */
    struct train_merge_plan plan;
    void *state;              /* the method's */
};
/* Strengths with one LoRA's own weight and 0 for the others; lora -1: everybody's. dst[n]. */
void train_merge_strengths(const struct train_merge *m, int lora, float *dst);
bool train_merge_words(struct train_merge *m, struct error *err);
/* Opens the adapter and looks at every concept. */
bool train_merge_show(struct train_merge *m, struct error *err);
/* The adapter leaves the device. */
void train_merge_release(struct train_merge *m);
/* Progress to the caller; false with a sentence after Ctrl-C. */
bool train_merge_report(const struct train_merge *m, const struct train_merge_progress *p, struct error *err);
