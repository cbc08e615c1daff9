/* The metadata that kohya's scripts put into a LoRA file, and Stability's modelspec: web pages and viewers show it. */
#ifndef ATELIER_TRAIN_METADATA_H
#define ATELIER_TRAIN_METADATA_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dataset;
struct st_writer;

enum metadata_family { METADATA_SD1, METADATA_SD2, METADATA_SDXL };

/* One size and the pictures that are shown at it in an epoch. */
struct metadata_bucket {
    int w, h;
    int64_t count;
};
struct metadata_pair {
    const char *key, *value;
};

/* {0}, NULL and negative values mean "leave out" unless said otherwise. */
struct metadata_params {
    /* Model. */
    enum metadata_family family;
    bool v_prediction;
    const char *model_name; /* file or folder name without path */
    const char *model_hash; /* SHA-256, hex */
    int clip_skip;          /* 0 = none */

    /* Network. */
    const char *network_module; /* NULL = "networks.lora" */
    int rank; /* negative: there is none, nor alpha */
    double alpha;
    const char *network_args; /* JSON object as text; NULL = "{}" */

    /* Run. */
    const char *output_name; /* without extension; also the title */
    const char *comment, *optimizer, *lr_scheduler, *mixed_precision;
    double lr, unet_lr, text_lr; /* 0 = None */
    int64_t seed;
    int64_t steps, max_steps, warmup_steps;
    int batch, grad_accumulation, w, h;
    double max_grad_norm;
    bool gradient_checkpointing, cache_latents;
    const struct dataset *data, *reg_data; /* may be NULL; reg: pictures of the class */
    int64_t batches_per_epoch;  /* 0: as many as the pictures fill */
    const struct metadata_bucket *buckets; /* in order of width, then height; ss_bucket_info */
    int n_buckets;
    double bucket_error; /* mean over the pictures of |bucket's w/h - picture's w/h| */

    /* Further settings, written as they are: kohya's keys where it has them. */
    const struct metadata_pair *more;
    int n_more;

    /* Wall clock. Left out by default, so that the same run gives the same bytes. */
    const char *started_at, *finished_at, *date; /* seconds since 1970 as text, the same, ISO 8601 */

    bool words_alone; /* new words without a network */

    const char *author, *description, *license, *trigger_phrase;
};

/* Adds everything to the writer, whose tensors must all be there already: their hashes go in too. Fails if a text is
 * not UTF-8. */
bool metadata_add(struct st_writer *w, const struct metadata_params *p, struct error *e);

/* Python's str() of a float, which is how kohya stores numbers: 16.0, 0.0001, 1e-05. */
enum { METADATA_FLOAT_BYTES = 32 };
char *metadata_float_text(char dst[METADATA_FLOAT_BYTES], double v);

#endif
