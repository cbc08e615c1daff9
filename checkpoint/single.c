#include "checkpoint/single.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/text.h"
#include "checkpoint/kind.h"

enum { PIXELS_PER_LATENT = 8 };

static bool refuse(const struct st_file *f, struct error *e) {
    const char *path = TEXT_SHOW(st_path(f));
    struct checkpoint_kind kind;
    if (checkpoint_foreign(f, &kind)) return error_set(e, "%s is %s; %s.", path, kind.name, kind.hint);
    if (st_find(f, "down_blocks.0.resnets.0.norm1.weight"))
        return error_set(e, "%s is the UNet of a diffusers folder alone; give the folder that unet/ lies in.", path);
    if (vae_ldm_is(f, "") || vae_ldm_is(f, "first_stage_model.") || vae_diffusers_is(f, ""))
        return error_set(e, "%s is a VAE alone; give a whole checkpoint with --model and this one with --vae.", path);
    if (clip_hf_is(f, "") || clip_open_is(f, ""))
        return error_set(e, "%s is a text encoder alone; a whole checkpoint is needed.", path);
    return error_set(e, "%s is no Stable Diffusion checkpoint: it has no UNet (model.diffusion_model.*) among its %zu tensors.",
                     path, st_count(f));
}

static bool open_unet(struct checkpoint_single *c, struct error *e) {
    static const char *const prefixes[] = {"model.diffusion_model.", "diffusion_model.", ""};
    size_t i = 0, n = sizeof prefixes / sizeof *prefixes;
    struct checkpoint_kind kind;
    while (i < n && !unet_ldm_is(c->file, prefixes[i])) i++;
    if (i == n) return refuse(c->file, e);
    /* Video models and others are built around the same UNet. */
    if (checkpoint_foreign(c->file, &kind) && kind.is_model)
        return error_set(e, "%s is %s; %s.", TEXT_SHOW(st_path(c->file)), kind.name, kind.hint);
    if (!unet_ldm_infer(&c->unet, c->file, prefixes[i], e)) return false;
    c->family = unet_config_family(&c->unet);
    unet_ldm_measure(&c->unet_names, &c->unet);
    c->unet_names.prefix = prefixes[i];
    c->unet_naming = unet_ldm_naming(&c->unet_names);
    return true;
}

static bool open_vae(struct checkpoint_single *c, struct error *e) {
    static const char *const prefixes[] = {"first_stage_model.", "vae."};
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        bool ldm = vae_ldm_is(c->file, prefixes[i]);
        if (!ldm && !vae_diffusers_is(c->file, prefixes[i])) continue;
        if (!vae_infer(&c->vae, c->file, prefixes[i], e)) return false;
        c->has_vae = true;
        c->vae_names = (struct vae_names){prefixes[i], c->vae.n_levels};
        c->vae_naming = ldm ? vae_ldm_naming(&c->vae_names) : vae_diffusers_naming(&c->vae_names);
        return true;
    }
    return true;
}

static bool add_text(struct checkpoint_single *c, const char *prefix, bool open, struct error *e) {
    struct clip_config *cfg = &c->texts[c->n_texts];
    if (!clip_infer(cfg, c->file, prefix, e)) return false;
    c->text_naming[c->n_texts++] = open ? clip_open_naming(prefix) : clip_hf_naming(prefix);
    return true;
}

/* 24 layers of which the last is not used; some files have left it out. */
static void drop_last_layer(struct checkpoint_single *c) {
    struct clip_config *cfg = &c->texts[0];
    if (cfg->layers != 23 && cfg->layers > 1) c->last_layer = --cfg->layers;
}

static bool open_texts(struct checkpoint_single *c, struct error *e) {
    static const char sd1[] = "cond_stage_model.transformer.", sd2[] = "cond_stage_model.model.",
                      first[] = "conditioner.embedders.0.transformer.", second[] = "conditioner.embedders.1.model.",
                      refiner[] = "conditioner.embedders.0.model.";
    const struct st_file *f = c->file;
    const char *path = TEXT_SHOW(st_path(f));
    bool ok = true;
    if (nn_family_is_xl(c->family)) {
        if (clip_open_is(f, refiner))
            return error_set(e, "%s is an SDXL refiner (it has the second text encoder alone), which this version does not "
                                "run; give the base model.", path);
        if (!clip_hf_is(f, first) || !clip_open_is(f, second))
            return error_set(e, "%s lacks a text encoder of SDXL (%s* and %s* are needed); it may hold the UNet alone.", path,
                             first, second);
        ok = add_text(c, first, false, e) && add_text(c, second, true, e);
        if (ok) c->texts[0].projection = false; /* only the second tower's is used */
        if (ok) c->texts[1].pad_id = 0;
        return ok;
    }
    if (clip_open_is(f, sd2)) {
        ok = add_text(c, sd2, true, e);
        if (ok) drop_last_layer(c);
        if (ok) c->texts[0].pad_id = 0;
    } else if (clip_hf_is(f, sd1)) {
        ok = add_text(c, sd1, false, e);
    } else {
        return error_set(e, "%s has no text encoder (%s* or %s*); it may hold the UNet alone, and a whole checkpoint is "
                            "needed.", path, sd1, sd2);
    }
    if (ok) c->texts[0].projection = false;
    return ok;
}

/* ---- What the UNet predicts ---- */

static bool says(const char *text, const char *piece) { return text && strstr(text, piece); }

static void find_prediction(struct checkpoint_single *c) {
    const struct st_file *f = c->file;
    const char *spec = st_meta_find(f, "modelspec.prediction_type"), *architecture = st_meta_find(f, "modelspec.architecture");
    const char *step = st_meta_find(f, "global_step");
    enum schedule_prediction *p = &c->schedule.prediction;
    *p = SCHEDULE_PREDICT_EPSILON;
    c->prediction_from = "as every model of this family without a mark";
    c->schedule.zero_terminal_snr = st_find(f, "ztsnr") != NULL;
    if (st_find(f, "v_pred")) {
        *p = SCHEDULE_PREDICT_V, c->prediction_from = "the file's mark v_pred";
    } else if (spec) {
        if (spec[0] == 'v') *p = SCHEDULE_PREDICT_V;
        c->prediction_from = "the file's metadata (modelspec.prediction_type)";
    } else if (c->family == NN_FAMILY_SD2) {
        if (says(architecture, "768-v") || says(architecture, "512")) {
            if (says(architecture, "768-v")) *p = SCHEDULE_PREDICT_V;
            c->prediction_from = "the file's metadata (modelspec.architecture)";
        } else if (step) { /* 875000: 512-base-ema, the published epsilon model */
            if (strtoll(step, NULL, 10) != 875000) *p = SCHEDULE_PREDICT_V;
            c->prediction_from = "the file's global_step";
        } else if (c->unet.in_channels == 4) {
            *p = SCHEDULE_PREDICT_V;
            c->prediction_guessed = true;
            c->prediction_from = "a guess: Stable Diffusion 2 files do not say it";
        }
    }
}

static void finish_configs(struct checkpoint_single *c) {
    bool xl = nn_family_is_xl(c->family);
    c->schedule = (struct schedule_params){.beta = SCHEDULE_BETA_SCALED_LINEAR, .beta_start = 0.00085, .beta_end = 0.012,
                                           .n_train = 1000, .steps_offset = 1, .final_alpha_first = true,
                                           .spacing = xl ? SCHEDULE_SPACING_LEADING : SCHEDULE_SPACING_DEFAULT};
    find_prediction(c);
    int latent = xl ? 128 : c->schedule.prediction == SCHEDULE_PREDICT_V ? 96 : 64;
    c->unet.sample_w = c->unet.sample_h = latent;
    c->unet.upcast_attention = c->family == NN_FAMILY_SD2;
    if (c->has_vae) {
        c->vae.scaling_factor = xl ? 0.13025f : 0.18215f;
        c->vae.sample_size = latent * PIXELS_PER_LATENT;
    }
    /* Six time ids behind the pooled text; 256 each in every published model. */
    int times = xl ? c->unet.added_dim - c->texts[1].projection_dim : 0;
    if (times > 0 && times % 12 == 0) c->unet.added_time_id_dim = times / 6;
}

struct checkpoint_single *checkpoint_single_open(const char *path, struct error *e) {
    struct arena *a = arena_create(NULL);
    struct checkpoint_single *c = arena_alloc(a, sizeof *c);
    c->arena = a;
    c->last_layer = -1;
    c->file = st_open(path, e);
    if (!c->file || !open_unet(c, e) || !open_vae(c, e) || !open_texts(c, e)) {
        checkpoint_single_close(&c);
        return NULL;
    }
    finish_configs(c);
    return c;
}

void checkpoint_single_close(struct checkpoint_single **p) {
    struct checkpoint_single *c = *p;
    if (!c) return;
    *p = NULL;
    st_close(&c->file);
    struct arena *a = c->arena;
    arena_destroy(&a);
}
