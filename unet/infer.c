/* A single file's UNet config, from what is there. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "unet/ldm.h"

enum { GROUPS = 32, HEAD_WIDTH = 64, SD1_HEADS = 8, MAX_CHANNELS = 1 << 16,
       MAX_BLOCKS = UNET_MAX_LEVELS * (UNET_MAX_LAYERS + 1) };

struct scan {
    const struct st_file *f;
    const char *prefix;
    struct unet_config *cfg;
    struct error *e;
    bool failed;
};

static const struct st_tensor *find(const struct scan *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static const struct st_tensor *find(const struct scan *s, const char *fmt, ...) {
    char name[256];
    int n = snprintf(name, sizeof name, "%s", s->prefix);
    va_list args;
    va_start(args, fmt);
    vsnprintf(name + n, sizeof name - (size_t)n, fmt, args);
    va_end(args);
    return st_find(s->f, name);
}

/* One of a tensor's dimensions as a size that a layer can have. */
static int dim(struct scan *s, const struct st_tensor *t, int i, const char *what) {
    if (t && i < t->rank && t->dims[i] > 0 && t->dims[i] <= MAX_CHANNELS) return (int)t->dims[i];
    if (!s->failed)
        error_set(s->e, "%s: %s of its UNet %s; the file is incomplete or of an unknown kind", st_path(s->f), what,
                  t ? "has an unusual shape" : "is missing");
    s->failed = true;
    return 1;
}

bool unet_ldm_is(const struct st_file *f, const char *prefix) {
    struct scan s = {.f = f, .prefix = prefix};
    return find(&s, "input_blocks.0.0.weight") && find(&s, "out.2.weight");
}

/* A transformer's blocks; 0 where there is none. */
static int depth(const struct scan *s, const char *side, int block) {
    int n = 0;
    while (n < 64 && find(s, "%s.%d.1.transformer_blocks.%d.norm1.weight", side, block, n)) n++;
    return n;
}

/* Adds the layer of block i to a stage. */
static bool add_layer(struct scan *s, struct unet_stage *stage, const char *side, int i) {
    int channels = dim(s, find(s, "%s.%d.0.in_layers.2.weight", side, i), 0, "a resnet");
    if (stage->layers == UNET_MAX_LAYERS || (stage->layers && stage->channels != channels))
        return s->failed = true,
               error_set(s->e, "%s: its UNet's %s are not arranged in levels of one width", st_path(s->f), side);
    stage->channels = channels;
    bool attends = find(s, "%s.%d.1.norm.weight", side, i);
    if (stage->layers && stage->attention != attends)
        return s->failed = true,
               error_set(s->e, "%s: its UNet has attention behind some layers of a level only", st_path(s->f));
    stage->attention = attends;
    stage->depth[stage->layers++] = depth(s, side, i);
    return true;
}

static bool scan_down(struct scan *s) {
    struct unet_config *cfg = s->cfg;
    int level = 0;
    for (int i = 1; i < MAX_BLOCKS; i++) {
        if (find(s, "input_blocks.%d.0.op.weight", i)) {
            if (++level == UNET_MAX_LEVELS) break;
        } else if (find(s, "input_blocks.%d.0.in_layers.2.weight", i)) {
            if (!add_layer(s, &cfg->down[level], "input_blocks", i)) return false;
        } else {
            break;
        }
    }
    cfg->n_levels = level + 1;
    for (int i = 0; i <= level; i++)
        if (level == UNET_MAX_LEVELS || !cfg->down[i].layers || cfg->down[i].layers > UNET_MAX_LAYERS - 1)
            return s->failed = true,
                   error_set(s->e, "%s: its UNet's input blocks are not those of a Stable Diffusion", st_path(s->f));
    return true;
}

static bool scan_up(struct scan *s) {
    struct unet_config *cfg = s->cfg;
    int level = 0;
    for (int i = 0; i < MAX_BLOCKS && find(s, "output_blocks.%d.0.in_layers.2.weight", i); i++) {
        if (level == cfg->n_levels || !add_layer(s, &cfg->up[level], "output_blocks", i)) break;
        level += find(s, "output_blocks.%d.1.conv.weight", i) || find(s, "output_blocks.%d.2.conv.weight", i);
    }
    bool ok = !s->failed && level == cfg->n_levels - 1;
    for (int i = 0; ok && i < cfg->n_levels; i++)
        ok = cfg->up[i].layers == cfg->down[cfg->n_levels - 1 - i].layers + 1 &&
             cfg->up[i].channels == cfg->down[cfg->n_levels - 1 - i].channels;
    if (!ok && !s->failed) error_set(s->e, "%s: its UNet's output blocks do not mirror the input blocks", st_path(s->f));
    s->failed |= !ok;
    return ok;
}

static void scan_middle(struct scan *s) {
    struct unet_config *cfg = s->cfg;
    int blocks = 0;
    while (blocks < 64 && find(s, "middle_block.1.transformer_blocks.%d.norm1.weight", blocks)) blocks++;
    cfg->mid = blocks ? UNET_MID_CROSS : find(s, "middle_block.0.in_layers.2.weight") ? UNET_MID_PLAIN : UNET_MID_NONE;
    cfg->mid_stage = (struct unet_stage){.channels = cfg->down[cfg->n_levels - 1].channels, .layers = 1, .depth = {blocks}};
}

/* The first cross-attention anywhere, and its transformer's projection in. */
static void scan_attention(struct scan *s) {
    const struct st_tensor *k = NULL, *in = NULL;
    for (int i = 1; i < MAX_BLOCKS && !k; i++) {
        k = find(s, "input_blocks.%d.1.transformer_blocks.0.attn2.to_k.weight", i);
        in = find(s, "input_blocks.%d.1.proj_in.weight", i);
    }
    s->cfg->context_dim = dim(s, k, 1, "the cross-attention");
    s->cfg->linear_projection = s->cfg->added_dim || (in && in->rank == 2);
}

static bool set_heads(struct scan *s, struct unet_stage *stage) {
    int of_64 = stage->channels < HEAD_WIDTH ? 1 : stage->channels / HEAD_WIDTH;
    stage->heads = s->cfg->linear_projection ? of_64 : SD1_HEADS;
    bool attends = stage->attention || stage->depth[0];
    if (stage->channels % GROUPS == 0 && (!attends || stage->channels % stage->heads == 0)) return true;
    s->failed = true;
    return error_set(s->e, "%s: its UNet has %d channels at a level, which no Stable Diffusion divides into heads and groups",
                     st_path(s->f), stage->channels);
}

bool unet_ldm_infer(struct unet_config *cfg, const struct st_file *f, const char *prefix, struct error *e) {
    *cfg = (struct unet_config){.norm_groups = GROUPS, .norm_eps = 1e-5f, .flip_sin_to_cos = true, .mid_scale = 1,
                                .conv_in_kernel = 3, .conv_out_kernel = 3, .downsample_padding = 1, .added_time_id_dim = 256};
    struct scan s = {.f = f, .prefix = prefix, .cfg = cfg, .e = e};
    cfg->in_channels = dim(&s, find(&s, "input_blocks.0.0.weight"), 1, "the first convolution");
    cfg->out_channels = dim(&s, find(&s, "out.2.weight"), 0, "the last convolution");
    cfg->time_dim = dim(&s, find(&s, "time_embed.0.weight"), 0, "the time embedding");
    const struct st_tensor *added = find(&s, "label_emb.0.0.weight");
    if (added) cfg->added_dim = dim(&s, added, 1, "the added embedding");
    else cfg->added_time_id_dim = 0;
    if (s.failed || !scan_down(&s) || !scan_up(&s)) return false;
    scan_middle(&s);
    scan_attention(&s);
    if (cfg->down[0].channels % 4) return error_set(e, "%s: its UNet's first level is not usable", st_path(f));
    for (int i = 0; !s.failed && i < cfg->n_levels; i++)
        if (!set_heads(&s, &cfg->down[i]) || !set_heads(&s, &cfg->up[i])) return false;
    if (s.failed || !set_heads(&s, &cfg->mid_stage)) return false;
    return true;
}
