#include "lora/ldm.h"

#include "base/arena.h"

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
    return out->level >= 0 && out->level < LORA_LDM_LEVELS && out->index >= 0 && out->index < 64;
}

static void measure(const struct nn_target_list *unet, const char *side, struct lora_ldm_side *l) {
    struct place p;
    for (int i = 0; i < unet->n; i++) {
        if (!take_apart(unet->items[i].path, side, &p)) continue;
        if (strcmp(p.group, "resnets") == 0 && p.index >= l->resnets[p.level]) l->resnets[p.level] = p.index + 1;
        else if (strcmp(p.group, "attentions") == 0) l->attention[p.level] = true;
        else if (strstr(p.group, "samplers")) l->sampler[p.level] = true;
    }
}

void lora_ldm_measure(struct lora_ldm *l, const struct nn_target_list *unet) {
    memset(l, 0, sizeof *l);
    measure(unet, "down_blocks", &l->down);
    measure(unet, "up_blocks", &l->up);
}

static const char *resnet_part(const char *name) {
    static const char *const names[][2] = {{"norm1", "in_layers.0"},
                                           {"conv1", "in_layers.2"},
                                           {"norm2", "out_layers.0"},
                                           {"time_emb_proj", "emb_layers.1"},
                                           {"conv2", "out_layers.3"},
                                           {"conv_shortcut", "skip_connection"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i][0]) == 0) return names[i][1];
    return NULL;
}

static char *block_path(struct arena *a, const char *side, int block, int member, const char *rest) {
    return rest ? arena_printf(a, "%s.%d.%d.%s", side, block, member, rest) : NULL;
}

static char *down_path(const struct lora_ldm_side *l, const struct place *p, struct arena *a) {
    int block = 1;
    for (int b = 0; b < p->level; b++) block += l->resnets[b] + l->sampler[b];
    if (strcmp(p->group, "resnets") == 0)
        return block_path(a, "input_blocks", block + p->index, 0, resnet_part(p->rest));
    if (strcmp(p->group, "attentions") == 0) return block_path(a, "input_blocks", block + p->index, 1, p->rest);
    return block_path(a, "input_blocks", block + l->resnets[p->level], 0, "op");
}

/* The upsampler shares the number of the level's last resnet, behind its attention. */
static char *up_path(const struct lora_ldm_side *l, const struct place *p, struct arena *a) {
    int block = 0;
    for (int b = 0; b < p->level; b++) block += l->resnets[b];
    if (strcmp(p->group, "resnets") == 0)
        return block_path(a, "output_blocks", block + p->index, 0, resnet_part(p->rest));
    if (strcmp(p->group, "attentions") == 0) return block_path(a, "output_blocks", block + p->index, 1, p->rest);
    return block_path(a, "output_blocks", block + l->resnets[p->level] - 1, l->attention[p->level] ? 2 : 1, "conv");
}

static char *middle_path(const char *path, struct arena *a) {
    static const char resnets[] = "mid_block.resnets.", attention[] = "mid_block.attentions.0.";
    if (strncmp(path, attention, sizeof attention - 1) == 0)
        return arena_printf(a, "middle_block.1.%s", path + sizeof attention - 1);
    int index, used = 0;
    if (strncmp(path, resnets, sizeof resnets - 1) != 0) return NULL;
    path += sizeof resnets - 1;
    if (sscanf(path, "%d.%n", &index, &used) != 1 || !used || index < 0 || index > 1) return NULL;
    const char *part = resnet_part(path + used);
    return part ? arena_printf(a, "middle_block.%d.%s", 2 * index, part) : NULL;
}

char *lora_ldm_path(const struct lora_ldm *l, const char *path, struct arena *a) {
    static const char *const single[][2] = {{"conv_in", "input_blocks.0.0"},
                                            {"conv_norm_out", "out.0"},
                                            {"conv_out", "out.2"},
                                            {"time_embedding.linear_1", "time_embed.0"},
                                            {"time_embedding.linear_2", "time_embed.2"},
                                            {"add_embedding.linear_1", "label_emb.0.0"},
                                            {"add_embedding.linear_2", "label_emb.0.2"}};
    for (size_t i = 0; i < sizeof single / sizeof *single; i++)
        if (strcmp(path, single[i][0]) == 0) return arena_strdup(a, single[i][1]);
    struct place p;
    if (take_apart(path, "down_blocks", &p)) return down_path(&l->down, &p, a);
    if (take_apart(path, "up_blocks", &p)) return up_path(&l->up, &p, a);
    return middle_path(path, a);
}
