#include "vae/build.h"

#include <math.h>
#include <stdio.h>

#include "vae/tiny.h"

static const float norm_eps = 1e-6f;
static const struct conv_params conv3 = {.k = 3, .stride = 1, .pad = 1}, conv1 = {.k = 1, .stride = 1};

static int resnet(struct nn_ctx *c, const struct vae_config *cfg, int index, int x, int channels) {
    char name[24];
    snprintf(name, sizeof name, "resnets.%d", index);
    struct nn_resnet_params p = {.out = channels, .groups = cfg->norm_groups, .eps = norm_eps};
    return nn_resnet(c, name, x, -1, -1, &p);
}

/* One head as wide as the features, over all pixels. */
static int attention(struct nn_ctx *c, const struct vae_config *cfg, int x) {
    if (c->g->failed || x < 0) return -1;
    size_t mark = graph_push(c->g, "attentions.0");
    graph_segment_begin(c->g);
    struct shape s = graph_shape(c->g, x);
    int residual = graph_reshape(c->g, x, s.n, 1, s.h * s.w);
    int h = nn_group_norm(c, "group_norm", residual, cfg->norm_groups, norm_eps, false);
    int q = nn_linear(c, "to_q", h, s.c, true, -1);
    int k = nn_linear(c, "to_k", h, s.c, true, -1);
    int v = nn_linear(c, "to_v", h, s.c, true, -1);
    h = c->g->failed ? -1 : graph_attention(c->g, q, k, v, 1, 1 / sqrtf((float)s.c), false);
    h = nn_linear(c, "to_out.0", h, s.c, true, residual);
    graph_segment_end(c->g);
    graph_pop(c->g, mark);
    return c->g->failed ? -1 : graph_reshape(c->g, h, s.n, s.h, s.w);
}

static int mid_block(struct nn_ctx *c, const struct vae_config *cfg, int x) {
    size_t mark = graph_push(c->g, "mid_block");
    int channels = cfg->channels[cfg->n_levels - 1];
    x = resnet(c, cfg, 0, x, channels);
    if (cfg->mid_attention) x = attention(c, cfg, x);
    x = resnet(c, cfg, 1, x, channels);
    graph_pop(c->g, mark);
    return x;
}

static int encoder_body(struct nn_ctx *c, const struct vae_config *cfg, int x) {
    x = nn_conv(c, "conv_in", x, cfg->channels[0], &conv3, -1);
    for (int level = 0; level < cfg->n_levels; level++) {
        size_t mark = graph_push(c->g, "down_blocks.%d", level);
        for (int i = 0; i < cfg->layers; i++) x = resnet(c, cfg, i, x, cfg->channels[level]);
        if (level + 1 < cfg->n_levels) x = nn_downsampler(c, "downsamplers.0", x, 0);
        graph_pop(c->g, mark);
    }
    x = mid_block(c, cfg, x);
    x = nn_group_norm(c, "conv_norm_out", x, cfg->norm_groups, norm_eps, true);
    return nn_conv(c, "conv_out", x, 2 * cfg->latent_channels, &conv3, -1);
}

int vae_build_encoder(struct nn_ctx *c, const struct vae_config *cfg, int image) {
    struct shape s = nn_shape(c, image);
    int f = vae_config_factor(cfg);
    if (c->g->failed || image < 0) return -1;
    if (cfg->tiny) return graph_fail(c->g, "a tiny autoencoder only decodes; pictures need the model's own VAE");
    if (s.c != cfg->in_channels || s.h % f || s.w % f)
        return graph_fail(c->g,
                          "the VAE takes %d channels and sizes divisible by %d, not %dx%d with %d channels",
                          cfg->in_channels, f, s.w, s.h, s.c);
    size_t mark = graph_push(c->g, "encoder");
    int x = encoder_body(c, cfg, image);
    graph_pop(c->g, mark);
    if (cfg->quant_conv) x = nn_conv(c, "quant_conv", x, 2 * cfg->latent_channels, &conv1, -1);
    return c->g->failed ? -1 : x;
}

static int decoder_body(struct nn_ctx *c, const struct vae_config *cfg, int x) {
    x = nn_conv(c, "conv_in", x, cfg->channels[cfg->n_levels - 1], &conv3, -1);
    x = mid_block(c, cfg, x);
    for (int i = 0; i < cfg->n_levels; i++) {
        size_t mark = graph_push(c->g, "up_blocks.%d", i);
        int channels = cfg->channels[cfg->n_levels - 1 - i];
        for (int k = 0; k <= cfg->layers; k++) x = resnet(c, cfg, k, x, channels);
        if (i + 1 < cfg->n_levels) x = nn_upsampler(c, "upsamplers.0", x, 0, 0);
        graph_pop(c->g, mark);
    }
    x = nn_group_norm(c, "conv_norm_out", x, cfg->norm_groups, norm_eps, true);
    return nn_conv(c, "conv_out", x, cfg->out_channels, &conv3, -1);
}

int vae_build_decoder(struct nn_ctx *c, const struct vae_config *cfg, int latent) {
    if (c->g->failed || latent < 0) return -1;
    if (cfg->tiny) return tiny_build_decoder(c, cfg, latent);
    if (graph_shape(c->g, latent).c != cfg->latent_channels)
        return graph_fail(c->g, "the VAE takes %d latent channels, not %d", cfg->latent_channels,
                          graph_shape(c->g, latent).c);
    int x = latent;
    if (cfg->post_quant_conv) x = nn_conv(c, "post_quant_conv", x, cfg->latent_channels, &conv1, -1);
    size_t mark = graph_push(c->g, "decoder");
    x = decoder_body(c, cfg, x);
    graph_pop(c->g, mark);
    return c->g->failed ? -1 : x;
}

bool vae_declare(struct nn_params *params, const struct vae_config *cfg, struct error *e) {
    struct graph *g = graph_create(NULL, TENSOR_F32);
    struct nn_ctx c = nn_begin(g, params, NULL, "");
    int f = 2 * vae_config_factor(cfg); /* the last downsampler needs more than its kernel */
    if (!cfg->tiny) vae_build_encoder(&c, cfg, graph_io(g, "image", (struct shape){1, f, f, cfg->in_channels}));
    vae_build_decoder(&c, cfg, graph_io(g, "latent", (struct shape){1, 1, 1, cfg->latent_channels}));
    nn_end(&c);
    bool ok = graph_ok(g, e);
    graph_destroy(&g);
    return ok;
}
