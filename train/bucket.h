/* Aspect-ratio buckets by kohya's rules: pictures are trained at sizes of about the same area that fit their own shape.
 * Pure functions. Peer: kohya's BucketManager. */
#ifndef ATELIER_TRAIN_BUCKET_H
#define ATELIER_TRAIN_BUCKET_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Pixels; 0: 256 (or half of the resolution, if that is less), 1024 (or twice), 64. */
struct bucket_params {
    bool on;
    int resolution; /* area: its square */
    int min, max, step;
    bool no_upscale; /* small pictures keep their size, cut down to the step */
};
/* The defaults filled in; false with a sentence where they do not go together. */
bool bucket_params_complete(struct bucket_params *p, int resolution, int multiple, struct error *err);

struct bucket_size {
    int w, h;
};
enum { BUCKET_MAX = 1024 };
/* Sorted by width, then height; returns how many. With no_upscale they are for pictures thinner than
 * a step alone; the others keep their sizes. */
int bucket_list(const struct bucket_params *p, struct bucket_size out[BUCKET_MAX]);

/* A picture of w x h: its bucket, the size that it is scaled to, and where the bucket is cut out of it. */
struct bucket_choice {
    struct bucket_size bucket;
    int w, h, left, top;
};
struct bucket_choice bucket_choose(const struct bucket_params *p, const struct bucket_size *list, int n, int w, int h);

/* An epoch: every picture as often as it repeats, in batches of one bucket each, the last of a bucket short. pictures
 * [sum of repeats] and batches (as many at most) are filled; returns the number of batches. The order depends on the
 * seed alone. */
struct bucket_batch {
    int bucket, first, n; /* of the pictures */
};
int bucket_epoch(const int *bucket_of, const int *repeats, size_t n, int n_buckets, int batch, uint64_t seed,
                 uint32_t *pictures, struct bucket_batch *batches);

#endif
