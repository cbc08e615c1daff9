#include "lora/dense.h"

#include "base/arena.h"
#include "base/thread.h"

/* Columns at a time, and products summed in f32 before they go to a double. */
enum { WIDTH = 64, RUN = 16 };

struct product {
    float *c;
    const float *a, *b;
    size_t inner, columns;
};

/* The width is a constant for the compiler's sake. */
static void add_full(float *sum, const float *b, float a) {
    for (int j = 0; j < WIDTH; j++) sum[j] += a * b[j];
}

static void add_part(float *sum, const float *b, float a, size_t n) {
    for (size_t j = 0; j < n; j++) sum[j] += a * b[j];
}

static void product_tile(const struct product *p, size_t row, size_t from, size_t n) {
    double total[WIDTH] = {0};
    const float *a = p->a + row * p->inner;
    for (size_t k = 0; k < p->inner;) {
        float sum[WIDTH] = {0};
        for (size_t end = k + RUN < p->inner ? k + RUN : p->inner; k < end; k++)
            if (n == WIDTH) add_full(sum, p->b + k * p->columns + from, a[k]);
            else add_part(sum, p->b + k * p->columns + from, a[k], n);
        for (int j = 0; j < WIDTH; j++) total[j] += sum[j];
    }
    for (size_t j = 0; j < n; j++) p->c[row * p->columns + from + j] = (float)total[j];
}

static void product_rows(void *ctx, size_t begin, size_t end) {
    const struct product *p = ctx;
    for (size_t from = 0; from < p->columns; from += WIDTH)
        for (size_t row = begin; row < end; row++)
            product_tile(p, row, from, p->columns - from < WIDTH ? p->columns - from : WIDTH);
}

void lora_dense_product(float *c, const float *a, const float *b, size_t rows, size_t inner, size_t columns) {
    struct product p = {c, a, b, inner, columns};
    thread_parallel_for(rows, product_rows, &p);
}

void lora_dense_transpose(float *dst, const float *src, size_t rows, size_t columns) {
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < columns; c++) dst[c * rows + r] = src[r * columns + c];
}

void lora_dense_taps_first(float *dst, const float *src, size_t rows, size_t inner, size_t taps) {
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < inner; i++)
            for (size_t t = 0; t < taps; t++) dst[(t * rows + r) * inner + i] = src[(r * inner + i) * taps + t];
}

void lora_dense_taps_last(float *dst, const float *src, size_t rows, size_t inner, size_t taps) {
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < inner; i++)
            for (size_t t = 0; t < taps; t++) dst[(r * inner + i) * taps + t] = src[(t * rows + r) * inner + i];
}

float *lora_dense_read(const struct st_tensor *t, struct arena *a, struct error *e) {
    size_t n = st_tensor_elements(t);
    float *values = arena_alloc_n(a, n, sizeof *values);
    return st_read_f32(t, values, n, e) ? values : NULL;
}

bool lora_dense_read_rows(const struct st_tensor *t, struct shape weight, float *rows, struct error *e) {
    if (weight.n == 1) return st_read_f32(t, rows, (size_t)shape_elems(weight), e);
    struct arena *scratch = arena_create(NULL);
    float *raw = lora_dense_read(t, scratch, e);
    if (raw) lora_dense_taps_first(rows, raw, (size_t)weight.w, (size_t)weight.c, (size_t)weight.n);
    arena_destroy(&scratch);
    return raw != NULL;
}
