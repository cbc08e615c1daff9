#include "engine/model_priv.h"

#include <stdio.h>
#include <string.h>

#include "base/os.h"
#include "base/sha256.h"

bool model_need_file(const char *path, const char *what, struct error *err) {
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

static bool bind(struct model *m, struct nn_params *p, const char *part, const char *stem, const struct nn_alias *aliases,
                 int n_aliases, struct error *err) {
    const struct st_file *f = open_weights(m, part, stem, err);
    struct nn_load_report report = {0};
    if (!f || !nn_params_bind(p, &f, 1, aliases, n_aliases, &report, err)) return false;
    m->n_unused += report.n_unused;
    return true;
}

static struct nn_params *declare(struct model *m, const char *name, const struct model_params *p) {
    return nn_params_create(m->arena, name, p->storage, false, p->max_chunk_bytes);
}

static bool load_text(struct model *m, struct model_text *t, const struct model_params *p, struct error *err) {
    t->params = declare(m, t == m->texts ? "The text encoder" : "The second text encoder", p);
    t->targets.arena = m->arena;
    if (!clip_declare(t->params, &t->cfg, &t->targets, err)) return false;
    nn_params_seal(t->params);
    return bind(m, t->params, t->part, "model", clip_aliases, clip_n_aliases, err);
}

static bool load_weights(struct model *m, const struct model_params *p, struct error *err) {
    struct model_params unet = *p;
    if (p->weights == TENSOR_F32) unet.storage = TENSOR_F32;
    m->unet_params = declare(m, "The UNet", &unet);
    if (p->weights != unet.storage) tensor_set_narrow(m->unet_params->set, p->weights, TENSOR_NARROW_LEAST);
    m->vae_params = declare(m, "The VAE", p);
    m->unet_targets.arena = m->arena;
    if (!unet_declare(m->unet_params, &m->unet, &m->unet_targets, err) || !vae_declare(m->vae_params, &m->vae, err)) return false;
    nn_params_seal(m->unet_params);
    nn_params_seal(m->vae_params);
    bool ok = bind(m, m->unet_params, "unet", "diffusion_pytorch_model", NULL, 0, err) &&
              bind(m, m->vae_params, "vae", "diffusion_pytorch_model", vae_aliases, vae_n_aliases, err);
    for (int i = 0; ok && i < m->n_texts; i++) ok = load_text(m, &m->texts[i], p, err);
    return ok;
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
    if (!model_index_check(m, err) || !model_configs_load(m, err) || !model_configs_check(m, err) || !load_weights(m, p, err))
        model_close(&m);
    return m;
}

void model_close(struct model **p) {
    struct model *m = *p;
    if (!m) return;
    *p = NULL;
    for (int i = 0; i < m->n_files; i++) st_close(&m->files[i]);
    for (int i = 0; i < MODEL_MAX_TEXTS; i++) tokenizer_destroy(&m->texts[i].tokenizer);
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
