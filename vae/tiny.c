#include "vae/tiny.h"

#include <stdio.h>
#include <string.h>

enum { LEVELS = 4, MAX_CHANNELS = 4096 };
static const int blocks[LEVELS] = {3, 3, 3, 1};

static bool place(const void *ctx, const char *path, int attempt, struct nn_place *out) {
    int layer, used = 0;
    char text[128];
    if (attempt == 0) return nn_place_set(out, "", path);
    if (attempt > 1 || sscanf(path, "decoder.layers.%d.%n", &layer, &used) != 1 || !used) return false;
    snprintf(text, sizeof text, "%d.%s", layer + 1, path + used); /* layer 0 there clamps the latents */
    return nn_place_set(out, "", text);
}

struct nn_naming tiny_naming(void) { return (struct nn_naming){place, NULL}; }

static const struct st_tensor *find(const struct st_file *f, const char *path) {
    struct nn_place p;
    for (int attempt = 0; place(NULL, path, attempt, &p); attempt++) {
        const struct st_tensor *t = st_find(f, p.name);
        if (t) return t;
    }
    return NULL;
}

bool tiny_is(const struct st_file *f) {
    return find(f, "decoder.layers.0.weight") && find(f, "decoder.layers.2.conv.0.weight") &&
           find(f, "decoder.layers.18.weight");
}

bool tiny_infer(struct vae_config *cfg, const struct st_file *f, struct error *e) {
    const struct st_tensor *first = find(f, "decoder.layers.0.weight"), *last = find(f, "decoder.layers.18.weight");
    const struct st_tensor *const both[] = {first, last};
    for (int i = 0; i < 2; i++)
        if (!both[i] || both[i]->rank != 4 || both[i]->dims[0] < 1 || both[i]->dims[1] < 1 || both[i]->dims[0] > MAX_CHANNELS ||
            both[i]->dims[1] > MAX_CHANNELS)
            return error_set(e, "%s: the tiny autoencoder in it has unusual shapes", st_path(f));
    *cfg = (struct vae_config){.tiny = true, .in_channels = 3, .out_channels = (int)last->dims[0],
                               .latent_channels = (int)first->dims[1], .n_levels = LEVELS, .scaling_factor = 1};
    for (int i = 0; i < LEVELS; i++) cfg->channels[i] = (int)first->dims[0];
    return true;
}

static int relu(struct nn_ctx *c, int x) { return x < 0 ? -1 : graph_unary(c->g, UNARY_RELU, x); }

static int conv(struct nn_ctx *c, int x, int out, bool bias, int res) {
    static const struct conv_params conv3 = {.k = 3, .stride = 1, .pad = 1};
    if (c->g->failed || x < 0) return -1;
    int w = nn_param(c, "weight", (struct shape){9, 1, out, graph_shape(c->g, x).c});
    int b = bias ? nn_param(c, "bias", (struct shape){1, 1, 1, out}) : -1;
    return c->g->failed ? -1 : graph_conv2d(c->g, x, w, b, res, &conv3);
}

/* relu(x + conv(relu(conv(relu(conv(x)))))) */
static int block(struct nn_ctx *c, int x, int width) {
    int h = x;
    for (int i = 0; i < 3; i++) {
        size_t mark = graph_push(c->g, "conv.%d", 2 * i);
        h = relu(c, conv(c, h, width, true, i == 2 ? x : -1));
        graph_pop(c->g, mark);
    }
    return h;
}

int tiny_build_decoder(struct nn_ctx *c, const struct vae_config *cfg, int latent) {
    if (c->g->failed || latent < 0) return -1;
    if (graph_shape(c->g, latent).c != cfg->latent_channels)
        return graph_fail(c->g, "the tiny autoencoder takes %d latent channels, not %d", cfg->latent_channels,
                          graph_shape(c->g, latent).c);
    int width = cfg->channels[0], layer = 0;
    size_t mark = graph_push(c->g, "decoder.layers.%d", layer);
    int x = relu(c, conv(c, latent, width, true, -1));
    graph_pop(c->g, mark);
    layer = 2;
    for (int level = 0; level < LEVELS; level++) {
        bool last = level + 1 == LEVELS;
        for (int i = 0; i < blocks[level]; i++) {
            mark = graph_push(c->g, "decoder.layers.%d", layer++);
            x = block(c, x, width);
            graph_pop(c->g, mark);
        }
        if (c->g->failed || x < 0) return -1;
        if (!last) {
            struct shape s = graph_shape(c->g, x);
            x = graph_upsample(c->g, x, 2 * s.h, 2 * s.w);
            layer++;
        }
        mark = graph_push(c->g, "decoder.layers.%d", layer++);
        x = conv(c, x, last ? cfg->out_channels : width, last, -1);
        graph_pop(c->g, mark);
    }
    return c->g->failed ? -1 : x;
}
