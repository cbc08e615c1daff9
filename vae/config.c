#include "vae/config.h"

#include <math.h>
#include <string.h>

#include "io/json.h"

static bool read_types(struct json_reader *r, const json_t *obj, const char *key, const char *only,
                       int n_levels) {
    const char *types[VAE_MAX_LEVELS];
    if (!json_require(r, obj, key)) return false;
    size_t n = json_read_strings(r, obj, key, types, VAE_MAX_LEVELS);
    if (r->failed) return false;
    if ((int)n != n_levels)
        return error_set(r->e, "%s: %s needs %d entries, one per level", r->file, key, n_levels);
    for (size_t i = 0; i < n; i++)
        if (strcmp(types[i], only))
            return error_set(r->e, "%s: %s has %s; only %s is supported", r->file, key, types[i], only);
    return true;
}

static bool read_all(struct json_reader *r, const json_t *obj, struct vae_config *cfg) {
    int64_t channels[VAE_MAX_LEVELS];
    if (!json_require(r, obj, "block_out_channels")) return false;
    cfg->n_levels = (int)json_read_ints(r, obj, "block_out_channels", channels, VAE_MAX_LEVELS, 1, 1 << 16);
    cfg->in_channels = (int)json_read_int(r, obj, "in_channels", 3, 1, 1024);
    cfg->out_channels = (int)json_read_int(r, obj, "out_channels", 3, 1, 1024);
    cfg->latent_channels = (int)json_read_int(r, obj, "latent_channels", 4, 1, 512);
    cfg->layers = (int)json_read_int(r, obj, "layers_per_block", 1, 1, 16);
    cfg->norm_groups = (int)json_read_int(r, obj, "norm_num_groups", 32, 1, 1 << 16);
    cfg->sample_size = (int)json_read_int(r, obj, "sample_size", 0, 1, 1 << 14);
    cfg->mid_attention = json_read_bool(r, obj, "mid_block_add_attention", true);
    cfg->quant_conv = json_read_bool(r, obj, "use_quant_conv", true);
    cfg->post_quant_conv = json_read_bool(r, obj, "use_post_quant_conv", true);
    cfg->force_upcast = json_read_bool(r, obj, "force_upcast", true);
    cfg->scaling_factor = (float)json_read_number(r, obj, "scaling_factor", 0.18215);
    cfg->shift_factor = (float)json_read_number(r, obj, "shift_factor", 0);
    const char *act = json_read_string(r, obj, "act_fn", "silu");
    if (r->failed) return false;
    if (strcmp(act, "silu") && strcmp(act, "swish"))
        return error_set(r->e, "%s: act_fn is %s; only silu is supported", r->file, act);
    if (json_has(obj, "latents_mean") || json_has(obj, "latents_std"))
        return error_set(r->e, "%s: latents_mean and latents_std are set; this latent space is not supported",
                         r->file);
    if (!(cfg->scaling_factor > 0) || !isfinite(cfg->scaling_factor) || !isfinite(cfg->shift_factor))
        return error_set(r->e, "%s: scaling_factor must be a positive number", r->file);
    for (int i = 0; i < cfg->n_levels; i++) {
        cfg->channels[i] = (int)channels[i];
        if (channels[i] % cfg->norm_groups)
            return error_set(r->e, "%s: block_out_channels must divide by norm_num_groups (%d)", r->file,
                             cfg->norm_groups);
    }
    return read_types(r, obj, "down_block_types", "DownEncoderBlock2D", cfg->n_levels) &&
           read_types(r, obj, "up_block_types", "UpDecoderBlock2D", cfg->n_levels);
}

bool vae_config_load(struct vae_config *cfg, const char *path, struct error *e) {
    json_t *obj = json_file_load(path, 1 << 20, e);
    if (!obj) return false;
    *cfg = (struct vae_config){0};
    struct json_reader r = {.file = path, .e = e};
    bool ok = read_all(&r, obj, cfg) && !r.failed;
    json_decref(obj);
    return ok;
}
