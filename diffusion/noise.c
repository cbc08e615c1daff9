#include "diffusion/noise.h"

#include <math.h>

enum { MAX_ITERATIONS = 32 };

bool noise_params_check(const struct noise_params *p, struct error *e) {
    if (!(p->offset >= 0 && p->offset <= 10)) return error_set(e, "--noise-offset must lie from 0 to 10; 0.05 is usual.");
    if (p->offset_adaptive != 0 && !(p->offset > 0))
        return error_set(e, "--noise-offset-adaptive changes --noise-offset, which is not given.");
    if (p->offset_random && !(p->offset > 0)) return error_set(e, "--noise-offset-random needs --noise-offset.");
    if (p->pyramid_iterations < 0 || p->pyramid_iterations > MAX_ITERATIONS)
        return error_set(e, "--pyramid-iterations must lie from 0 to %d; 6 to 10 are usual.", MAX_ITERATIONS);
    if (p->pyramid_iterations && !(p->pyramid_discount > 0 && p->pyramid_discount < 1))
        return error_set(e, "--pyramid-discount must lie between 0 and 1; 0.3 is usual.");
    if (!(p->perturbation >= 0 && p->perturbation <= 10))
        return error_set(e, "--input-perturbation must lie from 0 to 10; 0.1 is usual.");
    if (p->perturbation_random && !(p->perturbation > 0))
        return error_set(e, "--input-perturbation-random needs --input-perturbation.");
    return true;
}

static float uniform(struct rng *rng) {
    float u;
    rng_rand(rng, &u, 1);
    return u;
}

static float channel_mean(const float *latents, const struct noise_size *s, int image, int c) {
    double sum = 0;
    const float *x = latents + (size_t)image * (size_t)(s->h * s->w) * (size_t)s->c;
    for (int i = 0; i < s->h * s->w; i++) sum += (double)x[i * s->c + c];
    return (float)(sum / (s->h * s->w));
}

static void add_offset(const struct noise_params *p, struct rng *rng, float *noise, const float *latents,
                       const struct noise_size *s) {
    float strength = p->offset * (p->offset_random ? uniform(rng) : 1), shift[16];
    for (int image = 0; image < s->n; image++)
        for (int first = 0; first < s->c; first += 16) {
            int count = s->c - first < 16 ? s->c - first : 16;
            rng_randn(rng, shift, (size_t)count);
            for (int k = 0; k < count; k++) {
                float o = strength;
                if (p->offset_adaptive != 0)
                    o = fmaxf(0, o + p->offset_adaptive * fabsf(channel_mean(latents, s, image, first + k)));
                for (int i = 0; i < s->h * s->w; i++)
                    noise[((size_t)image * (size_t)(s->h * s->w) + (size_t)i) * (size_t)s->c + (size_t)(first + k)] +=
                        o * shift[k];
            }
        }
}

/* The two source pixels of a target pixel and the second one's weight. */
static float taps(int at, int from, int to, int tap[2]) {
    float x = fmaxf(0, ((float)at + 0.5f) * ((float)from / (float)to) - 0.5f);
    tap[0] = (int)x < from - 1 ? (int)x : from - 1;
    tap[1] = tap[0] < from - 1 ? tap[0] + 1 : tap[0];
    return x - (float)tap[0];
}

void noise_add_scaled(float *dst, const struct noise_size *s, const float *field, int fh, int fw, float weight) {
    for (int row = 0; row < s->n * s->h; row++) {
        int image = row / s->h, ty[2], tx[2];
        float v = taps(row % s->h, fh, s->h, ty);
        const float *f = field + (size_t)image * (size_t)(fh * fw) * (size_t)s->c;
        for (int x = 0; x < s->w; x++) {
            float u = taps(x, fw, s->w, tx);
            float *d = dst + ((size_t)row * (size_t)s->w + (size_t)x) * (size_t)s->c;
            for (int c = 0; c < s->c; c++) {
                float top = (1 - u) * f[(ty[0] * fw + tx[0]) * s->c + c] + u * f[(ty[0] * fw + tx[1]) * s->c + c];
                float low = (1 - u) * f[(ty[1] * fw + tx[0]) * s->c + c] + u * f[(ty[1] * fw + tx[1]) * s->c + c];
                d[c] += weight * ((1 - v) * top + v * low);
            }
        }
    }
}

static void divide_by_deviation(float *x, size_t n) {
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) sum += (double)x[i];
    double mean = sum / (double)n;
    for (size_t i = 0; i < n; i++) squares += ((double)x[i] - mean) * ((double)x[i] - mean);
    float factor = (float)(1 / sqrt(squares / (double)(n - 1)));
    for (size_t i = 0; i < n; i++) x[i] *= factor;
}

static void add_pyramid(const struct noise_params *p, struct rng *rng, float *noise, const struct noise_size *s, float *field) {
    float weight = 1;
    for (int i = 0; i < p->pyramid_iterations; i++, weight *= p->pyramid_discount) {
        double shrink = pow(2 + 2 * (double)uniform(rng), i);
        int h = (int)(s->h / shrink), w = (int)(s->w / shrink);
        h = h < 1 ? 1 : h, w = w < 1 ? 1 : w;
        rng_randn(rng, field, (size_t)(s->n * h * w) * (size_t)s->c);
        noise_add_scaled(noise, s, field, h, w, weight);
        if (h == 1 || w == 1) break;
    }
    divide_by_deviation(noise, (size_t)(s->n * s->h * s->w) * (size_t)s->c);
}

void noise_shape(const struct noise_params *p, struct rng *rng, float *noise, const float *latents, const struct noise_size *s,
                 float *room) {
    if (p->offset > 0) add_offset(p, rng, noise, latents, s);
    if (p->pyramid_iterations) add_pyramid(p, rng, noise, s, room);
}

void noise_perturb(const struct noise_params *p, struct rng *rng, float *dst, const float *noise, size_t n) {
    float strength = p->perturbation * (p->perturbation_random ? uniform(rng) : 1);
    rng_randn(rng, dst, n);
    for (size_t i = 0; i < n; i++) dst[i] = noise[i] + strength * dst[i];
}
