#include "lora/svd.h"

#include "base/arena.h"
#include "lora/eigen.h"

#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base/thread.h"

/* ---- Products, every number by one thread in one order ---- */

struct gram {
    const double *rows;
    double *g;
    size_t n, length;
};

static double dot(const double *a, const double *b, size_t n) {
    double s[4] = {0}; /* four sums: the compiler may not reorder one */
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (size_t k = 0; k < 4; k++) s[k] += a[i + k] * b[i + k];
    for (; i < n; i++) s[0] += a[i] * b[i];
    return (s[0] + s[1]) + (s[2] + s[3]);
}

static void gram_rows(void *ctx, size_t begin, size_t end) {
    const struct gram *g = ctx;
    for (size_t i = begin; i < end; i++)
        for (size_t k = 0; k <= i; k++)
            g->g[i * g->n + k] = g->g[k * g->n + i] = dot(g->rows + i * g->length, g->rows + k * g->length, g->length);
}

struct product {
    const double *a, *b;
    double *c;
    size_t inner, columns;
};

static void product_rows(void *ctx, size_t begin, size_t end) {
    const struct product *p = ctx;
    for (size_t r = begin; r < end; r++) {
        double *c = p->c + r * p->columns;
        memset(c, 0, p->columns * sizeof *c);
        for (size_t k = 0; k < p->inner; k++) {
            double factor = p->a[r * p->inner + k];
            const double *b = p->b + k * p->columns;
            for (size_t i = 0; factor != 0 && i < p->columns; i++) c[i] += factor * b[i];
        }
    }
}

/* c[rows][columns] = a[rows][inner] * b[inner][columns] */
static void product(double *c, const double *a, const double *b, size_t rows, size_t inner, size_t columns) {
    struct product p = {a, b, c, inner, columns};
    thread_parallel_for(rows, product_rows, &p);
}

static double *transposed(const double *m, size_t rows, size_t columns, struct arena *a) {
    double *t = arena_alloc_n(a, rows * columns, sizeof *t);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < columns; c++) t[c * rows + r] = m[r * columns + c];
    return t;
}

static double *widened(const float *x, size_t n, struct arena *a, struct error *e) {
    double *wide = arena_alloc_n(a, n, sizeof *wide);
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(x[i])) return error_set(e, "holds numbers that are not finite"), NULL;
        wide[i] = x[i];
    }
    return wide;
}

/* ---- Decomposition ---- */

/* Of s->matrix[rows][columns]. */
static bool decompose(struct lora_svd *s, struct error *e) {
    bool tall = s->rows > s->columns;
    size_t n = tall ? s->columns : s->rows;
    struct arena *scratch = arena_create(NULL);
    double *g = arena_alloc_n(scratch, n * n, sizeof *g);
    struct gram job = {tall ? transposed(s->matrix, s->rows, n, scratch) : s->matrix, g, n, tall ? s->rows : s->columns};
    thread_parallel_for(n, gram_rows, &job);
    double *vectors = arena_alloc_n(s->arena, n * n, sizeof *vectors);
    s->n = n, s->vectors = vectors;
    s->sigma = arena_alloc_n(s->arena, n, sizeof *s->sigma);
    bool ok = eigen_symmetric(g, n, s->sigma, vectors);
    for (size_t i = 0; i < n; i++) s->sigma[i] = sqrt(fmax(s->sigma[i], 0));
    arena_destroy(&scratch);
    return ok || error_set(e, "has singular values that cannot be found");
}

bool lora_svd_dense(struct lora_svd *s, const float *d, size_t out, size_t in, struct arena *a, struct error *e) {
    *s = (struct lora_svd){.out = out, .in = in, .arena = a, .rows = out, .columns = in};
    return (s->matrix = widened(d, out * in, a, e)) && decompose(s, e);
}

/* Rows become orthonormal, or zero where they depend on earlier ones; row j was the sum over i of r[i][j] * row i. Each
 * row is cleared of the others twice, which is enough (Giraud and others, 2005). */
static void orthonormalise(double *rows, size_t n, size_t length, double *r) {
    for (size_t j = 0; j < n; j++) {
        double *row = rows + j * length, before = sqrt(dot(row, row, length));
        for (int pass = 0; pass < 2; pass++)
            for (size_t i = 0; i < j; i++) {
                const double *q = rows + i * length;
                double along = dot(q, row, length);
                r[i * n + j] += along;
                for (size_t k = 0; k < length; k++) row[k] -= along * q[k];
            }
        double norm = sqrt(dot(row, row, length));
        bool dependent = norm <= 1e-14 * before;
        if (!dependent) r[j * n + j] = norm;
        for (size_t k = 0; k < length; k++) row[k] = dependent ? 0 : row[k] / norm;
    }
}

bool lora_svd_product(struct lora_svd *s, const float *up, const float *down, size_t out, size_t rank, size_t in,
                      struct arena *a, struct error *e) {
    *s = (struct lora_svd){.out = out, .in = in, .arena = a};
    double *u = widened(up, out * rank, a, e), *v = u ? widened(down, rank * in, a, e) : NULL;
    if (!v) return false;
    if (rank >= out || rank >= in) { /* no smaller core */
        double *d = arena_alloc_n(a, out * in, sizeof *d);
        product(d, u, v, out, rank, in);
        s->matrix = d, s->rows = out, s->columns = in;
        return decompose(s, e);
    }
    struct arena *scratch = arena_create(NULL);
    double *left = transposed(u, out, rank, a), *ru = arena_alloc_n(scratch, rank * rank, sizeof *ru);
    double *rv = arena_alloc_n(scratch, rank * rank, sizeof *rv), *core = arena_alloc_n(a, rank * rank, sizeof *core);
    orthonormalise(left, rank, out, ru);
    orthonormalise(v, rank, in, rv);
    product(core, ru, transposed(rv, rank, rank, scratch), rank, rank, rank);
    arena_destroy(&scratch);
    s->left = left, s->right = v, s->matrix = core, s->rows = s->columns = rank;
    return decompose(s, e);
}

/* ---- Factors ---- */

/* Of the matrix or core: columns of U as rows u[rank][rows], with sigma in them, and v[rank][columns]. */
static void cut(const struct lora_svd *s, size_t rank, double *u, double *v, struct arena *a) {
    bool tall = s->rows > s->columns;
    double *known = tall ? v : u, *found = tall ? u : v;
    size_t length = tall ? s->rows : s->columns;
    const double *other = tall ? transposed(s->matrix, s->rows, s->columns, a) : s->matrix;
    memcpy(known, s->vectors, rank * s->n * sizeof *known);
    product(found, known, other, rank, s->n, length);
    for (size_t k = 0; !tall && k < rank; k++) {
        double *row = v + k * length, sigma = sqrt(dot(row, row, length));
        for (size_t i = 0; i < length; i++) row[i] = sigma > 0 ? row[i] / sigma : 0;
        for (size_t i = 0; i < s->rows; i++) u[k * s->rows + i] *= sigma;
    }
}

void lora_svd_factors(const struct lora_svd *s, size_t rank, float *up, float *down) {
    assert(rank >= 1);
    size_t n = rank < s->n ? rank : s->n;
    struct arena *scratch = arena_create(NULL);
    double *u = arena_alloc_n(scratch, n * s->rows, sizeof *u), *v = arena_alloc_n(scratch, n * s->columns, sizeof *v);
    cut(s, n, u, v, scratch);
    if (s->left) {
        double *wide_u = arena_alloc_n(scratch, n * s->out, sizeof *u), *wide_v = arena_alloc_n(scratch, n * s->in, sizeof *v);
        product(wide_u, u, s->left, n, s->rows, s->out);
        product(wide_v, v, s->right, n, s->columns, s->in);
        u = wide_u, v = wide_v;
    }
    memset(up, 0, s->out * rank * sizeof *up);
    memset(down, 0, rank * s->in * sizeof *down);
    for (size_t k = 0; k < n; k++) {
        for (size_t o = 0; o < s->out; o++) up[o * rank + k] = (float)u[k * s->out + o];
        for (size_t i = 0; i < s->in; i++) down[k * s->in + i] = (float)v[k * s->in + i];
    }
    arena_destroy(&scratch);
}

/* ---- Rank ---- */

/* The first index whose running sum of sigma^power reaches a share of the total, plus 1. */
static size_t reach(const struct lora_svd *s, int power, double share) {
    double total = 0, sum = 0;
    for (size_t i = 0; i < s->n; i++) total += power == 2 ? s->sigma[i] * s->sigma[i] : s->sigma[i];
    for (size_t i = 0; i < s->n; i++) {
        sum += power == 2 ? s->sigma[i] * s->sigma[i] : s->sigma[i];
        if (sum >= share * total) return i + 1;
    }
    return s->n;
}

static size_t above(const struct lora_svd *s, double least) {
    size_t n = 0;
    while (n < s->n && s->sigma[n] > least) n++;
    return n;
}

int lora_svd_rank(const struct lora_svd *s, const struct lora_rank_rule *rule) {
    size_t rank = s->n;
    if (s->sigma[0] == 0) rank = 1;
    else if (rule->by == LORA_RANK_NUMERICAL) rank = above(s, 1e-7 * s->sigma[0]);
    else if (rule->by == LORA_RANK_RATIO) rank = above(s, s->sigma[0] / rule->q) + 1;
    else if (rule->by == LORA_RANK_CUMULATIVE) rank = reach(s, 1, rule->q);
    else if (rule->by == LORA_RANK_FRO) rank = reach(s, 2, rule->q * rule->q);
    if (rank > s->n) rank = s->n;
    if (rule->max > 0 && rank > (size_t)rule->max) rank = (size_t)rule->max;
    return rank < 1 ? 1 : (int)rank;
}

void lora_svd_kept(const struct lora_svd *s, int rank, double *sum, double *fro) {
    double part[2] = {0}, total[2] = {0};
    for (size_t i = 0; i < s->n; i++) {
        double x[2] = {s->sigma[i], s->sigma[i] * s->sigma[i]};
        for (int k = 0; k < 2; k++) total[k] += x[k], part[k] += i < (size_t)rank ? x[k] : 0;
    }
    *sum = total[0] > 0 ? part[0] / total[0] : 1;
    *fro = total[1] > 0 ? sqrt(part[1] / total[1]) : 1;
}
