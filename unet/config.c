#include "unet/config.h"

#include <string.h>

#include "io/json.h"

/* What config.json holds before it is spread over the stages. */
struct raw {
    struct json_reader r;
    const json_t *obj;
    struct unet_config *cfg;
    bool attention_down[UNET_MAX_LEVELS], attention_up[UNET_MAX_LEVELS];
};

enum { MAX_CHANNELS = 1 << 16, MAX_DEPTH = 64 };

static bool fail_key(struct raw *raw, const char *key, const char *value, const char *hint) {
    if (!raw->r.failed) error_set(raw->r.e, "%s: %s is %s; %s", raw->r.file, key, value, hint);
    raw->r.failed = true;
    return false;
}

/* Keys that change what the network computes, in ways that no Stable Diffusion uses. */
static bool refuse_unknown(struct raw *raw) {
    static const char *const must_be_null[] = {
        "class_embed_type",  "encoder_hid_dim",       "encoder_hid_dim_type", "cross_attention_norm",
        "timestep_post_act", "time_embedding_act_fn", "num_class_embeds"};
    for (size_t i = 0; i < sizeof must_be_null / sizeof *must_be_null; i++)
        if (json_has(raw->obj, must_be_null[i]))
            return fail_key(raw, must_be_null[i], "set", "this kind of conditioning is not supported");
    static const char *const must_be_false[] = {"center_input_sample", "dual_cross_attention",
                                                "class_embeddings_concat", "resnet_skip_time_act"};
    for (size_t i = 0; i < sizeof must_be_false / sizeof *must_be_false; i++)
        if (json_read_bool(&raw->r, raw->obj, must_be_false[i], false))
            return fail_key(raw, must_be_false[i], "true", "this is not supported");
    static const struct {
        const char *key, *value, *other;
    } must_be[] = {{"time_embedding_type", "positional", ""},
                   {"resnet_time_scale_shift", "default", ""},
                   {"act_fn", "silu", "swish"},
                   {"attention_type", "default", ""}};
    for (size_t i = 0; i < sizeof must_be / sizeof *must_be; i++) {
        const char *v = json_read_string(&raw->r, raw->obj, must_be[i].key, must_be[i].value);
        if (!raw->r.failed && strcmp(v, must_be[i].value) && strcmp(v, must_be[i].other)) {
            char hint[96] = "only ";
            strcat(hint, must_be[i].value);
            return fail_key(raw, must_be[i].key, v, strcat(hint, " is supported"));
        }
    }
    return !raw->r.failed;
}

/* Per-level integers: one number means the same everywhere. */
static bool read_levels(struct raw *raw, const char *key, int def, int max, int *dst) {
    int64_t v[UNET_MAX_LEVELS];
    size_t n = json_read_ints(&raw->r, raw->obj, key, v, UNET_MAX_LEVELS, 0, max);
    size_t want = (size_t)raw->cfg->n_levels;
    if (raw->r.failed) return false;
    if (n > 1 && n != want)
        return fail_key(raw, key, "a list of another length", "it needs one entry per down block");
    for (size_t i = 0; i < want; i++) dst[i] = n == 0 ? def : (int)v[n == 1 ? 0 : i];
    return true;
}

/* Block types of one direction -> which have attention. Returns how many. */
static int read_types(struct raw *raw, const char *key, const char *plain, const char *cross,
                      bool *attention) {
    const char *types[UNET_MAX_LEVELS];
    if (!json_require(&raw->r, raw->obj, key)) return 0;
    size_t n = json_read_strings(&raw->r, raw->obj, key, types, UNET_MAX_LEVELS);
    for (size_t i = 0; i < n && !raw->r.failed; i++) {
        attention[i] = !strcmp(types[i], cross);
        if (!attention[i] && strcmp(types[i], plain))
            fail_key(raw, key, types[i],
                     "only plain and cross-attention blocks of Stable Diffusion are supported");
    }
    return raw->r.failed ? 0 : (int)n;
}

static void read_mid(struct raw *raw) {
    struct unet_config *cfg = raw->cfg;
    cfg->mid = UNET_MID_CROSS;
    if (json_is_null(json_object_get(raw->obj, "mid_block_type"))) {
        cfg->mid = UNET_MID_NONE; /* null differs from a missing key here */
        return;
    }
    const char *type = json_read_string(&raw->r, raw->obj, "mid_block_type", "UNetMidBlock2DCrossAttn");
    if (raw->r.failed) return;
    if (!strcmp(type, "UNetMidBlock2D"))
        cfg->mid = UNET_MID_PLAIN;
    else if (strcmp(type, "UNetMidBlock2DCrossAttn"))
        fail_key(raw, "mid_block_type", type,
                 "only UNetMidBlock2DCrossAttn, UNetMidBlock2D and null are supported");
}

/* One entry of a depth list: a number, or a list with one number per layer. */
static bool read_depth(struct raw *raw, const char *key, const json_t *v, struct unet_stage *s) {
    for (int i = 0; i < s->layers; i++) {
        const json_t *x = json_is_array(v) ? json_array_get(v, (size_t)i) : v;
        json_int_t d = json_is_integer(x) ? json_integer_value(x) : -1;
        if (d < 0 || d > MAX_DEPTH || (json_is_array(v) && json_array_size(v) != (size_t)s->layers))
            return fail_key(raw, key, "malformed", "it needs whole numbers, or a list of them per layer");
        s->depth[i] = (int)d;
    }
    return true;
}

static bool read_depths(struct raw *raw) {
    static const char key[] = "transformer_layers_per_block",
                      reverse[] = "reverse_transformer_layers_per_block";
    struct unet_config *cfg = raw->cfg;
    const json_t *v = json_object_get(raw->obj, key), *up = json_object_get(raw->obj, reverse);
    json_t *one = NULL;
    bool ok = true, nested = false;
    size_t n = (size_t)cfg->n_levels;
    if (!v || json_is_null(v)) v = one = json_integer(1);
    if (!up || json_is_null(up)) up = NULL;
    if ((json_is_array(v) && json_array_size(v) != n) ||
        (up && (!json_is_array(up) || json_array_size(up) != n)))
        ok = fail_key(raw, key, "a list of another length", "it needs one entry per down block");
    for (size_t i = 0; ok && i < n; i++) {
        const json_t *down = json_is_array(v) ? json_array_get(v, i) : v;
        nested |= json_is_array(down);
        ok = !cfg->down[i].attention || read_depth(raw, key, down, &cfg->down[i]);
    }
    if (ok && nested && !up)
        ok = fail_key(raw, reverse, "missing", "a list per layer in the down blocks needs it");
    for (size_t i = 0; ok && i < n; i++) {
        const json_t *d = up ? json_array_get(up, i) : json_is_array(v) ? json_array_get(v, n - 1 - i) : v;
        ok = !cfg->up[i].attention || read_depth(raw, up ? reverse : key, d, &cfg->up[i]);
    }
    if (ok && cfg->mid == UNET_MID_CROSS) {
        cfg->mid_stage.layers = 1;
        ok = read_depth(raw, key, json_is_array(v) ? json_array_get(v, n - 1) : v, &cfg->mid_stage);
    }
    json_decref(one);
    return ok;
}

static bool read_stages(struct raw *raw) {
    struct unet_config *cfg = raw->cfg;
    int n = read_types(raw, "down_block_types", "DownBlock2D", "CrossAttnDownBlock2D", raw->attention_down);
    int n_up = read_types(raw, "up_block_types", "UpBlock2D", "CrossAttnUpBlock2D", raw->attention_up);
    if (raw->r.failed) return false;
    if (n == 0 || n != n_up)
        return fail_key(raw, "up_block_types", "not as long as down_block_types", "they must match");
    cfg->n_levels = n;
    int channels[UNET_MAX_LEVELS], layers[UNET_MAX_LEVELS], heads[UNET_MAX_LEVELS];
    if (!json_require(&raw->r, raw->obj, "block_out_channels")) return false;
    /* Historic: without num_attention_heads, attention_head_dim is the NUMBER of heads. */
    const char *heads_key =
        json_has(raw->obj, "num_attention_heads") ? "num_attention_heads" : "attention_head_dim";
    if (!read_levels(raw, "block_out_channels", 0, MAX_CHANNELS, channels) ||
        !read_levels(raw, "layers_per_block", 2, UNET_MAX_LAYERS - 1, layers) ||
        !read_levels(raw, heads_key, 8, MAX_CHANNELS, heads))
        return false;
    bool only_cross = json_is_true(json_object_get(raw->obj, "only_cross_attention"));
    if (json_is_array(json_object_get(raw->obj, "only_cross_attention")))
        return fail_key(raw, "only_cross_attention", "a list", "only true and false are supported");
    for (int i = 0; i < n; i++) {
        if (channels[i] % 4 || channels[i] % cfg->norm_groups || !channels[i])
            return fail_key(raw, "block_out_channels", "not usable",
                            "entries must divide by 4 and by norm_num_groups");
        bool attends = raw->attention_down[i] || raw->attention_up[n - 1 - i] ||
                       (i == n - 1 && cfg->mid == UNET_MID_CROSS);
        if (attends && (!heads[i] || channels[i] % heads[i]))
            return fail_key(raw, heads_key, "not usable",
                            "it is the number of heads and must divide block_out_channels");
        if (!layers[i]) return fail_key(raw, "layers_per_block", "0", "at least 1 is needed");
        struct unet_stage s = {
            .channels = channels[i], .layers = layers[i], .heads = heads[i], .only_cross = only_cross};
        cfg->down[i] = s, cfg->up[n - 1 - i] = s;
        cfg->down[i].attention = raw->attention_down[i];
        cfg->up[n - 1 - i].attention = raw->attention_up[n - 1 - i];
        cfg->up[n - 1 - i].layers++;
    }
    cfg->mid_stage = (struct unet_stage){.channels = channels[n - 1], .layers = 1, .heads = heads[n - 1]};
    return read_depths(raw);
}

/* What the text and SDXL's extra vector bring in. */
static bool read_conditioning(struct raw *raw) {
    struct unet_config *cfg = raw->cfg;
    int64_t context[UNET_MAX_LEVELS];
    size_t n =
        json_read_ints(&raw->r, raw->obj, "cross_attention_dim", context, UNET_MAX_LEVELS, 1, MAX_CHANNELS);
    cfg->context_dim = n ? (int)context[0] : 1280;
    for (size_t i = 1; i < n; i++)
        if (context[i] != context[0])
            return fail_key(raw, "cross_attention_dim", "a list of several widths", "one width is supported");
    const char *added = json_read_string(&raw->r, raw->obj, "addition_embed_type", "");
    if (raw->r.failed || !added[0]) return !raw->r.failed;
    if (strcmp(added, "text_time"))
        return fail_key(raw, "addition_embed_type", added, "only text_time (SDXL) and null are supported");
    json_require(&raw->r, raw->obj, "projection_class_embeddings_input_dim");
    cfg->added_dim =
        (int)json_read_int(&raw->r, raw->obj, "projection_class_embeddings_input_dim", 0, 1, MAX_CHANNELS);
    cfg->added_time_id_dim = (int)json_read_int(&raw->r, raw->obj, "addition_time_embed_dim", 256, 2, 4096);
    return !raw->r.failed;
}

static void read_sample_size(struct raw *raw) {
    int64_t size[2];
    size_t n = json_read_ints(&raw->r, raw->obj, "sample_size", size, 2, 1, 1 << 14);
    if (n) raw->cfg->sample_h = (int)size[0], raw->cfg->sample_w = (int)size[n - 1];
}

static void read_scalars(struct raw *raw) {
    struct unet_config *cfg = raw->cfg;
    struct json_reader *r = &raw->r;
    const json_t *o = raw->obj;
    cfg->in_channels = (int)json_read_int(r, o, "in_channels", 4, 1, 1024);
    cfg->out_channels = (int)json_read_int(r, o, "out_channels", 4, 1, 1024);
    cfg->norm_groups = (int)json_read_int(r, o, "norm_num_groups", 32, 1, MAX_CHANNELS);
    cfg->norm_eps = (float)json_read_number(r, o, "norm_eps", 1e-5);
    cfg->linear_projection = json_read_bool(r, o, "use_linear_projection", false);
    cfg->upcast_attention = json_read_bool(r, o, "upcast_attention", false);
    cfg->flip_sin_to_cos = json_read_bool(r, o, "flip_sin_to_cos", true);
    cfg->freq_shift = (float)json_read_number(r, o, "freq_shift", 0);
    cfg->time_cond_dim = (int)json_read_int(r, o, "time_cond_proj_dim", 0, 0, MAX_CHANNELS);
    cfg->conv_in_kernel = (int)json_read_int(r, o, "conv_in_kernel", 3, 1, 15);
    cfg->conv_out_kernel = (int)json_read_int(r, o, "conv_out_kernel", 3, 1, 15);
    cfg->downsample_padding = (int)json_read_int(r, o, "downsample_padding", 1, 0, 1);
    cfg->mid_scale = (float)json_read_number(r, o, "mid_block_scale_factor", 1);
    if (cfg->conv_in_kernel % 2 == 0 || cfg->conv_out_kernel % 2 == 0)
        fail_key(raw, "conv_in_kernel or conv_out_kernel", "even", "kernels must be odd");
    if (!(cfg->mid_scale > 0)) fail_key(raw, "mid_block_scale_factor", "not positive", "it is divided by");
}

bool unet_config_load(struct unet_config *cfg, const char *path, struct error *e) {
    json_t *obj = json_file_load(path, 1 << 20, e);
    if (!obj) return false;
    *cfg = (struct unet_config){0};
    struct raw raw = {.r = {.file = path, .e = e}, .obj = obj, .cfg = cfg};
    read_scalars(&raw);
    if (!raw.r.failed) read_sample_size(&raw);
    if (!raw.r.failed) read_mid(&raw);
    bool ok = !raw.r.failed && refuse_unknown(&raw) && read_stages(&raw) && read_conditioning(&raw);
    if (ok)
        cfg->time_dim =
            (int)json_read_int(&raw.r, obj, "time_embedding_dim", 4 * cfg->down[0].channels, 1, MAX_CHANNELS);
    json_decref(obj);
    return ok && !raw.r.failed;
}

enum nn_family unet_config_family(const struct unet_config *cfg) {
    if (!cfg->added_dim) return cfg->linear_projection ? NN_FAMILY_SD2 : NN_FAMILY_SD1;
    if (cfg->mid == UNET_MID_CROSS) return NN_FAMILY_SDXL;
    return cfg->up[0].depth[0] > 2 ? NN_FAMILY_SSD_1B : NN_FAMILY_VEGA;
}
