#include "textenc/clip_config.h"

#include <string.h>

#include "io/json.h"

static bool read_all(struct json_reader *r, const json_t *obj, struct clip_config *cfg) {
    const char *names[4] = {0};
    if (!json_require(r, obj, "hidden_size") || !json_require(r, obj, "num_hidden_layers")) return false;
    cfg->width = (int)json_read_int(r, obj, "hidden_size", 512, 4, 1 << 16);
    cfg->mlp_width = (int)json_read_int(r, obj, "intermediate_size", 2048, 1, 1 << 18);
    cfg->layers = (int)json_read_int(r, obj, "num_hidden_layers", 12, 1, 256);
    cfg->heads = (int)json_read_int(r, obj, "num_attention_heads", 8, 1, 1 << 12);
    cfg->vocabulary = (int)json_read_int(r, obj, "vocab_size", 49408, 1, 1 << 24);
    cfg->positions = (int)json_read_int(r, obj, "max_position_embeddings", 77, 3, 1 << 16);
    cfg->norm_eps = (float)json_read_number(r, obj, "layer_norm_eps", 1e-5);
    cfg->projection_dim = (int)json_read_int(r, obj, "projection_dim", 512, 1, 1 << 16);
    cfg->bos_id = (int)json_read_int(r, obj, "bos_token_id", 49406, 0, 1 << 24);
    cfg->eos_id = (int)json_read_int(r, obj, "eos_token_id", 49407, 0, 1 << 24);
    cfg->pad_id = (int)json_read_int(r, obj, "pad_token_id", 1, 0, 1 << 24);
    const char *act = json_read_string(r, obj, "hidden_act", "quick_gelu");
    size_t n = json_read_strings(r, obj, "architectures", names, 4);
    if (r->failed) return false;
    for (size_t i = 0; i < n; i++)
        if (!strcmp(names[i], "CLIPTextModelWithProjection"))
            cfg->projection = true;
        else if (strcmp(names[i], "CLIPTextModel"))
            return error_set(
                r->e, "%s: architecture %s; only CLIPTextModel and CLIPTextModelWithProjection are supported",
                r->file, names[i]);
    cfg->quick_gelu = !strcmp(act, "quick_gelu");
    if (!cfg->quick_gelu && strcmp(act, "gelu"))
        return error_set(r->e, "%s: hidden_act is %s; only quick_gelu and gelu are supported", r->file, act);
    if (cfg->width % cfg->heads)
        return error_set(r->e, "%s: num_attention_heads (%d) must divide hidden_size (%d)", r->file,
                         cfg->heads, cfg->width);
    return true;
}

bool clip_config_load(struct clip_config *cfg, const char *path, struct error *e) {
    json_t *obj = json_file_load(path, 1 << 20, e);
    if (!obj) return false;
    *cfg = (struct clip_config){0};
    struct json_reader r = {.file = path, .e = e};
    bool ok = read_all(&r, obj, cfg) && !r.failed;
    json_decref(obj);
    return ok;
}
