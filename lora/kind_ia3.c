/* (IA)3 scales a layer's inputs or outputs. LyCORIS stores differences from 1: W' = W * (1 + weight), by on_input along
 * the columns or the rows. PEFT stores the factors: W' = W * l, along the columns in layers of the feed-forward part
 * (l [1,in]), else along the rows and the bias too (l [out,1]). For convolutions PEFT writes [1,c,1,1] both ways: that
 * is read as rows unless only the number of columns fits. (Liu et al., 2022) */
#include "lora/dense.h"
#include "lora/file.h"

#include "base/arena.h"

#include <string.h>

enum { WEIGHT, ON_INPUT }; /* PEFT's l is the first too */

static bool is_flag(const struct st_tensor *t) {
    return st_tensor_elements(t) == 1;
}

/* An integer, a boolean or a number: set where any bit is. */
static bool flag(const struct st_tensor *t) {
    const unsigned char *bytes = t->data;
    for (size_t i = 0; i < t->bytes; i++)
        if (bytes[i]) return true;
    return false;
}

static bool wrong_size(const struct lora_module *m, struct error *e) {
    char text[ST_SHAPE_TEXT_BYTES];
    struct shape w = m->target->weight;
    return error_set(e, "is a scale %s for a layer of %d to %d channels", st_tensor_shape_text(m->tensors[WEIGHT], text), w.c,
                     w.w);
}

static bool fit(struct lora_module *m, struct error *e) {
    if (!is_flag(m->tensors[ON_INPUT])) return error_set(e, "has an on_input of more than one element");
    if (!m->target) return true;
    struct shape w = m->target->weight;
    int n = flag(m->tensors[ON_INPUT]) ? w.c : w.w;
    return st_tensor_elements(m->tensors[WEIGHT]) == (size_t)n || wrong_size(m, e);
}

/* dw = base * (l + offset) along rows or columns. */
static bool scale(const struct lora_module *m, const float *base, float *dw, bool rows, double offset, struct error *e) {
    struct arena *scratch = arena_create(NULL);
    struct shape w = m->target->weight;
    size_t in = (size_t)w.c, out = (size_t)w.w, n = (size_t)shape_rows(w);
    float *l = lora_dense_read(m->tensors[WEIGHT], scratch, e);
    for (size_t r = 0; l && r < n; r++)
        for (size_t i = 0; i < in; i++) dw[r * in + i] = (float)(base[r * in + i] * (l[rows ? r % out : i] + offset));
    arena_destroy(&scratch);
    return l != NULL;
}

static bool delta(const struct lora_module *m, const float *base, float *dw, struct error *e) {
    return scale(m, base, dw, !flag(m->tensors[ON_INPUT]), 0, e);
}

static bool peft_rows(const struct lora_module *m, bool *rows) {
    const struct st_tensor *l = m->tensors[WEIGHT];
    struct shape w = m->target->weight;
    size_t n = st_tensor_elements(l);
    bool vector = l->rank >= 2 && (n == (size_t)l->dims[0] || n == (size_t)l->dims[1]);
    bool out = vector && n == (size_t)w.w && (l->rank > 2 || (size_t)l->dims[0] == n);
    bool in = vector && n == (size_t)w.c && l->dims[0] == 1;
    *rows = out;
    return out || in;
}

static bool fit_peft(struct lora_module *m, struct error *e) {
    bool rows;
    return !m->target || peft_rows(m, &rows) || wrong_size(m, e);
}

static bool delta_peft(const struct lora_module *m, const float *base, float *dw, struct error *e) {
    bool rows;
    peft_rows(m, &rows);
    return scale(m, base, dw, rows, -1, e);
}

static bool delta_bias_peft(const struct lora_module *m, const float *bias, float *db, struct error *e) {
    bool rows;
    peft_rows(m, &rows);
    size_t out = (size_t)m->target->weight.w;
    memset(db, 0, out * sizeof *db);
    if (!rows) return true;
    if (!st_read_f32(m->tensors[WEIGHT], db, out, e)) return false;
    for (size_t o = 0; o < out; o++) db[o] = (db[o] - 1) * bias[o];
    return true;
}

const struct lora_kind lora_kind_ia3 = {.name = "ia3",
                                        .title = "(IA)3",
                                        .slots = {"weight", "on_input"},
                                        .n_slots = 2,
                                        .n_required = 2,
                                        .needs_base = true,
                                        .fit = fit,
                                        .delta = delta};

const struct lora_kind lora_kind_ia3_peft = {.name = "ia3_peft",
                                             .title = "(IA)3 of PEFT",
                                             .slots = {"l"},
                                             .n_slots = 1,
                                             .n_required = 1,
                                             .needs_base = true,
                                             .fit = fit_peft,
                                             .delta = delta_peft,
                                             .delta_bias = delta_bias_peft};
