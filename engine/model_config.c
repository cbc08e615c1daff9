/* What a folder's configs say about a model, and whether its parts belong together. */
#include <string.h>

#include "base/os.h"
#include "engine/model_priv.h"
#include "io/json.h"

static bool parse_named(struct json_reader *r, const json_t *o, const char *key, const char *def,
                        bool (*parse)(const char *, void *, struct error *), void *out) {
    const char *name = json_read_string(r, o, key, def);
    if (r->failed || !name) return !r->failed;
    return parse(name, out, r->e);
}

static bool parse_beta(const char *n, void *o, struct error *e) { return schedule_beta_parse(n, o, e); }
static bool parse_prediction(const char *n, void *o, struct error *e) { return schedule_prediction_parse(n, o, e); }
static bool parse_spacing(const char *n, void *o, struct error *e) { return schedule_spacing_parse(n, o, e); }

bool model_schedule_load(struct schedule_params *s, const char *path, struct error *err) {
    *s = (struct schedule_params){0};
    json_t *o = json_file_load(path, 0, err);
    if (!o) return false;
    struct json_reader r = {.file = path, .e = err};
    const char *kind = json_read_string(&r, o, "_class_name", "");
    if (kind && (!strncmp(kind, "EDM", 3) || !strncmp(kind, "FlowMatch", 9))) {
        error_set(err, "%s: %s belongs to models of another kind (%s), which this program does not run.", path, kind,
                  kind[0] == 'E' ? "EDM, such as Playground 2.5" : "flow matching, such as Stable Diffusion 3 and Flux");
        json_decref(o);
        return false;
    }
    bool ddim = kind && (!strcmp(kind, "DDIMScheduler") || !strcmp(kind, "DDPMScheduler"));
    s->beta_start = json_read_number(&r, o, "beta_start", 0.0001);
    s->beta_end = json_read_number(&r, o, "beta_end", 0.02);
    s->n_train = (int)json_read_int(&r, o, "num_train_timesteps", 1000, 1, 1000000);
    s->steps_offset = (int)json_read_int(&r, o, "steps_offset", 0, 0, 1000000);
    s->zero_terminal_snr = json_read_bool(&r, o, "rescale_betas_zero_snr", false);
    s->final_alpha_first = !json_read_bool(&r, o, "set_alpha_to_one", true);
    if (json_read_bool(&r, o, "clip_sample", ddim)) s->clip_range = (float)json_read_number(&r, o, "clip_sample_range", 1);
    if (json_read_bool(&r, o, "use_karras_sigmas", false)) s->sigmas = SCHEDULE_SIGMAS_KARRAS;
    if (json_read_bool(&r, o, "use_exponential_sigmas", false)) s->sigmas = SCHEDULE_SIGMAS_EXPONENTIAL;
    if (json_read_bool(&r, o, "use_beta_sigmas", false)) s->sigmas = SCHEDULE_SIGMAS_BETA;
    const char *last = json_read_string(&r, o, "final_sigmas_type", "zero");
    s->final_sigma_min = last && !strcmp(last, "sigma_min");
    bool ok = !r.failed && parse_named(&r, o, "beta_schedule", "linear", parse_beta, &s->beta) &&
              parse_named(&r, o, "prediction_type", "epsilon", parse_prediction, &s->prediction) &&
              parse_named(&r, o, "timestep_spacing", NULL, parse_spacing, &s->spacing);
    if (ok && json_has(o, "trained_betas"))
        ok = error_set(err, "%s has its own list of betas (trained_betas), which is not supported; remove the key if it "
                       "repeats a named schedule.", path);
    json_decref(o);
    return ok;
}

const char *model_prediction_name(enum schedule_prediction p) {
    return p == SCHEDULE_PREDICT_V ? "v_prediction" : p == SCHEDULE_PREDICT_SAMPLE ? "sample" : "epsilon";
}

static bool load_text(struct model *m, const char *suffix, const struct model_files *o, struct error *err) {
    struct arena *a = m->arena;
    struct model_text *t = &m->texts[m->n_texts++];
    t->part = arena_printf(a, "text_encoder%s", suffix);
    const char *config = arena_printf(a, "%s/%s/config.json", m->path, t->part);
    const char *tokenizer = o->tokenizer ? o->tokenizer : arena_printf(a, "%s/tokenizer%s", m->path, suffix);
    if (!model_need_file(config, m->n_texts > 1 ? "second text encoder" : "text encoder", err) ||
        !clip_config_load(&t->cfg, config, err) ||
        !model_need_file(arena_printf(a, "%s/vocab.json", tokenizer), "tokenizer", err))
        return false;
    return (t->tokenizer = tokenizer_load(tokenizer, err)) != NULL;
}

bool model_configs_load(struct model *m, const struct model_files *o, struct error *err) {
    struct arena *a = m->arena;
    const char *unet = arena_printf(a, "%s/unet/config.json", m->path), *vae = arena_printf(a, "%s/vae/config.json", m->path);
    const char *scheduler = arena_printf(a, "%s/scheduler/scheduler_config.json", m->path);
    if (!model_need_file(unet, "UNet", err) || !unet_config_load(&m->unet, unet, err) ||
        !model_need_file(scheduler, "scheduler", err) || !model_schedule_load(&m->schedule, scheduler, err) ||
        (!o->vae && (!model_need_file(vae, "VAE", err) || !vae_config_load(&m->vae, vae, err))))
        return false;
    m->family = unet_config_family(&m->unet);
    m->zeros_for_empty = m->zeros_for_empty && nn_family_is_xl(m->family);
    if (!nn_family_is_xl(m->family)) {
        /* What the reference pipeline overrides whatever the scheduler's file says. */
        m->schedule.steps_offset = 1;
        m->schedule.clip_range = 0;
        return load_text(m, "", o, err);
    }
    if (!os_path_is_file(arena_printf(a, "%s/text_encoder/config.json", m->path)))
        return error_set(err, "%s is an SDXL refiner (it has the second text encoder alone), which this version does not run; "
                         "give the base model.", m->path);
    return load_text(m, "", o, err) && load_text(m, "_2", o, err);
}

static bool check_channels(const struct model *m, struct error *err) {
    int in = m->unet.in_channels, latent = m->vae.latent_channels;
    if (m->unet.out_channels == latent && (in == latent || in == 2 * latent + 1)) return true;
    const char *what = in == latent + 1 ? " (a depth model)" : in == 2 * latent ? " (an instruct-pix2pix model)" : "";
    return error_set(err, "In %s the UNet takes %d channels and makes %d where the VAE's latents have %d%s; only plain and "
                          "inpainting UNets are supported.", m->path, in, m->unet.out_channels, latent, what);
}

static bool check_added(const struct model *m, struct error *err) {
    int times = m->unet.added_time_id_dim, pooled = m->texts[m->n_texts - 1].cfg.projection_dim;
    if (!nn_family_is_xl(m->family) || m->unet.added_dim == pooled + 6 * times) return true;
    if (m->unet.added_dim == pooled + 5 * times)
        return error_set(err, "%s is an SDXL refiner (its UNet takes an aesthetic score), which this version does not run; "
                              "give the base model.", m->path);
    return error_set(err, "In %s the UNet takes an added vector of %d numbers, but pooled text of %d and six sizes of %d make "
                          "%d: the parts come from different models.", m->path, m->unet.added_dim, pooled, times,
                     pooled + 6 * times);
}

bool model_configs_check(const struct model *m, struct error *err) {
    int width = 0;
    for (int i = 0; i < m->n_texts; i++) width += m->texts[i].cfg.width;
    if (m->unet.context_dim != width)
        return error_set(err, "In %s the UNet looks at text of width %d, but the text encoder%s %d: the parts come from "
                         "different models.", m->path, m->unet.context_dim, m->n_texts > 1 ? "s make" : " makes", width);
    if (!check_channels(m, err)) return false;
    for (int i = 0; i < m->n_texts; i++) {
        const struct model_text *t = &m->texts[i];
        if (tokenizer_max_id(t->tokenizer) >= t->cfg.vocabulary)
            return error_set(err, "In %s the tokenizer has ids up to %d, but %s knows %d tokens.", m->path,
                             tokenizer_max_id(t->tokenizer), t->part, t->cfg.vocabulary);
        if (tokenizer_window(t->tokenizer) != tokenizer_window(m->texts[0].tokenizer))
            return error_set(err, "In %s the tokenizers have windows of %zu and %zu tokens; both must have one length.",
                             m->path, tokenizer_window(m->texts[0].tokenizer), tokenizer_window(t->tokenizer));
    }
    if (nn_family_is_xl(m->family) && !m->texts[m->n_texts - 1].cfg.projection)
        return error_set(err, "In %s text_encoder_2 has no projection, which SDXL's pooled text needs (its config must name "
                         "CLIPTextModelWithProjection).", m->path);
    return check_added(m, err);
}

int model_window(const struct model *m) { return (int)tokenizer_window(m->texts[0].tokenizer); }
int model_context_dim(const struct model *m) { return m->unet.context_dim; }
int model_extra_channels(const struct model *m) { return m->unet.in_channels - m->vae.latent_channels; }

int model_pooled_dim(const struct model *m) {
    return nn_family_is_xl(m->family) ? m->texts[m->n_texts - 1].cfg.projection_dim : 0;
}
