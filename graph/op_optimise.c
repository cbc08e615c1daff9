/* Optimisers, as their published packages compute them. hyper: 0 learning rate, 1 weight decay, 2 factor on the
 * gradient (clipping and loss scale), 10 and 11 1-beta1 and 1-beta2 (rounded once: in f32 0.999 is not), and by operator:
 *   adamw          3 beta1, 4 beta2, 5 eps, 6 1/(1-beta1^k), 7 1/(1-beta2^k)          Loshchilov and Hutter 2019
 *   lion           3 beta1, 4 beta2                                                   Chen et al. 2023
 *   schedule_free  3 beta1, 4 beta2, 5 eps, 6 1/(1-beta2^k), 7 weight of z in y       Defazio et al. 2024
 *   prodigy(_sums) 3 beta1, 4 beta2, 5 d*eps, 6 d, 7 d*rate*correction, 8 beta3, 9 factor of s   Mishchenko and Defazio 2023
 *   adafactor      3 beta, 4 eps1, 5 eps2, 6 clipping threshold, 7 rate times rms of the slot    Shazeer and Stern 2018 */
#include "graph/op_priv.h"

static int n_states(enum op op) { return op == OP_LION ? 1 : 2; }

bool op_optimise_shape(struct graph *g, const struct node *node, struct shape out[GRAPH_MAX_OUT]) {
    int n = n_states(node->op), hyper = 2 + n;
    bool has_rates = node->op != OP_PRODIGY;
    const char *name = op_table[node->op].name;
    if (!op_needs(g, node, hyper + 1 + has_rates)) return false;
    struct shape p = op_shape_in(g, node, 0);
    for (int i = 1; i < hyper; i++)
        if (!shape_equal(op_shape_in(g, node, i), p))
            return graph_fail(g, "%s: parameters, gradients and states differ in shape", name), false;
    if (!op_is_vector(op_shape_in(g, node, hyper), OPTIMISE_HYPER))
        return graph_fail(g, "%s: hyper is not one row of %d", name, OPTIMISE_HYPER), false;
    if (has_rates && (int64_t)op_shape_in(g, node, hyper + 1).c * OPTIMISE_RATE_TEXELS < shape_rows(p))
        return graph_fail(g, "%s: fewer rates than one per %d texels", name, OPTIMISE_RATE_TEXELS), false;
    out[0] = p;
    for (int i = 0; i < n; i++) out[1 + i] = p;
    return true;
}

static double rate_of(const double *rates, int64_t element) { return rates[element / (4 * OPTIMISE_RATE_TEXELS)]; }

void op_adamw_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    const double *h = in[4];
    for (int64_t i = 0; i < shape_elems(op_shape_in(g, node, 0)); i++) {
        double grad = in[1][i] * h[2], lr = h[0] * rate_of(in[5], i);
        double m = h[3] * in[2][i] + h[10] * grad, v = h[4] * in[3][i] + h[11] * grad * grad;
        out[0][i] = in[0][i] * (1 - lr * h[1]) - lr * m * h[6] / (sqrt(v * h[7]) + h[5]);
        out[1][i] = m;
        out[2][i] = v;
    }
}

void op_lion_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    const double *h = in[3];
    for (int64_t i = 0; i < shape_elems(op_shape_in(g, node, 0)); i++) {
        double grad = in[1][i] * h[2], lr = h[0] * rate_of(in[4], i), u = h[3] * in[2][i] + h[10] * grad;
        out[0][i] = in[0][i] * (1 - lr * h[1]) - lr * ((u > 0) - (u < 0));
        out[1][i] = h[4] * in[2][i] + h[11] * grad;
    }
}

void op_schedule_free_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    const double *h = in[4];
    for (int64_t i = 0; i < shape_elems(op_shape_in(g, node, 0)); i++) {
        double grad = in[1][i] * h[2], lr = h[0] * rate_of(in[5], i), y = in[0][i], z = in[2][i];
        double v = h[4] * in[3][i] + h[11] * grad * grad;
        double step = grad / (sqrt(v * h[6]) + h[5]) + h[1] * y;
        out[0][i] = y + h[7] * (z - y) + lr * (h[3] * (1 - h[7]) - 1) * step;
        out[1][i] = z - lr * step;
        out[2][i] = v;
    }
}

bool op_prodigy_sums_shape(struct graph *g, const struct node *node, struct shape out[GRAPH_MAX_OUT]) {
    if (!op_needs(g, node, 5)) return false;
    struct shape p = op_shape_in(g, node, 0);
    for (int i = 1; i < 4; i++)
        if (!shape_equal(op_shape_in(g, node, i), p)) return graph_fail(g, "prodigy_sums: banks differ in shape"), false;
    if (!op_is_vector(op_shape_in(g, node, 4), OPTIMISE_HYPER))
        return graph_fail(g, "prodigy_sums: hyper is not one row of %d", OPTIMISE_HYPER), false;
    if (op_has(node, 5) && !op_is_vector(op_shape_in(g, node, 5), 2))
        return graph_fail(g, "prodigy_sums: acc is not one row of 2"), false;
    out[0] = p;
    out[1] = op_vector(2);
    return true;
}

void op_prodigy_sums_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    const double *h = in[4];
    double moved = in[5] ? in[5][0] : 0, sum = in[5] ? in[5][1] : 0;
    for (int64_t i = 0; i < shape_elems(op_shape_in(g, node, 0)); i++) {
        double grad = in[1][i] * h[2], s = h[8] * in[3][i] + h[9] * grad;
        moved += grad * (in[2][i] - in[0][i]);
        sum += fabs(s);
        out[0][i] = s;
    }
    out[1][0] = moved, out[1][1] = sum;
}

void op_prodigy_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    const double *h = in[4];
    for (int64_t i = 0; i < shape_elems(op_shape_in(g, node, 0)); i++) {
        double grad = in[1][i] * h[2] * h[6];
        double m = h[3] * in[2][i] + h[10] * grad, v = h[4] * in[3][i] + h[11] * grad * grad;
        out[0][i] = in[0][i] * (1 - h[7] * h[1]) - h[7] * m / (sqrt(v) + h[5]);
        out[1][i] = m;
        out[2][i] = v;
    }
}

bool op_adafactor_shape(struct graph *g, const struct node *node, struct shape out[GRAPH_MAX_OUT]) {
    if (!op_needs(g, node, 5)) return false;
    struct shape p = op_shape_in(g, node, 0);
    bool ok = shape_equal(op_shape_in(g, node, 1), p) && op_is_vector(op_shape_in(g, node, 2), (int32_t)shape_rows(p)) &&
              op_is_vector(op_shape_in(g, node, 3), p.c) && op_is_vector(op_shape_in(g, node, 4), OPTIMISE_HYPER);
    if (!ok) return graph_fail(g, "adafactor: gradient, means or hyper do not fit the parameters"), false;
    for (int i = 0; i < 3; i++) out[i] = op_shape_in(g, node, i ? i + 1 : 0);
    return true;
}

static bool counts(const struct node *node, int64_t row) {
    return row % node->attr.adafactor.period < node->attr.adafactor.rows;
}

/* The new means of squares; padding keeps what it had. Returns the mean of the row means. */
static double adafactor_means(const struct node *node, struct shape p, const double *const *in, double *const *out) {
    const double *h = in[4], *grad = in[1];
    int64_t rows = shape_rows(p), n_rows = 0;
    int n = node->attr.adafactor.channels;
    double total = 0;
    for (int c = 0; c < p.c; c++) out[2][c] = 0;
    for (int64_t r = 0; r < rows; r++) {
        double sum = 0;
        for (int c = 0; c < n && counts(node, r); c++) {
            double square = grad[r * p.c + c] * h[2] * grad[r * p.c + c] * h[2] + h[4];
            sum += square;
            out[2][c] += square;
        }
        out[1][r] = counts(node, r) ? h[3] * in[2][r] + (1 - h[3]) * sum / n : in[2][r];
        if (counts(node, r)) total += out[1][r], n_rows++;
    }
    for (int c = 0; c < p.c; c++) out[2][c] = c < n ? h[3] * in[3][c] + (1 - h[3]) * out[2][c] / (double)n_rows : in[3][c];
    return total / (double)n_rows;
}

void op_adafactor_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    struct shape p = op_shape_in(g, node, 0);
    const double *h = in[4];
    int64_t n = 0;
    double mean = adafactor_means(node, p, in, out), squares = 0, weights = 0;
    for (int pass = 0; pass < 2; pass++) {
        double lr = h[0] * (double)node->attr.adafactor.rate, shrink = 1;
        if (pass) {
            if (h[7] > 0) lr *= fmax(h[5], sqrt(weights / (double)n));
            shrink = fmax(1, sqrt(squares / (double)n) / h[6]);
        }
        for (int64_t r = 0; r < shape_rows(p); r++)
            for (int c = 0; c < p.c; c++) {
                int64_t i = r * p.c + c;
                bool counted = counts(node, r) && c < node->attr.adafactor.channels;
                double u = counted ? in[1][i] * h[2] * sqrt(mean / out[1][r]) / sqrt(out[2][c]) : 0;
                if (pass) out[0][i] = counted ? in[0][i] * (1 - h[1] * lr) - lr * u / shrink : in[0][i];
                else if (counted) squares += u * u, weights += in[0][i] * in[0][i], n++;
            }
    }
}

bool op_pair_norm_shape(struct graph *g, const struct node *node, struct shape out[GRAPH_MAX_OUT]) {
    if (!op_needs(g, node, 2)) return false;
    for (int i = 0; i < 2; i++) out[i] = op_shape_in(g, node, i);
    return out[0].w == out[1].c || (graph_fail(g, "pair_norm: the factors differ in rank"), false);
}

/* |up*down|^2 is the sum over pairs of ranks of the products of both factors' dot products. */
void op_pair_norm_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    struct shape d = op_shape_in(g, node, 0), u = op_shape_in(g, node, 1);
    double sum = 0;
    for (int i = 0; i < u.c; i++)
        for (int j = 0; j < u.c; j++) {
            double down = 0, up = 0;
            for (int64_t k = 0; k < (int64_t)d.n * d.c; k++)
                down += in[0][(k / d.c * d.w + i) * d.c + k % d.c] * in[0][(k / d.c * d.w + j) * d.c + k % d.c];
            for (int64_t o = 0; o < shape_rows(u); o++) up += in[1][o * u.c + i] * in[1][o * u.c + j];
            sum += down * up;
        }
    double n = (double)node->attr.pair_norm.scale * sqrt(sum), most = (double)node->attr.pair_norm.most;
    double factor = n > most ? sqrt(most / n) : 1;
    for (int64_t i = 0; i < shape_elems(d); i++) out[0][i] = in[0][i] * factor;
    for (int64_t i = 0; i < shape_elems(u); i++) out[1][i] = in[1][i] * factor;
}
