#include "train/bucket.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/rng.h"

bool bucket_params_complete(struct bucket_params *p, int resolution, int multiple, struct error *err) {
    p->resolution = resolution;
    if (!p->on) {
        if (p->min || p->max || p->step || p->no_upscale) return error_set(err, "The --bucket options need --buckets.");
        return true;
    }
    if (!p->step) p->step = 64;
    if (!p->min) p->min = resolution / 2 < 256 ? resolution / 2 : 256;
    if (!p->max) p->max = 2 * resolution > 1024 ? 2 * resolution : 1024;
    if (p->step % multiple)
        return error_set(err, "--bucket-step %d is not a multiple of %d, which this model's VAE needs.", p->step, multiple);
    if (p->min < p->step || p->max < p->min || p->min > resolution || p->max < resolution || resolution < p->step)
        return error_set(err, "Buckets of %d to %d pixels in steps of %d do not hold a picture of %d pixels; change "
                              "--bucket-min, --bucket-max or --bucket-step.", p->min, p->max, p->step, resolution);
    return true;
}

static int compare(const void *x, const void *y) {
    const struct bucket_size *a = x, *b = y;
    return a->w != b->w ? (a->w > b->w) - (a->w < b->w) : (a->h > b->h) - (a->h < b->h);
}

static int add(struct bucket_size *out, int n, int w, int h) {
    for (int i = 0; i < n; i++)
        if (out[i].w == w && out[i].h == h) return n;
    if (n < BUCKET_MAX) out[n++] = (struct bucket_size){w, h};
    return n;
}

int bucket_list(const struct bucket_params *p, struct bucket_size out[BUCKET_MAX]) {
    int64_t area = (int64_t)p->resolution * p->resolution;
    int side = p->resolution / p->step * p->step, n = add(out, 0, side, side);
    for (int w = p->min; w <= p->max; w += p->step) {
        int64_t h = area / w / p->step * p->step;
        if (h > p->max) h = p->max / p->step * p->step;
        if (h < p->min) continue;
        n = add(out, n, w, (int)h);
        n = add(out, n, (int)h, w);
    }
    qsort(out, (size_t)n, sizeof *out, compare);
    return n;
}

static int down(double x, int step) { return (int)x / step * step; }

/* Not larger than the area: as it is. Larger: to the area, one side on the step, whichever keeps the shape better. False for
 * a picture with a side shorter than a step. */
static bool keep_size(const struct bucket_params *p, int w, int h, struct bucket_choice *c) {
    double area = (double)p->resolution * p->resolution, ratio = (double)w / h;
    c->w = w, c->h = h;
    if ((double)w * h > area) {
        double wide = sqrt(area * ratio), high = area / wide;
        int w1 = (int)(wide + 0.5) / p->step * p->step, h1 = (int)(w1 / ratio + 0.5);
        int h2 = (int)(high + 0.5) / p->step * p->step, w2 = (int)(h2 * ratio + 0.5);
        /* Compared by the shapes of the buckets they end in. */
        double shape1 = h1 >= p->step ? (double)w1 / down(h1, p->step) : INFINITY,
               shape2 = h2 ? (double)down(w2, p->step) / h2 : INFINITY;
        bool first = fabs(shape1 - ratio) < fabs(shape2 - ratio);
        c->w = first ? w1 : w2, c->h = first ? h1 : h2;
    }
    c->bucket = (struct bucket_size){down(c->w, p->step), down(c->h, p->step)};
    return c->bucket.w > 0 && c->bucket.h > 0;
}

static void fit_size(const struct bucket_size *list, int n, int w, int h, struct bucket_choice *c) {
    double ratio = (double)w / h, best = INFINITY;
    for (int i = 0; i < n; i++) {
        double off = list[i].w == w && list[i].h == h ? -1 : fabs((double)list[i].w / list[i].h - ratio);
        if (off < best) best = off, c->bucket = list[i];
    }
    bool wider = ratio > (double)c->bucket.w / c->bucket.h;
    double scale = wider ? (double)c->bucket.h / h : (double)c->bucket.w / w;
    c->w = (int)(w * scale + 0.5), c->h = (int)(h * scale + 0.5);
}

struct bucket_choice bucket_choose(const struct bucket_params *p, const struct bucket_size *list, int n, int w, int h) {
    struct bucket_choice c = {{0, 0}, 0, 0, 0, 0};
    if (!p->no_upscale || !keep_size(p, w, h, &c)) fit_size(list, n, w, h, &c);
    c.left = (c.w - c.bucket.w) / 2, c.top = (c.h - c.bucket.h) / 2;
    return c;
}

int bucket_epoch(const int *bucket_of, const int *repeats, size_t n, int n_buckets, int batch, uint64_t seed,
                 uint32_t *pictures, struct bucket_batch *batches) {
    struct arena *a = arena_create(NULL);
    struct rng rng;
    size_t total = 0, at = 0;
    int n_batches = 0;
    for (size_t i = 0; i < n; i++) total += (size_t)repeats[i];
    uint32_t *draw = arena_alloc_n(a, total, sizeof *draw), *flat = arena_alloc_n(a, total, sizeof *flat);
    struct bucket_batch *ordered = arena_alloc_n(a, total, sizeof *ordered);
    rng_seed(&rng, seed);
    for (int b = 0; b < n_buckets; b++) {
        size_t count = 0;
        for (size_t i = 0; i < n; i++)
            for (int r = 0; bucket_of[i] == b && r < repeats[i]; r++) flat[count++] = (uint32_t)i;
        if (!count) continue;
        rng_randperm(&rng, draw, count);
        for (size_t i = 0; i < count; i++) pictures[at + i] = flat[draw[i]];
        for (size_t i = 0; i < count; i += (size_t)batch) {
            size_t left = count - i;
            ordered[n_batches++] = (struct bucket_batch){b, (int)(at + i), left < (size_t)batch ? (int)left : batch};
        }
        at += count;
    }
    rng_randperm(&rng, draw, (size_t)n_batches);
    for (int i = 0; i < n_batches; i++) batches[i] = ordered[draw[i]];
    arena_destroy(&a);
    return n_batches;
}
