#include "io/image.h"
#include "base/arena.h"
#include "base/thread.h"

#include <math.h>
#include <string.h>

/* Weights are fixed point: 8 bits of value, up to 2 bits of overshoot, the rest is fraction. */
enum { FRACTION_BITS = 22 };

static const double LOBES = 3;

static double sinc(double x) { return x == 0 ? 1 : sin(x * M_PI) / (x * M_PI); }

static double lanczos(double x) { return x >= -LOBES && x < LOBES ? sinc(x) * sinc(x / LOBES) : 0; }

/* For one axis: output i is the weighted sum of inputs first[i] .. first[i] + count[i] - 1. */
struct taps {
    int *first, *count, width;
    int32_t *weight; /* [outputs][width] */
};

static struct taps taps_make(struct arena *a, int in, int out) {
    double scale = (double)in / out, widen = scale < 1 ? 1 : scale, reach = LOBES * widen;
    struct taps t = {.width = (int)ceil(reach) * 2 + 1};
    t.first = arena_alloc_n(a, (size_t)out, sizeof *t.first);
    t.count = arena_alloc_n(a, (size_t)out, sizeof *t.count);
    t.weight = arena_alloc_n(a, (size_t)out * (size_t)t.width, sizeof *t.weight);
    double *w = arena_alloc_n(a, (size_t)t.width, sizeof *w);
    for (int i = 0; i < out; i++) {
        double centre = (i + 0.5) * scale, sum = 0;
        int lo = (int)(centre - reach + 0.5), hi = (int)(centre + reach + 0.5);
        if (lo < 0) lo = 0;
        if (hi > in) hi = in;
        for (int k = 0; k < hi - lo; k++) sum += w[k] = lanczos((k + lo - centre + 0.5) * (1 / widen));
        for (int k = 0; k < hi - lo; k++) {
            double v = (sum != 0 ? w[k] / sum : w[k]) * (1 << FRACTION_BITS);
            t.weight[(size_t)i * (size_t)t.width + (size_t)k] = (int32_t)(v < 0 ? v - 0.5 : v + 0.5);
        }
        t.first[i] = lo;
        t.count[i] = hi - lo;
    }
    return t;
}

struct pass {
    const struct image *src;
    struct image dst;
    struct taps taps;
};

static uint8_t clip(int32_t v) {
    v >>= FRACTION_BITS;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

static void rows_horizontal(void *ctx, size_t begin, size_t end) {
    const struct pass *p = ctx;
    for (size_t y = begin; y < end; y++) {
        const uint8_t *row = p->src->rgb + y * (size_t)p->src->w * 3;
        uint8_t *out = p->dst.rgb + y * (size_t)p->dst.w * 3;
        for (int x = 0; x < p->dst.w; x++, out += 3) {
            const uint8_t *in = row + 3 * (size_t)p->taps.first[x];
            const int32_t *w = p->taps.weight + (size_t)x * (size_t)p->taps.width;
            int32_t r = 1 << (FRACTION_BITS - 1), g = r, b = r;
            for (int k = 0; k < p->taps.count[x]; k++, in += 3) {
                r += in[0] * w[k];
                g += in[1] * w[k];
                b += in[2] * w[k];
            }
            out[0] = clip(r);
            out[1] = clip(g);
            out[2] = clip(b);
        }
    }
}

static void rows_vertical(void *ctx, size_t begin, size_t end) {
    const struct pass *p = ctx;
    size_t stride = (size_t)p->dst.w * 3;
    for (size_t y = begin; y < end; y++) {
        const uint8_t *top = p->src->rgb + (size_t)p->taps.first[y] * stride;
        const int32_t *w = p->taps.weight + y * (size_t)p->taps.width;
        uint8_t *out = p->dst.rgb + y * stride;
        for (size_t x = 0; x < stride; x++) {
            int32_t sum = 1 << (FRACTION_BITS - 1);
            for (int k = 0; k < p->taps.count[y]; k++) sum += top[(size_t)k * stride + x] * w[k];
            out[x] = clip(sum);
        }
    }
}

struct image image_resize(struct arena *a, const struct image *src, int w, int h) {
    struct arena *scratch = arena_create(NULL);
    struct image mid = *src, out;
    if (w != src->w) {
        struct pass p = {src, image_create(h == src->h ? a : scratch, w, src->h), taps_make(scratch, src->w, w)};
        thread_parallel_for((size_t)src->h, rows_horizontal, &p);
        mid = p.dst;
    }
    if (h != src->h) {
        struct pass p = {&mid, image_create(a, w, h), taps_make(scratch, src->h, h)};
        thread_parallel_for((size_t)h, rows_vertical, &p);
        out = p.dst;
    } else {
        out = mid;
        if (w == src->w) { /* same size: still a copy of its own */
            out = image_create(a, w, h);
            memcpy(out.rgb, src->rgb, (size_t)w * (size_t)h * 3);
        }
    }
    arena_destroy(&scratch);
    return out;
}

struct image image_resize_cover(struct arena *a, const struct image *src, int w, int h) {
    double sx = (double)w / src->w, sy = (double)h / src->h, scale = sx > sy ? sx : sy;
    int rw = (int)(src->w * scale + 0.5), rh = (int)(src->h * scale + 0.5);
    if (rw < w) rw = w;
    if (rh < h) rh = h;
    if (rw <= IMAGE_MAX_SIDE && rh <= IMAGE_MAX_SIDE) {
        struct arena *scratch = arena_create(NULL);
        struct image big = image_resize(scratch, src, rw, rh);
        struct image out = image_crop(a, &big, (rw - w) / 2, (rh - h) / 2, w, h);
        arena_destroy(&scratch);
        return out;
    }
    /* A sliver: cutting first keeps the intermediate small. */
    int cw = (int)(w / scale + 0.5), ch = (int)(h / scale + 0.5);
    cw = cw < 1 ? 1 : cw > src->w ? src->w : cw;
    ch = ch < 1 ? 1 : ch > src->h ? src->h : ch;
    struct arena *scratch = arena_create(NULL);
    struct image cut = image_crop(scratch, src, (src->w - cw) / 2, (src->h - ch) / 2, cw, ch);
    struct image out = image_resize(a, &cut, w, h);
    arena_destroy(&scratch);
    return out;
}
