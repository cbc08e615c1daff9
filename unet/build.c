#include "unet/build.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "unet/transformer.h"

enum { MAX_SKIPS = UNET_MAX_LEVELS * UNET_MAX_LAYERS + 1 };

struct state {
    struct nn_ctx *c;
    const struct unet_config *cfg;
    int h;       /* features so far */
    int temb;    /* silu(time embedding) {n,1,1,time_dim} */
    const struct unet_inputs *in;
    struct unet_part whole; /* where there are no parts */
    int skips[MAX_SKIPS], n_skips;
};

static int mlp(struct nn_ctx *c, const char *name, int x, int width) {
    size_t mark = graph_push(c->g, "%s", name);
    x = nn_linear(c, "linear_1", x, width, true, -1);
    if (x >= 0) x = graph_unary(c->g, UNARY_SILU, x);
    x = nn_linear(c, "linear_2", x, width, true, -1);
    graph_pop(c->g, mark);
    return x;
}

static int time_embedding(struct nn_ctx *c, const struct unet_config *cfg, const struct unet_inputs *in) {
    struct graph *g = c->g;
    int t = graph_timestep(g, in->timestep, cfg->down[0].channels, cfg->flip_sin_to_cos, cfg->freq_shift);
    if (cfg->time_cond_dim && in->time_cond >= 0) {
        size_t mark = graph_push(g, "time_embedding");
        t = nn_linear(c, "cond_proj", in->time_cond, cfg->down[0].channels, false, t);
        graph_pop(g, mark);
    }
    int temb = mlp(c, "time_embedding", t, cfg->time_dim);
    if (cfg->added_dim) {
        int added = mlp(c, "add_embedding", in->added, cfg->time_dim);
        if (temb >= 0 && added >= 0) temb = graph_add(g, temb, added, BCAST_NONE);
    }
    return temb < 0 ? -1 : graph_unary(g, UNARY_SILU, temb);
}

static void resnet(struct state *s, int index, int channels, int skip, float scale) {
    char name[24];
    snprintf(name, sizeof name, "resnets.%d", index);
    struct nn_resnet_params p = {channels, s->cfg->norm_groups, s->cfg->norm_eps, scale};
    s->h = nn_resnet(s->c, name, s->h, skip, s->temb, &p);
}

/* The shares at the size of the features. */
static int shares_of(const struct state *s) {
    struct shape h = nn_shape(s->c, s->h);
    for (int i = 0; i < s->cfg->n_levels; i++) {
        struct shape share = nn_shape(s->c, s->in->shares[i]);
        if (share.n == h.n && share.h == h.h && share.w == h.w) return s->in->shares[i];
    }
    return graph_fail(s->c->g, "there are no shares of %dx%d pixels", h.w, h.h);
}

static void attend(struct state *s, int index, const struct unet_stage *stage) {
    struct unet_transformer_params p = {.heads = stage->heads,
                                        .depth = stage->depth[index],
                                        .groups = s->cfg->norm_groups,
                                        .linear_projection = s->cfg->linear_projection,
                                        .only_cross = stage->only_cross};
    bool parts = s->in->n_parts > 1;
    struct unet_view view = {parts ? s->in->parts : &s->whole, parts ? s->in->n_parts : 1, parts ? shares_of(s) : -1};
    char name[24];
    snprintf(name, sizeof name, "attentions.%d", index);
    s->h = unet_transformer(s->c, name, s->h, &view, &p);
}

static void push_skip(struct state *s) {
    s->skips[s->n_skips++] = s->h;
}

static void down_block(struct state *s, int level) {
    const struct unet_stage *stage = &s->cfg->down[level];
    size_t mark = graph_push(s->c->g, "down_blocks.%d", level);
    for (int i = 0; i < stage->layers; i++) {
        resnet(s, i, stage->channels, -1, 1);
        if (stage->attention) attend(s, i, stage);
        push_skip(s);
    }
    if (level + 1 < s->cfg->n_levels) {
        s->h = nn_downsampler(s->c, "downsamplers.0", s->h, s->cfg->downsample_padding);
        push_skip(s);
    }
    graph_pop(s->c->g, mark);
}

static void mid_block(struct state *s) {
    const struct unet_stage *stage = &s->cfg->mid_stage;
    if (s->cfg->mid == UNET_MID_NONE) return;
    size_t mark = graph_push(s->c->g, "mid_block");
    resnet(s, 0, stage->channels, -1, s->cfg->mid_scale);
    if (s->cfg->mid == UNET_MID_CROSS) {
        attend(s, 0, stage);
        resnet(s, 1, stage->channels, -1, s->cfg->mid_scale);
    }
    graph_pop(s->c->g, mark);
}

static void up_block(struct state *s, int index) {
    const struct unet_stage *stage = &s->cfg->up[index];
    size_t mark = graph_push(s->c->g, "up_blocks.%d", index);
    for (int i = 0; i < stage->layers; i++) {
        if (s->n_skips == 0) {
            graph_fail(s->c->g, "the up blocks have more layers than the down blocks left results for");
            break;
        }
        resnet(s, i, stage->channels, s->skips[--s->n_skips], 1);
        if (stage->attention) attend(s, i, stage);
    }
    if (index + 1 < s->cfg->n_levels && s->n_skips > 0) {
        struct shape next = nn_shape(s->c, s->skips[s->n_skips - 1]); /* odd sizes: not always twice */
        s->h = nn_upsampler(s->c, "upsamplers.0", s->h, next.h, next.w);
    }
    graph_pop(s->c->g, mark);
}

void unet_level_size(const struct unet_config *cfg, int level, int *w, int *h) {
    for (int i = 0; i < level; i++) { /* nn_downsampler */
        *w = (*w + (cfg->downsample_padding != 0)) / 2;
        *h = (*h + (cfg->downsample_padding != 0)) / 2;
    }
}

int unet_build(struct nn_ctx *c, const struct unet_config *cfg, const struct unet_inputs *in) {
    if (c->g->failed) return -1;
    struct shape x = nn_shape(c, in->sample), text = nn_shape(c, in->context);
    if (x.c != cfg->in_channels)
        return graph_fail(c->g, "the UNet takes %d channels, not %d", cfg->in_channels, x.c);
    if (text.c != cfg->context_dim)
        return graph_fail(c->g, "the UNet takes a text embedding of width %d, not %d", cfg->context_dim,
                          text.c);
    if (cfg->added_dim && nn_shape(c, in->added).c != cfg->added_dim)
        return graph_fail(c->g, "the UNet takes an added vector of width %d", cfg->added_dim);
    struct state s = {.c = c, .cfg = cfg, .in = in, .whole = {in->context, NULL}, .temb = time_embedding(c, cfg, in)};
    struct conv_params conv_in = {.k = cfg->conv_in_kernel, .stride = 1, .pad = cfg->conv_in_kernel / 2};
    struct conv_params conv_out = {.k = cfg->conv_out_kernel, .stride = 1, .pad = cfg->conv_out_kernel / 2};
    s.h = nn_conv(c, "conv_in", in->sample, cfg->down[0].channels, &conv_in, -1);
    push_skip(&s);
    for (int i = 0; i < cfg->n_levels; i++) down_block(&s, i);
    mid_block(&s);
    for (int i = 0; i < cfg->n_levels; i++) up_block(&s, i);
    int h = nn_group_norm(c, "conv_norm_out", s.h, cfg->norm_groups, cfg->norm_eps, true);
    h = nn_conv(c, "conv_out", h, cfg->out_channels, &conv_out, -1);
    return c->g->failed ? -1 : h;
}

bool unet_declare(struct nn_params *params, const struct unet_config *cfg, struct nn_target_list *targets,
                  struct error *e) {
    struct graph *g = graph_create(NULL, TENSOR_F32);
    struct nn_hook hook = {0};
    if (targets) hook = nn_target_recorder(targets);
    struct nn_ctx c = nn_begin(g, params, targets ? &hook : NULL, "");
    int size = 1 << (cfg->n_levels - 1);
    struct unet_inputs in = {.sample = graph_io(g, "sample", (struct shape){1, size, size, cfg->in_channels}),
                             .timestep = graph_io(g, "timestep", (struct shape){1, 1, 1, 1}),
                             .context = graph_io(g, "context", (struct shape){1, 1, 1, cfg->context_dim}),
                             .added = -1,
                             .time_cond = -1};
    if (cfg->added_dim) in.added = graph_io(g, "added", (struct shape){1, 1, 1, cfg->added_dim});
    if (cfg->time_cond_dim)
        in.time_cond = graph_io(g, "time_cond", (struct shape){1, 1, 1, cfg->time_cond_dim});
    unet_build(&c, cfg, &in);
    nn_end(&c);
    bool ok = graph_ok(g, e);
    graph_destroy(&g);
    return ok;
}

bool unet_added_fill(const struct unet_config *cfg, const float *pooled, int n_pooled, const float *time_ids,
                     int n_time_ids, float *dst, struct error *e) {
    int width = cfg->added_time_id_dim, half = width / 2;
    if (n_pooled + n_time_ids * width != cfg->added_dim)
        return error_set(
            e, "the UNet's added vector has %d numbers, but %d of pooled text and %d time ids of %d make %d",
            cfg->added_dim, n_pooled, n_time_ids, width, n_pooled + n_time_ids * width);
    memcpy(dst, pooled, (size_t)n_pooled * sizeof *dst);
    for (int i = 0; i < n_time_ids; i++) {
        float *out = dst + n_pooled + i * width;
        for (int k = 0; k < half; k++) {
            float angle = time_ids[i] * expf(-logf(10000.0f) * (float)k / ((float)half - cfg->freq_shift));
            out[cfg->flip_sin_to_cos ? k : half + k] = cosf(angle);
            out[cfg->flip_sin_to_cos ? half + k : k] = sinf(angle);
        }
    }
    return true;
}

void unet_guidance_fill(float cfg, int width, float *dst) {
    int half = width / 2;
    float step = logf(10000.0f) / (float)(half - 1), w = (cfg - 1) * 1000.0f;
    memset(dst, 0, (size_t)width * sizeof *dst);
    for (int k = 0; k < half; k++) {
        float angle = w * expf((float)k * -step);
        dst[k] = sinf(angle);
        dst[half + k] = cosf(angle);
    }
}
