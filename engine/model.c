#include "engine/model.h"

#include <stdio.h>
#include <string.h>

#include "base/os.h"
#include "base/sha256.h"
#include "io/json.h"

static const char *join(struct arena *a, const char *dir, const char *rest) { return arena_printf(a, "%s/%s", dir, rest); }

static bool need_file(const char *path, const char *what, struct error *err) {
    if (os_path_is_file(path)) return true;
    return error_set(err, "The model has no %s (%s is missing); a diffusers folder with unet, vae, text_encoder, tokenizer and "
                     "scheduler is needed.", what, path);
}

/* The plain file first, then the fp16 variant, then shards by their index. */
static struct st_file *open_weights(struct model *m, const char *part, const char *stem, struct error *err) {
    static const char *const endings[] = {".safetensors", ".fp16.safetensors", ".safetensors.index.json",
                                          ".safetensors.index.fp16.json"};
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++) {
        const char *path = arena_printf(m->arena, "%s/%s/%s%s", m->path, part, stem, endings[i]);
        if (!os_path_is_file(path)) continue;
        struct st_file *f = st_open(path, err);
        if (f) m->files[m->n_files++] = f;
        return f;
    }
    error_set(err, "The model has no weights for %s: %s/%s/%s.safetensors is missing (.bin and .ckpt files are not read; "
              "convert them to safetensors).", part, m->path, part, stem);
    return NULL;
}

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

static bool check_index(const struct model *m, struct error *err) {
    struct arena *a = arena_create(NULL);
    const char *path = join(a, m->path, "model_index.json");
    bool ok = true;
    json_t *o = os_path_is_file(path) ? json_file_load(path, 0, err) : NULL;
    if (o) {
        struct json_reader r = {.file = path, .e = err};
        const char *kind = json_read_string(&r, o, "_class_name", "StableDiffusionPipeline");
        ok = !r.failed && (!strncmp(kind, "StableDiffusion", 15) && !strstr(kind, "XL") && !strstr(kind, "3") ? true
            : error_set(err, "%s is a %s; this version reads Stable Diffusion 1 and 2 folders.", m->path, kind));
        json_decref(o);
    } else if (os_path_is_file(path)) ok = false;
    arena_destroy(&a);
    return ok;
}

static bool load_configs(struct model *m, struct error *err) {
    struct arena *a = m->arena;
    const char *unet = join(a, m->path, "unet/config.json"), *vae = join(a, m->path, "vae/config.json");
    const char *text = join(a, m->path, "text_encoder/config.json");
    const char *scheduler = join(a, m->path, "scheduler/scheduler_config.json");
    return need_file(unet, "UNet", err) && unet_config_load(&m->unet, unet, err) && need_file(vae, "VAE", err) &&
           vae_config_load(&m->vae, vae, err) && need_file(text, "text encoder", err) &&
           clip_config_load(&m->text, text, err) && need_file(scheduler, "scheduler", err) &&
           model_schedule_load(&m->schedule, scheduler, err);
}

static bool check_fit(const struct model *m, struct error *err) {
    if (m->unet.context_dim != m->text.width)
        return error_set(err, "In %s the UNet looks at text of width %d, but the text encoder makes %d: the parts come from "
                         "different models.", m->path, m->unet.context_dim, m->text.width);
    if (m->unet.out_channels != m->vae.latent_channels || m->unet.in_channels != m->vae.latent_channels)
        return error_set(err, "In %s the UNet takes %d channels and makes %d where the VAE's latents have %d (inpainting and "
                         "depth models are not supported yet).", m->path, m->unet.in_channels, m->unet.out_channels,
                         m->vae.latent_channels);
    if (tokenizer_max_id(m->tokenizer) >= m->text.vocabulary)
        return error_set(err, "In %s the tokenizer has ids up to %d, but the text encoder knows %d tokens.", m->path,
                         tokenizer_max_id(m->tokenizer), m->text.vocabulary);
    if (m->unet.added_dim || m->unet.time_cond_dim)
        return error_set(err, "%s is an SDXL or distilled LCM UNet (it wants extra vectors beside the text), which this version "
                         "does not run.", m->path);
    return true;
}

static bool bind(struct model *m, struct nn_params *p, const char *part, const char *stem, const struct nn_alias *aliases,
                 int n_aliases, struct error *err) {
    const struct st_file *f = open_weights(m, part, stem, err);
    struct nn_load_report report = {0};
    if (!f || !nn_params_bind(p, &f, 1, aliases, n_aliases, &report, err)) return false;
    m->n_unused += report.n_unused;
    return true;
}

static bool load_weights(struct model *m, const struct model_params *p, struct error *err) {
    m->unet_params = nn_params_create(m->arena, "The UNet", p->storage, false, p->max_chunk_bytes);
    m->vae_params = nn_params_create(m->arena, "The VAE", p->storage, false, p->max_chunk_bytes);
    m->text_params = nn_params_create(m->arena, "The text encoder", p->storage, false, p->max_chunk_bytes);
    m->unet_targets.arena = m->text_targets.arena = m->arena;
    if (!unet_declare(m->unet_params, &m->unet, &m->unet_targets, err) || !vae_declare(m->vae_params, &m->vae, err) ||
        !clip_declare(m->text_params, &m->text, &m->text_targets, err))
        return false;
    nn_params_seal(m->unet_params);
    nn_params_seal(m->vae_params);
    nn_params_seal(m->text_params);
    return bind(m, m->unet_params, "unet", "diffusion_pytorch_model", NULL, 0, err) &&
           bind(m, m->vae_params, "vae", "diffusion_pytorch_model", vae_aliases, vae_n_aliases, err) &&
           bind(m, m->text_params, "text_encoder", "model", clip_aliases, clip_n_aliases, err);
}

struct model *model_open(const char *path, const struct model_params *p, struct error *err) {
    if (!os_path_is_dir(path)) {
        error_set(err, "There is no model folder %s; give a Stable Diffusion folder in diffusers' layout with --model.", path);
        return NULL;
    }
    struct arena *a = arena_create(NULL);
    struct model *m = arena_alloc(a, sizeof *m);
    m->arena = a;
    m->path = arena_strdup(a, path);
    char *real = os_path_real(a, path), *slash = strrchr(real, '/');
    m->name = slash && slash[1] ? slash + 1 : real;
    if (!check_index(m, err) || !load_configs(m, err)) goto fail;
    /* What the reference pipeline overrides whatever the scheduler's file says. */
    m->schedule.steps_offset = 1;
    m->schedule.clip_range = 0;
    if (!need_file(join(a, path, "tokenizer/vocab.json"), "tokenizer", err)) goto fail;
    m->tokenizer = tokenizer_load(join(a, path, "tokenizer"), err);
    if (!m->tokenizer || !check_fit(m, err) || !load_weights(m, p, err)) goto fail;
    return m;
fail:
    model_close(&m);
    return NULL;
}

void model_close(struct model **p) {
    struct model *m = *p;
    if (!m) return;
    *p = NULL;
    for (int i = 0; i < m->n_files; i++) st_close(&m->files[i]);
    tokenizer_destroy(&m->tokenizer);
    struct arena *a = m->arena;
    arena_destroy(&a);
}

bool model_unet_sha256(const struct model *m, char hex[65], struct error *err) {
    struct os_map map;
    if (!os_file_map(&map, st_path(m->files[0]), err)) return false;
    struct sha256 s;
    sha256_begin(&s);
    sha256_update(&s, map.data, map.bytes);
    sha256_end(&s, hex);
    os_file_unmap(&map);
    return true;
}
