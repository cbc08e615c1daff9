#include "lora/rotation.h"

#include "base/arena.h"
#include "base/thread.h"
#include "lora/dense.h"

#include <assert.h>
#include <math.h>
#include <string.h>

static void swap_rows(double *a, double *x, size_t b, size_t i, size_t j) {
    for (size_t k = 0; i != j && k < b; k++) {
        double t = a[i * b + k];
        a[i * b + k] = a[j * b + k], a[j * b + k] = t;
        t = x[i * b + k];
        x[i * b + k] = x[j * b + k], x[j * b + k] = t;
    }
}

static void subtract(double *dst, const double *src, double factor, size_t from, size_t n) {
    for (size_t k = from; k < n; k++) dst[k] -= factor * src[k];
}

/* x = a^-1 x by Gauss and Jordan with pivots; a is lost. I - Q has no eigenvalue below 1, so there is an inverse. */
static void solve(double *a, double *x, size_t b) {
    for (size_t c = 0; c < b; c++) {
        size_t pivot = c;
        for (size_t r = c + 1; r < b; r++)
            if (fabs(a[r * b + c]) > fabs(a[pivot * b + c])) pivot = r;
        swap_rows(a, x, b, c, pivot);
        double inverse = 1 / a[c * b + c];
        for (size_t k = 0; k < b; k++) a[c * b + k] *= inverse, x[c * b + k] *= inverse;
        for (size_t r = 0; r < b; r++) {
            double factor = a[r * b + c];
            if (r == c || factor == 0) continue;
            subtract(a + r * b, a + c * b, factor, c, b);
            subtract(x + r * b, x + c * b, factor, 0, b);
        }
    }
}

/* R - I = 2Q(I - Q)^-1 = (I - Q)^-1 2Q, since the two commute. */
void lora_rotation_cayley(double *r, const double *q, size_t b, bool invert) {
    struct arena *scratch = arena_create(NULL);
    double *a = arena_alloc_n(scratch, b * b, sizeof *a), sign = invert ? -1 : 1;
    for (size_t i = 0; i < b * b; i++) {
        a[i] = (i % (b + 1) == 0) - sign * q[i];
        r[i] = 2 * sign * q[i];
    }
    solve(a, r, b);
    arena_destroy(&scratch);
}

static void multiply(double *c, const double *a, const double *b, size_t n) {
    memset(c, 0, n * n * sizeof *c);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < n; k++) subtract(c + i * n, b + k * n, -a[i * n + k], 0, n);
}

void lora_rotation_series(double *r, const double *q, size_t b, int terms) {
    struct arena *scratch = arena_create(NULL);
    double *power = arena_alloc_n(scratch, b * b, sizeof *power), *next = arena_alloc_n(scratch, b * b, sizeof *next);
    memset(r, 0, b * b * sizeof *r);
    memcpy(power, q, b * b * sizeof *power);
    for (int t = 1; t < terms; t++) {
        /* The last power counts once, but where there are at most three terms it comes one later. */
        for (size_t i = 0; i < b * b; i++) r[i] += power[i] * (t == terms - 1 && t > 2 ? 1 : 2);
        multiply(next, power, q, b);
        double *t2 = power;
        power = next, next = t2;
    }
    if (terms == 3)
        for (size_t i = 0; i < b * b; i++) r[i] += power[i];
    arena_destroy(&scratch);
}

struct job {
    const struct lora_rotation *rotation;
    const float *r, *base;
    float *d;
    size_t rows, columns;
};

static size_t row_at(const struct job *job, size_t tap, size_t place) {
    return tap * job->rows + (job->rotation->row_of ? job->rotation->row_of[place] : place);
}

/* Blocks [begin, end) counted through all taps. */
static void turn_blocks(void *ctx, size_t begin, size_t end) {
    const struct job *job = ctx;
    size_t b = job->rotation->b, c = job->columns;
    struct arena *scratch = arena_create(NULL);
    float *x = arena_alloc_n(scratch, b * c, sizeof *x), *y = arena_alloc_n(scratch, b * c, sizeof *y);
    for (size_t at = begin; at < end; at++) {
        size_t block = at % job->rotation->n, tap = at / job->rotation->n;
        for (size_t i = 0; i < b; i++) {
            size_t row = row_at(job, tap, block * b + i);
            for (size_t k = 0; k < c; k++) x[i * c + k] = job->base[row * c + k] + job->d[row * c + k];
        }
        lora_dense_product(y, job->r + block * b * b, x, b, b, c);
        for (size_t i = 0; i < b; i++) {
            float *d = job->d + row_at(job, tap, block * b + i) * c;
            for (size_t k = 0; k < c; k++) d[k] += y[i * c + k];
        }
    }
    arena_destroy(&scratch);
}

void lora_rotation_apply(const struct lora_rotation *rotation, struct shape shape, const float *base, float *d) {
    size_t b = rotation->b, n = rotation->n * b * b;
    assert(rotation->n * b == (size_t)shape.w && shape.h == 1);
    struct arena *scratch = arena_create(NULL);
    float *r = arena_alloc_n(scratch, n, sizeof *r);
    for (size_t i = 0; i < n; i++) r[i] = (float)rotation->r[i];
    struct job job = {rotation, r, base, d, (size_t)shape.w, (size_t)shape.c};
    thread_parallel_for(rotation->n * (size_t)shape.n, turn_blocks, &job);
    arena_destroy(&scratch);
}
