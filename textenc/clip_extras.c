#include "textenc/clip_extras.h"

int clip_embed_own(struct graph *g, int ids, int tokens, int positions, const struct clip_extras *x) {
    int words = graph_mul(g, graph_embed(g, ids, tokens, -1), x->keep, BCAST_NONE);
    words = graph_add(g, words, x->own, BCAST_NONE);
    return graph_add(g, words, graph_embed(g, x->places, positions, -1), BCAST_NONE);
}

/* {.., heads*d} -> {.., heads*(d+4)}, each head followed by the planes of `tail`. */
static int spread(struct graph *g, const struct clip_config *cfg, int x, int tail) {
    int d = cfg->width / cfg->heads, y = -1;
    for (int h = 0; h < cfg->heads && !g->failed; h++) {
        int head = graph_concat(g, graph_slice(g, x, h * d, d), tail);
        y = h ? graph_concat(g, y, head) : head;
    }
    return y;
}

static int gather(struct graph *g, const struct clip_config *cfg, int x) {
    int d = cfg->width / cfg->heads, y = -1;
    for (int h = 0; h < cfg->heads && !g->failed; h++) {
        int head = graph_slice(g, x, h * (d + 4), d);
        y = h ? graph_concat(g, y, head) : head;
    }
    return y;
}

int clip_attention_unseen(struct graph *g, const struct clip_config *cfg, int q, int k, int v, float scale,
                          const struct clip_extras *x) {
    if (g->failed) return -1;
    if (cfg->width / cfg->heads % 4) {
        graph_fail(g, "prompts of the compel style with weights below 1 need text heads of a multiple of 4 channels, not %d",
                   cfg->width / cfg->heads);
        return -1;
    }
    q = spread(g, cfg, q, x->one), k = spread(g, cfg, k, x->unseen), v = spread(g, cfg, v, x->one);
    return g->failed ? -1 : gather(g, cfg, graph_attention(g, q, k, v, cfg->heads, scale, true));
}
