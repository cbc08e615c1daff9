/* Finds its rate d by itself: from how far the parameters have moved along the gradients. States: m, v, s, p0. */
#include <math.h>

#include "graph/build.h"
#include "train/optimiser_priv.h"

enum { NUMBER_D = NUMBER_OWN, NUMBER_D_MAX, NUMBER_NUMERATOR };
static const double D0 = 1e-6;

static bool check(const struct optimiser_params *p, struct error *err) {
    if (!(p->d_coef >= 0) || !(p->growth == 0 || p->growth >= 1))
        return error_set(err, "--prodigy-d-coef must be positive and --prodigy-growth at least 1.");
    return true;
}

static void build(struct optimiser *o) {
    struct graph *f = o->first_g = graph_create(o->arena, TENSOR_F32);
    int sums = -1;
    o->first_hyper = graph_io(f, "hyper", (struct shape){1, 1, 1, OPTIMISE_HYPER});
    for (int c = 0; c < o->set->n_chunks; c++) {
        int in[] = {graph_flat(f, o->set, SET_DATA, c), graph_flat(f, o->set, o->grad_bank, c),
                    graph_flat(f, o->set, optimiser_bank_of(3), c), graph_flat(f, o->set, optimiser_bank_of(2), c),
                    o->first_hyper, sums};
        int node = graph_append(f, OP_PRODIGY_SUMS, in, 6, (union op_attr){0});
        sums = node < 0 ? -1 : f->nodes[node].out[1];
    }
    o->first_out = graph_output(f, "sums", sums);
    for (int c = 0; c < o->set->n_chunks; c++) {
        int in[] = {graph_flat(o->g, o->set, SET_DATA, c), graph_flat(o->g, o->set, o->grad_bank, c),
                    graph_flat(o->g, o->set, optimiser_bank_of(0), c), graph_flat(o->g, o->set, optimiser_bank_of(1), c),
                    o->hyper};
        graph_append(o->g, OP_PRODIGY, in, 5, (union op_attr){0});
    }
}

static void estimate(struct optimiser *o, const float sums[2], double rate, double beta3, float lr) {
    const struct optimiser_params *p = &o->params;
    double *d = &o->numbers[NUMBER_D], *most = &o->numbers[NUMBER_D_MAX], *numerator = &o->numbers[NUMBER_NUMERATOR];
    if (!(sums[1] > 0) || !(lr > 0)) return;
    *numerator = *numerator * beta3 + *d / D0 * rate * (double)sums[0];
    double guess = (p->d_coef ? (double)p->d_coef : 1) * *numerator / (double)sums[1];
    if (*d == D0) *d = fmax(*d, guess);
    *most = fmax(*most, guess);
    *d = p->growth ? fmin(*most, *d * (double)p->growth) : *most;
}

static bool prepare(struct optimiser *o, float lr, struct error *err) {
    const struct optimiser_params *p = &o->params;
    float *h = o->hyper_values, sums[2];
    double k = o->numbers[NUMBER_STEP], beta1 = p->beta1, beta2 = p->beta2, beta3 = sqrt(beta2);
    if (k == 1) o->numbers[NUMBER_D] = o->numbers[NUMBER_D_MAX] = D0;
    double d = o->numbers[NUMBER_D], bias = p->bias_correction ? sqrt(1 - pow(beta2, k)) / (1 - pow(beta1, k)) : 1;
    double rate = d * (double)lr * bias;
    h[6] = (float)d, h[7] = (float)rate, h[8] = (float)beta3;
    h[9] = (float)(d / D0 * (p->safeguard ? d : rate));
    gpu_program_write(o->first_prog, o->first_hyper, h);
    if (!gpu_program_run(o->first_prog, err)) return false;
    gpu_program_read(o->first_prog, o->first_out, sums);
    estimate(o, sums, rate, beta3, lr);
    h[5] = (float)(o->numbers[NUMBER_D] * (double)p->eps);
    return true;
}

static float rate(const struct optimiser *o, float lr) { return (float)((double)lr * o->numbers[NUMBER_D]); }

const struct optimiser_kind optimiser_kind_prodigy = {.traits = {"prodigy", "Prodigy", 1, true, false}, .beta1 = 0.9,
                                                      .beta2 = 0.999, .eps = 1e-8f, .n_states = 4, .start_as_data = 8,
                                                      .check = check, .build = build,
                                                      .prepare = prepare, .rate = rate};
