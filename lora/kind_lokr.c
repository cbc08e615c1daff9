/* LoKr: dW = s * kron(w1, w2), either factor whole, a product, or (w2) with a Tucker core. s is alpha/r, but 1 where
 * both are whole (PEFT's settings: alpha/r all the same). (LyCORIS' lokr) */
#include "lora/dense.h"
#include "lora/file.h"

#include "base/arena.h"
#include "base/thread.h"

enum { W1, W1_A, W1_B, W2, W2_A, W2_B, T2, MAGNITUDE, BIAS };

struct factors {
    struct lora_piece piece[2];
    struct lora_piece_size size[2];
};

static bool measure(const struct lora_module *m, struct factors *f) {
    const struct st_tensor *const *t = m->tensors;
    f->piece[0] = (struct lora_piece){.whole = t[W1], .a = t[W1_A], .b = t[W1_B]};
    f->piece[1] = (struct lora_piece){.whole = t[W2], .a = t[W2_A], .b = t[W2_B], .t = t[T2]};
    return lora_piece_measure(&f->piece[0], 1, &f->size[0]) &&
           lora_piece_measure(&f->piece[1], m->target ? (size_t)m->target->weight.n : 0, &f->size[1]);
}

static bool fit(struct lora_module *m, struct error *e) {
    struct factors f;
    if (!measure(m, &f)) return error_set(e, "has factors that do not belong together or to the layer's kernel");
    m->rank = (int)(f.size[0].rank ? f.size[0].rank : f.size[1].rank);
    if (!m->target) return true;
    struct shape w = m->target->weight;
    size_t rows = f.size[0].rows * f.size[1].rows, columns = f.size[0].columns * f.size[1].columns;
    if (rows == (size_t)w.w && columns == (size_t)w.c) return true;
    return error_set(e, "is made for a layer of %zu to %zu channels; the model's has %d to %d", columns, rows, w.c, w.w);
}

struct kron {
    const struct factors *f;
    const float *w1, *w2;
    float *dw, scale;
};

/* Rows [begin, end) of all taps' rows. */
static void kron_rows(void *ctx, size_t begin, size_t end) {
    const struct kron *k = ctx;
    const struct lora_piece_size *a = &k->f->size[0], *b = &k->f->size[1];
    size_t out = a->rows * b->rows, in = a->columns * b->columns;
    for (size_t r = begin; r < end; r++) {
        size_t tap = r / out, o = r % out;
        const float *left = k->w1 + o / b->rows * a->columns, *right = k->w2 + (tap * b->rows + o % b->rows) * b->columns;
        float *row = k->dw + r * in;
        for (size_t i = 0; i < a->columns; i++)
            for (size_t j = 0; j < b->columns; j++) *row++ = left[i] * k->scale * right[j];
    }
}

static bool delta(const struct lora_module *m, const float *base, float *dw, struct error *e) {
    struct factors f;
    if (!measure(m, &f)) return error_set(e, "has factors that do not belong together");
    struct arena *scratch = arena_create(NULL);
    float *w1 = arena_alloc_n(scratch, f.size[0].rows * f.size[0].columns, sizeof *w1);
    float *w2 = arena_alloc_n(scratch, f.size[1].rows * f.size[1].columns * f.size[1].taps, sizeof *w2);
    bool ok = lora_piece_build(&f.piece[0], &f.size[0], w1, e) && lora_piece_build(&f.piece[1], &f.size[1], w2, e);
    struct kron k = {&f, w1, w2, dw, m->scale};
    if (ok) thread_parallel_for((size_t)shape_rows(m->target->weight), kron_rows, &k);
    arena_destroy(&scratch);
    return ok;
}

const struct lora_kind lora_kind_lokr = {
    .name = "lokr",
    .title = "LoKr",
    .slots = {"w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2", "magnitude", "bias"},
    .n_slots = 9,
    .bias = BIAS,
    .magnitude = MAGNITUDE,
    .fit = fit,
    .delta = delta};
