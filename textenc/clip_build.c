#include "textenc/clip_extras.h"

#include <math.h>

static int embed(struct nn_ctx *c, const struct clip_config *cfg, int ids, const struct clip_extras *extras) {
    size_t mark = graph_push(c->g, "text_model.embeddings");
    int tokens = nn_param(c, "token_embedding.weight", (struct shape){1, 1, cfg->vocabulary, cfg->width});
    int positions =
        nn_param(c, "position_embedding.weight", (struct shape){1, 1, cfg->positions, cfg->width});
    int x = -1;
    if (c->g->failed) return graph_pop(c->g, mark), -1;
    if (extras && extras->own >= 0) x = clip_embed_own(c->g, ids, tokens, positions, extras);
    else x = graph_embed(c->g, ids, tokens, positions);
    graph_pop(c->g, mark);
    return x;
}

static int attention(struct nn_ctx *c, const struct clip_config *cfg, const struct clip_extras *extras, int x, int res) {
    size_t mark = graph_push(c->g, "self_attn");
    int q = nn_linear(c, "q_proj", x, cfg->width, true, -1);
    int k = nn_linear(c, "k_proj", x, cfg->width, true, -1);
    int v = nn_linear(c, "v_proj", x, cfg->width, true, -1);
    float scale = 1 / sqrtf((float)(cfg->width / cfg->heads));
    int o = -1;
    if (extras && extras->unseen >= 0) o = clip_attention_unseen(c->g, cfg, q, k, v, scale, extras);
    else if (!c->g->failed) o = graph_attention(c->g, q, k, v, cfg->heads, scale, true);
    o = nn_linear(c, "out_proj", o, cfg->width, true, res);
    graph_pop(c->g, mark);
    return o;
}

static int mlp(struct nn_ctx *c, const struct clip_config *cfg, int x, int res) {
    size_t mark = graph_push(c->g, "mlp");
    int h = nn_linear(c, "fc1", x, cfg->mlp_width, true, -1);
    if (h >= 0) h = graph_unary(c->g, cfg->quick_gelu ? UNARY_QUICK_GELU : UNARY_GELU, h);
    h = nn_linear(c, "fc2", h, cfg->width, true, res);
    graph_pop(c->g, mark);
    return h;
}

static int layer(struct nn_ctx *c, const struct clip_config *cfg, const struct clip_extras *extras, int index, int x) {
    size_t mark = graph_push(c->g, "text_model.encoder.layers.%d", index);
    graph_segment_begin(c->g);
    int h = nn_layer_norm(c, "layer_norm1", x, cfg->norm_eps);
    x = attention(c, cfg, extras, h, x);
    h = nn_layer_norm(c, "layer_norm2", x, cfg->norm_eps);
    x = mlp(c, cfg, h, x);
    graph_segment_end(c->g);
    graph_pop(c->g, mark);
    return x;
}

/* The end token's row is looked up as in a table of n*T rows. */
static int pool(struct nn_ctx *c, const struct clip_config *cfg, int x, int eos) {
    if (c->g->failed) return -1;
    struct shape s = graph_shape(c->g, x);
    int rows = graph_reshape(c->g, x, 1, 1, s.n * s.w);
    int pooled = graph_embed(c->g, eos, rows, -1);
    return cfg->projection ? nn_linear(c, "text_projection", pooled, cfg->projection_dim, false, -1) : pooled;
}

bool clip_build(struct nn_ctx *c, const struct clip_config *cfg, const struct clip_inputs *in,
                const struct clip_params *p, struct clip_outputs *out) {
    *out = (struct clip_outputs){-1, -1};
    if (c->g->failed || in->ids < 0) return false;
    if (p->skip < 0 || p->skip >= cfg->layers) {
        graph_fail(c->g, "the text encoder has %d layers, so at most %d can be skipped, not %d", cfg->layers,
                   cfg->layers - 1, p->skip);
        return false;
    }
    if (graph_shape(c->g, in->ids).w > cfg->positions) {
        graph_fail(c->g, "the text encoder takes at most %d tokens, not %d", cfg->positions,
                   graph_shape(c->g, in->ids).w);
        return false;
    }
    int x = embed(c, cfg, in->ids, in->extras);
    int chosen = -1, last = in->eos >= 0 ? cfg->layers : cfg->layers - p->skip;
    for (int i = 0; i < last; i++) {
        x = layer(c, cfg, in->extras, i, x);
        if (i + 1 == cfg->layers - p->skip) chosen = x;
    }
    bool shared = !p->no_final_norm && chosen == x;
    int normed = -1;
    if (shared || in->eos >= 0) normed = nn_layer_norm(c, "text_model.final_layer_norm", x, cfg->norm_eps);
    out->hidden = shared             ? normed
                  : p->no_final_norm ? chosen
                                     : nn_layer_norm(c, "text_model.final_layer_norm", chosen, cfg->norm_eps);
    if (in->eos >= 0) out->pooled = pool(c, cfg, normed, in->eos);
    return !c->g->failed;
}

bool clip_declare(struct nn_params *params, const struct clip_config *cfg, struct nn_target_list *targets,
                  struct error *e) {
    struct graph *g = graph_create(NULL, TENSOR_F32);
    struct nn_hook hook = {0};
    if (targets) hook = nn_target_recorder(targets);
    struct nn_ctx c = nn_begin(g, params, targets ? &hook : NULL, "");
    struct clip_inputs in = {.ids = graph_io(g, "ids", (struct shape){1, 1, 1, 1}),
                             .eos = graph_io(g, "eos", (struct shape){1, 1, 1, 1})};
    struct clip_outputs out;
    clip_build(&c, cfg, &in, &(struct clip_params){0}, &out);
    nn_end(&c);
    bool ok = graph_ok(g, e);
    graph_destroy(&g);
    return ok;
}
