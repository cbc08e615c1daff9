#include "lora/eigen.h"

#include "base/arena.h"
#include "base/thread.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { PARALLEL_FROM = 256, MAX_ITERATIONS = 64 };

static void for_rows(size_t n, void (*fn)(void *, size_t, size_t), void *ctx) {
    if (n >= PARALLEL_FROM) thread_parallel_for(n, fn, ctx);
    else if (n) fn(ctx, 0, n);
}

static double dot(const double *a, const double *b, size_t n) {
    double s[4] = {0};
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (size_t k = 0; k < 4; k++) s[k] += a[i + k] * b[i + k];
    for (; i < n; i++) s[0] += a[i] * b[i];
    return (s[0] + s[1]) + (s[2] + s[3]);
}

/* A reflection I - beta v v' of the trailing size x size block, whose first element is block[0]. */
struct reflection {
    double *block, *v, *p;
    double beta;
    size_t n, size;
};

static void block_times_v(void *ctx, size_t begin, size_t end) {
    const struct reflection *h = ctx;
    for (size_t i = begin; i < end; i++) h->p[i] = h->beta * dot(h->block + i * h->n, h->v, h->size);
}

static void subtract_rank_2(void *ctx, size_t begin, size_t end) {
    const struct reflection *h = ctx;
    for (size_t i = begin; i < end; i++)
        for (size_t k = 0; k < h->size; k++) h->block[i * h->n + k] -= h->v[i] * h->p[k] + h->p[i] * h->v[k];
}

static void reflect_rows(void *ctx, size_t begin, size_t end) {
    const struct reflection *h = ctx;
    for (size_t i = begin; i < end; i++) {
        double *row = h->block + i * h->n, s = h->beta * dot(row, h->v, h->size);
        for (size_t k = 0; k < h->size; k++) row[k] -= s * h->v[k];
    }
}

/* x becomes v with (I - beta v v') x = -sign(x0)|x| e0, returned; beta 0 where there is nothing to do. */
static double reflector(double *x, size_t n, double *beta) {
    double norm = sqrt(dot(x, x, n)), x0 = x[0];
    *beta = 0;
    if (n < 2 || norm == fabs(x0)) return x0;
    double to = x0 > 0 ? -norm : norm;
    x[0] = x0 - to;
    *beta = 1 / (norm * (norm + fabs(x0)));
    return to;
}

/* m = Q T Q'. d, e: T's diagonal and what is beside it; row k of m keeps the k-th reflection; rows of z become Q'. */
static void tridiagonalise(double *m, size_t n, double *d, double *e, double *beta, double *p, double *z) {
    for (size_t k = 0; k < n; k++) {
        struct reflection h = {m + (k + 1) * n + k + 1, m + k * n + k + 1, p, 0, n, n - k - 1};
        d[k] = m[k * n + k], e[k] = 0, beta[k] = 0;
        if (!h.size) break;
        e[k] = reflector(h.v, h.size, &beta[k]);
        if (!(h.beta = beta[k])) continue;
        for_rows(h.size, block_times_v, &h);
        double half = h.beta / 2 * dot(p, h.v, h.size);
        for (size_t i = 0; i < h.size; i++) p[i] -= half * h.v[i];
        for_rows(h.size, subtract_rank_2, &h);
    }
    memset(z, 0, n * n * sizeof *z);
    for (size_t i = 0; i < n; i++) z[i * n + i] = 1;
    for (size_t k = n; k-- > 0;) { /* Q' = ... H1 H0, of which the rows and columns from k + 1 on differ from 1 */
        struct reflection h = {z + (k + 1) * n + k + 1, m + k * n + k + 1, NULL, beta[k], n, n - k - 1};
        if (h.beta) for_rows(h.size, reflect_rows, &h);
    }
}

/* One QL sweep with implicit shift over the unreduced block from..to. */
static void sweep(double *d, double *e, size_t n, double *z, size_t from, size_t to) {
    double g = (d[from + 1] - d[from]) / (2 * e[from]), r = hypot(g, 1), s = 1, c = 1, p = 0;
    g = d[to] - d[from] + e[from] / (g + copysign(r, g));
    for (size_t i = to; i-- > from;) {
        double f = s * e[i], b = c * e[i];
        e[i + 1] = r = hypot(f, g);
        if (r == 0) { /* the block falls apart */
            d[i + 1] -= p, e[to] = 0;
            return;
        }
        s = f / r, c = g / r;
        g = d[i + 1] - p;
        r = (d[i] - g) * s + 2 * c * b;
        p = s * r;
        d[i + 1] = g + p;
        g = c * r - b;
        double *low = z + i * n, *high = low + n;
        for (size_t k = 0; k < n; k++) {
            double x = low[k], y = high[k];
            high[k] = s * x + c * y, low[k] = c * x - s * y;
        }
    }
    d[from] -= p, e[from] = g, e[to] = 0;
}

static bool diagonalise(double *d, double *e, size_t n, double *z) {
    double size = 0;
    for (size_t i = 0; i < n; i++) size = fmax(size, fabs(d[i]) + fabs(e[i]));
    for (size_t l = 0; l < n; l++)
        for (int iteration = 0;; iteration++) {
            size_t m = l;
            while (m + 1 < n && fabs(e[m]) > DBL_EPSILON * (fabs(d[m]) + fabs(d[m + 1])) + DBL_EPSILON / 256 * size) m++;
            if (m == l) break;
            if (iteration == MAX_ITERATIONS) return false;
            sweep(d, e, n, z, l, m);
        }
    return true;
}

bool eigen_symmetric(double *m, size_t n, double *values, double *vectors) {
    struct arena *scratch = arena_create(NULL);
    double *d = arena_alloc_n(scratch, n, sizeof *d), *e = arena_alloc_n(scratch, n, sizeof *e);
    double *beta = arena_alloc_n(scratch, n, sizeof *beta), *p = arena_alloc_n(scratch, n, sizeof *p);
    double *z = arena_alloc_n(scratch, n * n, sizeof *z);
    tridiagonalise(m, n, d, e, beta, p, z);
    bool ok = diagonalise(d, e, n, z);
    for (size_t k = 0; ok && k < n; k++) {
        size_t best = 0; /* the largest that is left, the first of equals */
        for (size_t i = 1; i < n; i++)
            if (isnan(d[best]) || d[i] > d[best]) best = i;
        values[k] = d[best];
        memcpy(vectors + k * n, z + best * n, n * sizeof *z);
        d[best] = NAN;
    }
    arena_destroy(&scratch);
    return ok;
}
