#include "textenc/clip_naming.h"

#include <stdio.h>
#include <string.h>

enum { HEAD_WIDTH = 64, MAX_WIDTH = 1 << 16, MAX_VOCABULARY = 1 << 24, MAX_LAYERS = 256 };
static const char tower[] = "text_model.";

/* ---- Names ---- */

static bool place_hf(const void *ctx, const char *path, int attempt, struct nn_place *out) {
    if (attempt == 0) return nn_place_set(out, ctx, path);
    return attempt == 1 && !strncmp(path, tower, sizeof tower - 1) && nn_place_set(out, ctx, path + sizeof tower - 1);
}

struct nn_naming clip_hf_naming(const char *prefix) { return (struct nn_naming){place_hf, prefix}; }

/* A layer's parameter; query, key and value are thirds of one tensor. */
static bool place_layer(const char *prefix, int layer, const char *rest, struct nn_place *out) {
    static const char *const parts[][2] = {{"layer_norm1.", "ln_1."},    {"layer_norm2.", "ln_2."},
                                           {"mlp.fc1.", "mlp.c_fc."},    {"mlp.fc2.", "mlp.c_proj."},
                                           {"self_attn.out_proj.", "attn.out_proj."}};
    static const char *const thirds[] = {"self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."};
    char text[192];
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        size_t n = strlen(parts[i][0]);
        if (strncmp(rest, parts[i][0], n) != 0) continue;
        snprintf(text, sizeof text, "transformer.resblocks.%d.%s%s", layer, parts[i][1], rest + n);
        return nn_place_set(out, prefix, text);
    }
    for (int i = 0; i < 3; i++) {
        size_t n = strlen(thirds[i]);
        if (strncmp(rest, thirds[i], n) != 0) continue;
        snprintf(text, sizeof text, "transformer.resblocks.%d.attn.in_proj_%s", layer, rest + n);
        bool ok = nn_place_set(out, prefix, text);
        out->part = i, out->parts = 3;
        return ok;
    }
    return false;
}

static bool place_open(const void *ctx, const char *path, int attempt, struct nn_place *out) {
    static const char *const single[][2] = {{"text_model.embeddings.position_embedding.weight", "positional_embedding"},
                                            {"text_model.embeddings.token_embedding.weight", "token_embedding.weight"},
                                            {"text_model.final_layer_norm.weight", "ln_final.weight"},
                                            {"text_model.final_layer_norm.bias", "ln_final.bias"}};
    int layer, used = 0;
    if (!strcmp(path, "text_projection.weight")) {
        if (attempt > 1) return false;
        bool ok = nn_place_set(out, ctx, attempt ? "text_projection.weight" : "text_projection");
        out->transposed = attempt == 0; /* a linear layer's weight keeps its orientation */
        return ok;
    }
    if (attempt) return false;
    for (size_t i = 0; i < sizeof single / sizeof *single; i++)
        if (!strcmp(path, single[i][0])) return nn_place_set(out, ctx, single[i][1]);
    return sscanf(path, "text_model.encoder.layers.%d.%n", &layer, &used) == 1 && used &&
           place_layer(ctx, layer, path + used, out);
}

struct nn_naming clip_open_naming(const char *prefix) { return (struct nn_naming){place_open, prefix}; }

/* ---- The config of a file without one ---- */

static const struct st_tensor *find_place(const struct st_file *f, const struct nn_naming *n, const char *path,
                                          struct nn_place *place) {
    for (int attempt = 0; n->place(n->ctx, path, attempt, place); attempt++) {
        const struct st_tensor *t = st_find(f, place->name);
        if (t) return t;
    }
    return NULL;
}

static const struct st_tensor *find(const struct st_file *f, const struct nn_naming *n, const char *path) {
    struct nn_place place;
    return find_place(f, n, path, &place);
}

bool clip_hf_is(const struct st_file *f, const char *prefix) {
    struct nn_naming n = clip_hf_naming(prefix);
    return find(f, &n, "text_model.embeddings.token_embedding.weight") &&
           find(f, &n, "text_model.encoder.layers.0.mlp.fc1.weight");
}

bool clip_open_is(const struct st_file *f, const char *prefix) {
    struct nn_naming n = clip_open_naming(prefix);
    return find(f, &n, "text_model.embeddings.token_embedding.weight") &&
           find(f, &n, "text_model.encoder.layers.0.mlp.fc1.weight");
}

static bool usable(const struct st_tensor *t, int64_t most) {
    return t && t->rank == 2 && t->dims[0] > 0 && t->dims[1] > 0 && t->dims[0] <= most && t->dims[1] <= MAX_WIDTH;
}

bool clip_infer(struct clip_config *cfg, const struct st_file *f, const char *prefix, struct error *e) {
    bool open = clip_open_is(f, prefix);
    struct nn_naming n = open ? clip_open_naming(prefix) : clip_hf_naming(prefix);
    const struct st_tensor *tokens = find(f, &n, "text_model.embeddings.token_embedding.weight");
    const struct st_tensor *positions = find(f, &n, "text_model.embeddings.position_embedding.weight");
    const struct st_tensor *mlp = find(f, &n, "text_model.encoder.layers.0.mlp.fc1.weight");
    struct nn_place place;
    const struct st_tensor *projection = find_place(f, &n, "text_projection.weight", &place);
    *cfg = (struct clip_config){.quick_gelu = !open, .norm_eps = 1e-5f};
    if (!usable(tokens, MAX_VOCABULARY) || !usable(positions, MAX_WIDTH) || !usable(mlp, MAX_WIDTH * 4) ||
        (projection && !usable(projection, MAX_WIDTH)))
        return error_set(e, "%s: the text encoder under %s is incomplete or of an unknown kind", st_path(f), prefix);
    cfg->width = (int)tokens->dims[1], cfg->vocabulary = (int)tokens->dims[0], cfg->positions = (int)positions->dims[0];
    cfg->mlp_width = (int)mlp->dims[0];
    cfg->heads = cfg->width / HEAD_WIDTH;
    if (cfg->width % HEAD_WIDTH || cfg->vocabulary < 3 || cfg->positions < 3)
        return error_set(e, "%s: the text encoder under %s has width %d and %d tokens, which no CLIP has", st_path(f), prefix,
                         cfg->width, cfg->vocabulary);
    char path[96];
    do snprintf(path, sizeof path, "text_model.encoder.layers.%d.mlp.fc1.weight", ++cfg->layers);
    while (cfg->layers < MAX_LAYERS && find(f, &n, path));
    cfg->projection = projection != NULL;
    cfg->projection_dim = !projection ? cfg->width : (int)projection->dims[place.transposed ? 1 : 0];
    cfg->bos_id = cfg->vocabulary - 2, cfg->eos_id = cfg->pad_id = cfg->vocabulary - 1;
    return true;
}
