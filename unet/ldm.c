#include "unet/ldm.h"

#include <stdio.h>
#include <string.h>

/* "down_blocks.2.resnets.1.conv1" -> level 2, group "resnets", index 1, rest "conv1". */
struct place {
    int level, index;
    char group[16];
    const char *rest;
};

static bool take_apart(const char *path, const char *side, struct place *out) {
    size_t n = strlen(side);
    int used = 0;
    if (strncmp(path, side, n) != 0) return false;
    if (sscanf(path + n, ".%d.%15[a-z].%d.%n", &out->level, out->group, &out->index, &used) != 3 || !used) return false;
    out->rest = path + n + used;
    return out->level >= 0 && out->level < UNET_LDM_LEVELS && out->index >= 0 && out->index < 64;
}

static void measure_side(struct unet_ldm_side *l, const char *side, const char *path) {
    struct place p;
    if (!take_apart(path, side, &p)) return;
    if (!strcmp(p.group, "resnets") && p.index >= l->resnets[p.level]) l->resnets[p.level] = p.index + 1;
    else if (!strcmp(p.group, "attentions")) l->attention[p.level] = true;
    else if (strstr(p.group, "samplers")) l->sampler[p.level] = true;
}

void unet_ldm_measure_path(struct unet_ldm *l, const char *path) {
    measure_side(&l->down, "down_blocks", path);
    measure_side(&l->up, "up_blocks", path);
}

void unet_ldm_measure(struct unet_ldm *l, const struct unet_config *cfg) {
    _Static_assert((int)UNET_MAX_LEVELS <= (int)UNET_LDM_LEVELS, "every level has a place");
    for (int i = 0; i < cfg->n_levels; i++) {
        l->down.resnets[i] = cfg->down[i].layers, l->up.resnets[i] = cfg->up[i].layers;
        l->down.attention[i] = cfg->down[i].attention, l->up.attention[i] = cfg->up[i].attention;
        l->down.sampler[i] = l->up.sampler[i] = i + 1 < cfg->n_levels;
    }
}

/* ---- Names ---- */

static const char *resnet_part(const char *name) {
    static const char *const names[][2] = {{"norm1", "in_layers.0"},          {"conv1", "in_layers.2"},
                                           {"time_emb_proj", "emb_layers.1"}, {"norm2", "out_layers.0"},
                                           {"conv2", "out_layers.3"},         {"conv_shortcut", "skip_connection"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(name, names[i][0])) return names[i][1];
    return NULL;
}

struct text {
    char *dst;
    size_t bytes;
};

static bool put(const struct text *t, const char *side, int block, int member, const char *rest) {
    int n = rest ? snprintf(t->dst, t->bytes, "%s.%d.%d.%s", side, block, member, rest) : -1;
    return n >= 0 && (size_t)n < t->bytes;
}

static bool put_down(const struct unet_ldm_side *l, const struct place *p, const struct text *t) {
    int block = 1;
    for (int b = 0; b < p->level; b++) block += l->resnets[b] + l->sampler[b];
    if (!strcmp(p->group, "resnets")) return put(t, "input_blocks", block + p->index, 0, resnet_part(p->rest));
    if (!strcmp(p->group, "attentions")) return put(t, "input_blocks", block + p->index, 1, p->rest);
    return put(t, "input_blocks", block + l->resnets[p->level], 0, "op");
}

/* The upsampler shares the number of the level's last resnet, behind its attention. */
static bool put_up(const struct unet_ldm_side *l, const struct place *p, const struct text *t) {
    int block = 0;
    for (int b = 0; b < p->level; b++) block += l->resnets[b];
    if (!strcmp(p->group, "resnets")) return put(t, "output_blocks", block + p->index, 0, resnet_part(p->rest));
    if (!strcmp(p->group, "attentions")) return put(t, "output_blocks", block + p->index, 1, p->rest);
    return put(t, "output_blocks", block + l->resnets[p->level] - 1, l->attention[p->level] ? 2 : 1, "conv");
}

static bool put_middle(const char *path, const struct text *t) {
    static const char resnets[] = "mid_block.resnets.", attention[] = "mid_block.attentions.0.";
    if (!strncmp(path, attention, sizeof attention - 1)) {
        int n = snprintf(t->dst, t->bytes, "middle_block.1.%s", path + sizeof attention - 1);
        return n >= 0 && (size_t)n < t->bytes;
    }
    int index, used = 0;
    if (strncmp(path, resnets, sizeof resnets - 1) != 0) return false;
    path += sizeof resnets - 1;
    if (sscanf(path, "%d.%n", &index, &used) != 1 || !used || index < 0 || index > 1) return false;
    const char *part = resnet_part(path + used);
    int n = part ? snprintf(t->dst, t->bytes, "middle_block.%d.%s", 2 * index, part) : -1;
    return n >= 0 && (size_t)n < t->bytes;
}

bool unet_ldm_path(const struct unet_ldm *l, const char *path, char *dst, size_t bytes) {
    static const char *const single[][2] = {{"conv_in", "input_blocks.0.0"},
                                            {"conv_norm_out", "out.0"},
                                            {"conv_out", "out.2"},
                                            {"time_embedding.linear_1", "time_embed.0"},
                                            {"time_embedding.linear_2", "time_embed.2"},
                                            {"add_embedding.linear_1", "label_emb.0.0"},
                                            {"add_embedding.linear_2", "label_emb.0.2"}};
    struct text t = {dst, bytes};
    for (size_t i = 0; i < sizeof single / sizeof *single; i++)
        if (!strcmp(path, single[i][0])) return (size_t)snprintf(dst, bytes, "%s", single[i][1]) < bytes;
    struct place p;
    if (take_apart(path, "down_blocks", &p)) return put_down(&l->down, &p, &t);
    if (take_apart(path, "up_blocks", &p)) return put_up(&l->up, &p, &t);
    return put_middle(path, &t);
}

/* "LAYER.weight": the layer's name changes, the parameter's stays. */
static bool place(const void *ctx, const char *path, int attempt, struct nn_place *out) {
    const struct unet_ldm *l = ctx;
    const char *dot = strrchr(path, '.');
    char layer[256], name[256];
    if (attempt || !dot || (size_t)(dot - path) >= sizeof layer) return false;
    snprintf(layer, sizeof layer, "%.*s", (int)(dot - path), path);
    if (!unet_ldm_path(l, layer, name, sizeof name) || strlen(name) + strlen(dot) >= sizeof name) return false;
    return nn_place_set(out, l->prefix, strcat(name, dot));
}

struct nn_naming unet_ldm_naming(const struct unet_ldm *l) { return (struct nn_naming){place, l}; }
