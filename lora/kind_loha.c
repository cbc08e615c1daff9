/* LoHa: dW = alpha/r * (w1_a * w1_b) o (w2_a * w2_b), o being the product of elements; each half may have a Tucker core.
 * (Hyeon-Woo et al., FedPara, 2022; LyCORIS' loha) */
#include "lora/dense.h"
#include "lora/file.h"

#include "base/arena.h"

enum { W1_B, W1_A, W2_B, W2_A, T1, T2, MAGNITUDE, BIAS };

static struct lora_piece half(const struct lora_module *m, int which) {
    const struct st_tensor *const *t = m->tensors;
    return which ? (struct lora_piece){.a = t[W2_A], .b = t[W2_B], .t = t[T2]}
                 : (struct lora_piece){.a = t[W1_A], .b = t[W1_B], .t = t[T1]};
}

static bool measure(const struct lora_module *m, struct lora_piece_size size[2]) {
    size_t taps = m->target ? (size_t)m->target->weight.n : 0;
    for (int i = 0; i < 2; i++) {
        struct lora_piece p = half(m, i);
        if (!lora_piece_measure(&p, taps, &size[i])) return false;
    }
    return size[0].rows == size[1].rows && size[0].columns == size[1].columns && size[0].taps == size[1].taps;
}

static bool fit(struct lora_module *m, struct error *e) {
    char a[ST_SHAPE_TEXT_BYTES], b[ST_SHAPE_TEXT_BYTES];
    struct lora_piece_size size[2];
    if (!measure(m, size))
        return error_set(e, "has factors %s and %s that do not belong together or to the layer's kernel",
                         st_tensor_shape_text(m->tensors[W1_A], a), st_tensor_shape_text(m->tensors[W1_B], b));
    m->rank = (int)size[0].rank;
    if (!m->target) return true;
    struct shape w = m->target->weight;
    if (size[0].rows == (size_t)w.w && size[0].columns == (size_t)w.c) return true;
    return error_set(e, "is made for a layer of %zu to %zu channels; the model's has %d to %d", size[0].columns,
                     size[0].rows, w.c, w.w);
}

static bool delta(const struct lora_module *m, const float *base, float *dw, struct error *e) {
    struct lora_piece_size size[2];
    struct lora_piece first = half(m, 0), second = half(m, 1);
    if (!measure(m, size)) return error_set(e, "has factors that do not belong together");
    struct arena *scratch = arena_create(NULL);
    size_t n = (size_t)shape_elems(m->target->weight);
    float *other = arena_alloc_n(scratch, n, sizeof *other);
    bool ok = lora_piece_build(&first, &size[0], dw, e) && lora_piece_build(&second, &size[1], other, e);
    for (size_t i = 0; ok && i < n; i++) dw[i] *= other[i] * m->scale;
    arena_destroy(&scratch);
    return ok;
}

const struct lora_kind lora_kind_loha = {
    .name = "loha",
    .title = "LoHa",
    .slots = {"w1_b", "w1_a", "w2_b", "w2_a", "t1", "t2", "magnitude", "bias"},
    .n_slots = 8,
    .n_required = 4,
    .bias = BIAS,
    .magnitude = MAGNITUDE,
    .fit = fit,
    .delta = delta};
