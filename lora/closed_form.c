#include "lora/closed_form.h"

#include <math.h>
#include <string.h>

#include "base/arena.h"
#include "base/thread.h"

/* Lower triangle of a symmetric positive matrix to its Cholesky factor. False where a pivot falls below `least` of the largest
 * diagonal. */
static bool factorise(double *m, int n, double least) {
    double largest = 0;
    for (int i = 0; i < n; i++) largest = fmax(largest, m[(size_t)i * (size_t)n + (size_t)i]);
    for (int i = 0; i < n; i++) {
        double *row = m + (size_t)i * (size_t)n;
        for (int k = 0; k <= i; k++) {
            const double *other = m + (size_t)k * (size_t)n;
            double sum = row[k];
            for (int j = 0; j < k; j++) sum -= row[j] * other[j];
            if (k < i) row[k] = sum / other[k];
            else if (!(sum > largest * least)) return false;
            else row[k] = sqrt(sum);
        }
    }
    return true;
}

/* One right side, in place. */
static void solve(const double *factor, int n, double *x, int stride) {
    size_t s = (size_t)stride;
    for (int i = 0; i < n; i++) {
        const double *row = factor + (size_t)i * (size_t)n;
        double sum = x[(size_t)i * s];
        for (int j = 0; j < i; j++) sum -= row[j] * x[(size_t)j * s];
        x[(size_t)i * s] = sum / row[i];
    }
    for (int i = n; i-- > 0;) {
        double sum = x[(size_t)i * s];
        for (int j = i + 1; j < n; j++) sum -= factor[(size_t)j * (size_t)n + (size_t)i] * x[(size_t)j * s];
        x[(size_t)i * s] = sum / factor[(size_t)i * (size_t)n + (size_t)i];
    }
}

struct task {
    const double *factor;
    double *x;
    int width;
};

static void solve_rows(void *ctx, size_t begin, size_t end) {
    const struct task *t = ctx;
    for (size_t i = begin; i < end; i++) solve(t->factor, t->width, t->x + i * (size_t)t->width, 1);
}

static double dot(const double *a, const double *b, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

bool lora_closed_form_solve(struct lora_closed_form *f, double *gram, struct arena *a, struct error *e) {
    size_t width = (size_t)f->width, n = (size_t)f->n;
    double trace = 0;
    for (size_t i = 0; i < width; i++) trace += gram[i * width + i];
    for (size_t i = 0; i < width; i++) gram[i * width + i] += 1e-6 * trace / (double)width;
    if (!factorise(gram, f->width, 0))
        return error_set(e, "The regularisation captions' features are all zero or not finite, which no text encoder makes.");
    f->duals = arena_alloc_n(a, n, width * sizeof *f->duals);
    memcpy(f->duals, f->features, n * width * sizeof *f->duals);
    struct task task = {gram, f->duals, f->width}; /* D, row by row: R is symmetric */
    thread_parallel_for(n, solve_rows, &task);
    double *products = arena_alloc_n(a, n, n * sizeof *products); /* D C^T, symmetric too */
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < n; k++) products[i * n + k] = dot(f->duals + i * width, f->features + k * width, f->width);
    if (!factorise(products, f->n, 1e-10))
        return error_set(e, "The captions of --prompt ask for things that follow from each other: give each "
                            "LoRA's own words alone, such as "
                            "\"<new1> cat\".");
    for (size_t c = 0; c < width; c++) solve(products, f->n, f->duals + c, f->width);
    return true;
}

void lora_closed_form_apply(const struct lora_closed_form *f, int file, float *rows, size_t n) {
    struct arena *a = arena_create(NULL);
    size_t width = (size_t)f->width;
    double *sum = arena_alloc_n(a, width, sizeof *sum);
    for (size_t r = 0; r < n; r++) {
        float *row = rows + r * width;
        memset(sum, 0, width * sizeof *sum);
        for (int t = 0; t < f->n; t++) {
            if (f->files[t] != file) continue;
            const double *c = f->features + (size_t)t * width, *x = f->duals + (size_t)t * width;
            double answer = 0;
            for (size_t i = 0; i < width; i++) answer += c[i] * (double)row[i];
            for (size_t i = 0; i < width; i++) sum[i] += answer * x[i];
        }
        for (size_t i = 0; i < width; i++) row[i] = (float)sum[i];
    }
    arena_destroy(&a);
}
