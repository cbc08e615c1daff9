#include "vae/ldm.h"

#include <stdio.h>
#include <string.h>

enum { GROUPS = 32, MAX_CHANNELS = 1 << 16, MAX_LAYERS = 16 };

/* ---- Names ---- */

/* diffusers' piece -> LDM's; applied wherever they occur in what follows the level. */
static const char *const pieces[][2] = {{"mid_block.resnets.0.", "mid.block_1."},
                                        {"mid_block.resnets.1.", "mid.block_2."},
                                        {"mid_block.attentions.0.group_norm.", "mid.attn_1.norm."},
                                        {"mid_block.attentions.0.to_q.", "mid.attn_1.q."},
                                        {"mid_block.attentions.0.to_k.", "mid.attn_1.k."},
                                        {"mid_block.attentions.0.to_v.", "mid.attn_1.v."},
                                        {"mid_block.attentions.0.to_out.0.", "mid.attn_1.proj_out."},
                                        {"conv_norm_out.", "norm_out."},
                                        {"conv_shortcut.", "nin_shortcut."}};

/* The first of the pieces in text is replaced. */
static bool replace_piece(char *text, size_t bytes) {
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        char *at = strstr(text, pieces[i][0]);
        if (!at) continue;
        char rest[256];
        snprintf(rest, sizeof rest, "%s", at + strlen(pieces[i][0]));
        int n = snprintf(at, bytes - (size_t)(at - text), "%s%s", pieces[i][1], rest);
        return n >= 0 && (size_t)n < bytes - (size_t)(at - text);
    }
    return true;
}

static bool place_ldm(const void *ctx, const char *path, int attempt, struct nn_place *out) {
    const struct vae_names *names = ctx;
    char text[256];
    int level, index, used = 0, n;
    if (attempt) return false;
    if (sscanf(path, "encoder.down_blocks.%d.resnets.%d.%n", &level, &index, &used) == 2 && used)
        n = snprintf(text, sizeof text, "encoder.down.%d.block.%d.%s", level, index, path + used);
    else if (sscanf(path, "decoder.up_blocks.%d.resnets.%d.%n", &level, &index, &used) == 2 && used)
        n = snprintf(text, sizeof text, "decoder.up.%d.block.%d.%s", names->n_levels - 1 - level, index, path + used);
    else if (sscanf(path, "encoder.down_blocks.%d.downsamplers.0.%n", &level, &used) == 1 && used)
        n = snprintf(text, sizeof text, "encoder.down.%d.downsample.%s", level, path + used);
    else if (sscanf(path, "decoder.up_blocks.%d.upsamplers.0.%n", &level, &used) == 1 && used)
        n = snprintf(text, sizeof text, "decoder.up.%d.upsample.%s", names->n_levels - 1 - level, path + used);
    else
        n = snprintf(text, sizeof text, "%s", path);
    return n >= 0 && (size_t)n < sizeof text && replace_piece(text, sizeof text) && nn_place_set(out, names->prefix, text);
}

struct nn_naming vae_ldm_naming(const struct vae_names *n) { return (struct nn_naming){place_ldm, n}; }

static bool place_diffusers(const void *ctx, const char *path, int attempt, struct nn_place *out) {
    static const char *const older[][2] = {
        {".to_q.", ".query."}, {".to_k.", ".key."}, {".to_v.", ".value."}, {".to_out.0.", ".proj_attn."}};
    const struct vae_names *names = ctx;
    if (attempt == 0) return nn_place_set(out, names->prefix, path);
    for (size_t i = 0; attempt == 1 && i < sizeof older / sizeof *older; i++) {
        const char *at = strstr(path, older[i][0]);
        char text[256];
        int n =
            at ? snprintf(text, sizeof text, "%.*s%s%s", (int)(at - path), path, older[i][1], at + strlen(older[i][0])) : -1;
        if (n >= 0 && (size_t)n < sizeof text) return nn_place_set(out, names->prefix, text);
    }
    return false;
}

struct nn_naming vae_diffusers_naming(const struct vae_names *n) { return (struct nn_naming){place_diffusers, n}; }

/* ---- The config of a file without one ---- */

struct scan {
    const struct st_file *f;
    const char *prefix;
    bool ldm;
    struct error *e;
    bool failed;
};

static const struct st_tensor *find(const struct scan *s, const char *name) {
    char full[256];
    snprintf(full, sizeof full, "%s%s", s->prefix, name);
    return st_find(s->f, full);
}

static const struct st_tensor *find_resnet(const struct scan *s, int level, int index) {
    char name[96];
    snprintf(name, sizeof name,
             s->ldm ? "encoder.down.%d.block.%d.conv2.weight" : "encoder.down_blocks.%d.resnets.%d.conv2.weight", level, index);
    return find(s, name);
}

static int dim(struct scan *s, const struct st_tensor *t, int i, const char *what) {
    if (t && i < t->rank && t->dims[i] > 0 && t->dims[i] <= MAX_CHANNELS) return (int)t->dims[i];
    if (!s->failed)
        error_set(s->e, "%s: %s of its VAE %s; the file is incomplete or of an unknown kind", st_path(s->f), what,
                  t ? "has an unusual shape" : "is missing");
    s->failed = true;
    return 1;
}

bool vae_ldm_is(const struct st_file *f, const char *prefix) {
    struct scan s = {.f = f, .prefix = prefix, .ldm = true};
    return find_resnet(&s, 0, 0) && find(&s, "decoder.conv_in.weight");
}

bool vae_diffusers_is(const struct st_file *f, const char *prefix) {
    struct scan s = {.f = f, .prefix = prefix};
    return find_resnet(&s, 0, 0) && find(&s, "decoder.conv_in.weight");
}

bool vae_infer(struct vae_config *cfg, const struct st_file *f, const char *prefix, struct error *e) {
    struct scan s = {.f = f, .prefix = prefix, .ldm = vae_ldm_is(f, prefix), .e = e};
    *cfg = (struct vae_config){.norm_groups = GROUPS, .scaling_factor = 0.18215f, .force_upcast = true};
    cfg->in_channels = dim(&s, find(&s, "encoder.conv_in.weight"), 1, "the encoder's first convolution");
    cfg->out_channels = dim(&s, find(&s, "decoder.conv_out.weight"), 0, "the decoder's last convolution");
    cfg->latent_channels = dim(&s, find(&s, "decoder.conv_in.weight"), 1, "the decoder's first convolution");
    cfg->quant_conv = find(&s, "quant_conv.weight");
    cfg->post_quant_conv = find(&s, "post_quant_conv.weight");
    cfg->mid_attention =
        find(&s, s.ldm ? "encoder.mid.attn_1.norm.weight" : "encoder.mid_block.attentions.0.group_norm.weight");
    for (int level = 0; level < VAE_MAX_LEVELS && find_resnet(&s, level, 0); level++) {
        int layers = 1;
        while (layers < MAX_LAYERS && find_resnet(&s, level, layers)) layers++;
        if (level && layers != cfg->layers) return error_set(e, "%s: its VAE has levels of different depth", st_path(f));
        cfg->layers = layers;
        cfg->channels[level] = dim(&s, find_resnet(&s, level, 0), 0, "a resnet");
        cfg->n_levels = level + 1;
        if (!s.failed && cfg->channels[level] % GROUPS)
            return error_set(e, "%s: its VAE has %d channels at a level, which no Stable Diffusion has", st_path(f),
                             cfg->channels[level]);
    }
    if (!cfg->n_levels) dim(&s, NULL, 0, "the first level");
    return !s.failed;
}
