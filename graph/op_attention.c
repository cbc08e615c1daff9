/* Scaled dot-product attention over heads laid side by side in the channels: head h is channels
 * [h*d, h*d + d). Causal: token i sees tokens 0..i. */
#include <stdlib.h>
#include "graph/op_priv.h"

bool op_attention_shape(struct graph *g, const struct node *node, struct shape out[GRAPH_MAX_OUT]) {
    if (!op_needs(g, node, 3)) return false;
    struct shape q = op_shape_in(g, node, 0), k = op_shape_in(g, node, 1), v = op_shape_in(g, node, 2);
    int heads = node->attr.attn.heads;
    if (heads < 1 || q.c % heads) return graph_fail(g, "attention: %d channels in %d heads", q.c, heads), false;
    if (k.n != q.n || k.c != q.c || !shape_equal(k, v))
        return graph_fail(g, "attention: q {%d,..,%d}, k {%d,..,%d} and v {%d,..,%d} do not go together", q.n, q.c,
                          k.n, k.c, v.n, v.c),
               false;
    if (node->attr.attn.causal && k.h * k.w != q.h * q.w)
        return graph_fail(g, "attention: causal over %d queries and %d keys", q.h * q.w, k.h * k.w), false;
    out[0] = out[1] = q;
    out[1].c = heads;
    return true;
}

bool op_attention_dx_shape(struct graph *g, const struct node *node, struct shape out[GRAPH_MAX_OUT]) {
    if (!op_needs(g, node, 6)) return false;
    for (int i = 0; i < 3; i++) out[i] = op_shape_in(g, node, i);
    return true;
}

void op_attention_grad(struct graph *g, int node, const int *grad_out, const bool *want, int *grad_in) {
    const struct node n = g->nodes[node];
    int operands[6] = {n.in[0], n.in[1], n.in[2], n.out[0], n.out[1], grad_out[0]};
    int dx = graph_append(g, OP_ATTENTION_DX, operands, 6, n.attr);
    for (int i = 0; i < 3 && dx >= 0; i++) {
        if (want[i])
            grad_in[i] = g->nodes[dx].out[i];
        else
            op_drop_out(g, dx, i);
    }
}

static double dot(const double *a, const double *b, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* One head of one image. Row i of q is q + i*c (k, v alike). */
struct head {
    int tq, tk, c, d;
    bool causal;
    double scale;
    int64_t q_first, k_first; /* element of channel 0 of the head at token 0 */
    int64_t lse_first;        /* element of the head in lse at token 0; tokens `heads` apart */
    int heads;
};
static struct head head_at(const struct graph *g, const struct node *node, int image, int h) {
    struct shape q = op_shape_in(g, node, 0), k = op_shape_in(g, node, 1);
    int heads = node->attr.attn.heads, tq = q.h * q.w, tk = k.h * k.w, d = q.c / heads;
    return (struct head){.tq = tq, .tk = tk, .c = q.c, .d = d, .heads = heads,
                         .causal = node->attr.attn.causal, .scale = (double)node->attr.attn.scale,
                         .q_first = (int64_t)image * tq * q.c + (int64_t)h * d,
                         .k_first = (int64_t)image * tk * q.c + (int64_t)h * d,
                         .lse_first = (int64_t)image * tq * heads + h};
}
static int head_keys(const struct head *h, int i) { return h->causal ? i + 1 : h->tk; }

static void head_forward(const struct head *h, const double *const *in, double *const *out, double *p) {
    for (int i = 0; i < h->tq; i++) {
        const double *q = in[0] + h->q_first + (int64_t)i * h->c;
        int keys = head_keys(h, i);
        double top = -INFINITY, sum = 0;
        for (int j = 0; j < keys; j++) {
            p[j] = h->scale * dot(q, in[1] + h->k_first + (int64_t)j * h->c, h->d);
            if (p[j] > top) top = p[j];
        }
        for (int j = 0; j < keys; j++) sum += p[j] = exp(p[j] - top);
        if (out[1]) out[1][h->lse_first + (int64_t)i * h->heads] = top + log(sum);
        double *o = out[0] + h->q_first + (int64_t)i * h->c;
        memset(o, 0, (size_t)h->d * sizeof(double));
        for (int j = 0; j < keys; j++) {
            const double *v = in[2] + h->k_first + (int64_t)j * h->c;
            for (int c = 0; c < h->d; c++) o[c] += p[j] / sum * v[c];
        }
    }
}

void op_attention_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    struct shape q = op_shape_in(g, node, 0), k = op_shape_in(g, node, 1);
    double *p = malloc((size_t)k.h * (size_t)k.w * sizeof(double));
    assert(p);
    for (int image = 0; image < q.n; image++)
        for (int h = 0; h < node->attr.attn.heads; h++) {
            struct head head = head_at(g, node, image, h);
            head_forward(&head, in, out, p);
        }
    free(p);
}

/* p = exp(s - lse); dv = p' g; ds = p*(g v' - rowsum(g*o)); dq = scale*ds k; dk = scale*ds' q */
static void head_backward(const struct head *h, const double *const *in, double *const *out) {
    for (int i = 0; i < h->tq; i++) {
        int64_t row = h->q_first + (int64_t)i * h->c;
        const double *q = in[0] + row, *dy = in[5] + row;
        double lse = in[4][h->lse_first + (int64_t)i * h->heads], mean = dot(dy, in[3] + row, h->d);
        for (int j = 0; j < head_keys(h, i); j++) {
            int64_t key = h->k_first + (int64_t)j * h->c;
            double p = exp(h->scale * dot(q, in[1] + key, h->d) - lse);
            double ds = h->scale * p * (dot(dy, in[2] + key, h->d) - mean);
            for (int c = 0; c < h->d; c++) {
                if (out[0]) out[0][row + c] += ds * in[1][key + c];
                if (out[1]) out[1][key + c] += ds * q[c];
                if (out[2]) out[2][key + c] += p * dy[c];
            }
        }
    }
}

void op_attention_dx_ref(const struct graph *g, const struct node *node, const double *const *in,
                         double *const *out) {
    for (int i = 0; i < 3; i++)
        if (out[i]) memset(out[i], 0, (size_t)shape_elems(op_shape_in(g, node, i)) * sizeof(double));
    for (int image = 0; image < op_shape_in(g, node, 0).n; image++)
        for (int h = 0; h < node->attr.attn.heads; h++) {
            struct head head = head_at(g, node, image, h);
            head_backward(&head, in, out);
        }
}
