/* Plain differences: of a layer's weight (W' = W + s * diff), of a norm's (the same, which is what makes them additive:
 * a norm is linear in its weight and bias; ComfyUI writes diff there too), and whole replacements (W' = W + s * (set - W)).
 * Biases are the caller's. */
#include "lora/dense.h"
#include "lora/file.h"
#include "nn/params.h"

enum { WEIGHT, BIAS };

/* Files may drop or add dimensions of 1. */
static bool fit(struct lora_module *m, struct error *e) {
    char text[ST_SHAPE_TEXT_BYTES];
    const struct st_tensor *t = m->tensors[WEIGHT];
    if (!m->target || nn_params_fits(t, m->target->weight)) return true;
    struct shape w = m->target->weight;
    return error_set(e, "is a weight %s; the model's layer has %d to %d channels and kernel %d",
                     st_tensor_shape_text(t, text), m->target->is_norm ? 1 : w.c, m->target->is_norm ? w.c : w.w,
                     m->target->is_conv ? m->target->conv.k : 1);
}

static bool delta(const struct lora_module *m, const float *base, float *dw, struct error *e) {
    return lora_dense_read_rows(m->tensors[WEIGHT], m->target->weight, dw, e);
}

static bool delta_set(const struct lora_module *m, const float *base, float *dw, struct error *e) {
    if (!delta(m, base, dw, e)) return false;
    for (int64_t i = 0; i < shape_elems(m->target->weight); i++) dw[i] -= base[i];
    return true;
}

const struct lora_kind lora_kind_full = {.name = "full",
                                         .title = "full difference",
                                         .slots = {"diff", "bias"},
                                         .n_slots = 2,
                                         .bias = BIAS,
                                         .for_all = true,
                                         .fit = fit,
                                         .delta = delta};

const struct lora_kind lora_kind_norm = {.name = "norm",
                                         .title = "norm difference",
                                         .slots = {"w", "bias"},
                                         .n_slots = 2,
                                         .bias = BIAS,
                                         .for_norms = true,
                                         .fit = fit,
                                         .delta = delta};

const struct lora_kind lora_kind_set = {.name = "set",
                                        .title = "replacement",
                                        .slots = {"weight", "bias"},
                                        .n_slots = 2,
                                        .n_required = 1,
                                        .bias = BIAS,
                                        .needs_base = true,
                                        .for_all = true,
                                        .fit = fit,
                                        .delta = delta_set};
