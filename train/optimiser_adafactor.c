/* Keeps a mean of squares per row and per column instead of per number. A convolution's slot is the matrix that it is
 * here, taps times ranks by channels; transformers' class would average over the taps instead. */
#include <math.h>

#include "train/optimiser_priv.h"

static const double DECAY = -0.8, EPS1 = 1e-30, EPS2 = 1e-3;

static void build(struct optimiser *o) {
    o->own = tensor_set_create(o->arena, "row and column means", TENSOR_F32, true, o->set->max_chunk_texels * 16);
    for (int i = 0; i < o->set->n_slots; i++) {
        const struct tensor_slot *s = &o->set->slots[i];
        const struct optimiser_slot *own = &o->slots[i];
        int rows = tensor_set_add(o->own, s->name, (struct shape){1, 1, 1, (int32_t)shape_rows(s->shape)});
        int columns = tensor_set_add(o->own, s->name, (struct shape){1, 1, 1, s->shape.c});
        int in[] = {graph_slot(o->g, o->set, SET_DATA, i), graph_slot(o->g, o->set, o->grad_bank, i),
                    graph_slot(o->g, o->own, SET_DATA, rows), graph_slot(o->g, o->own, SET_DATA, columns), o->hyper};
        union op_attr attr = {.adafactor = {own->period, own->rows, own->channels, own->rate}};
        graph_append(o->g, OP_ADAFACTOR, in, 5, attr);
    }
}

static bool prepare(struct optimiser *o, float lr, struct error *err) {
    double k = o->numbers[NUMBER_STEP];
    float *h = o->hyper_values;
    if (o->params.relative_step) h[0] = lr * (float)fmin(1e-2, 1 / sqrt(k));
    h[3] = (float)(1 - pow(k, DECAY)), h[4] = (float)EPS1, h[5] = (float)EPS2, h[6] = 1, h[7] = o->params.scale_by_param;
    return true;
}

const struct optimiser_kind optimiser_kind_adafactor = {.traits = {"adafactor", "Adafactor", 1e-3f, false, false},
                                                        .n_states = 0, .build = build, .prepare = prepare};
