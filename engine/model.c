#include "engine/model_priv.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/os.h"
#include "base/sha256.h"
#include "base/text.h"

bool model_need_file(const char *path, const char *what, struct error *err) {
    if (os_path_is_file(path)) return true;
    return error_set(err, "The model has no %s (%s is missing); a diffusers folder with unet, vae, text_encoder, tokenizer and "
                     "scheduler is needed.", what, path);
}

/* Goes on after a part that lacks something, so that the report is whole; the first sentence counts. */
static bool bind(struct model *m, struct nn_params *p, const struct model_source *s, bool ok, struct error *err) {
    struct nn_bind_report report;
    struct error later;
    bool bound = nn_params_bind(p, s->file, &s->naming, &report, ok ? err : &later);
    checkpoint_report_bind(m->report, s->file, &report);
    return ok && bound;
}

static struct nn_params *declare(struct model *m, const char *name, const struct model_params *p) {
    return nn_params_create(m->arena, name, p->storage, false, p->max_chunk_bytes);
}

static bool declare_text(struct model *m, struct model_text *t, const struct model_params *p, struct error *err) {
    t->params = declare(m, t == m->texts ? "The text encoder" : "The second text encoder", p);
    t->targets.arena = m->arena;
    if (!clip_declare(t->params, &t->cfg, &t->targets, err)) return false;
    nn_params_seal(t->params);
    return true;
}

static bool load_weights(struct model *m, const struct model_params *p, struct error *err) {
    struct model_params unet = *p;
    if (p->weights == TENSOR_F32) unet.storage = TENSOR_F32;
    m->unet_params = declare(m, "The UNet", &unet);
    if (p->weights != unet.storage) tensor_set_narrow(m->unet_params->set, p->weights, TENSOR_NARROW_LEAST);
    m->vae_params = declare(m, "The VAE", p);
    m->unet_targets.arena = m->arena;
    if (!unet_declare(m->unet_params, &m->unet, &m->unet_targets, err) || !vae_declare(m->vae_params, &m->vae, err))
        return false;
    nn_params_seal(m->unet_params);
    nn_params_seal(m->vae_params);
    for (int i = 0; i < m->n_texts; i++)
        if (!declare_text(m, &m->texts[i], p, err)) return false;
    bool ok = bind(m, m->unet_params, &m->unet_source, true, err);
    ok = bind(m, m->vae_params, &m->vae_source, ok, err);
    for (int i = 0; i < m->n_texts; i++) ok = bind(m, m->texts[i].params, &m->texts[i].source, ok, err);
    checkpoint_report_end(m->report, m->single ? m->single->last_layer : -1);
    return ok;
}

static void warn_unknown(const struct checkpoint_report *r) {
    for (int i = 0; i < r->n_files; i++)
        if (r->files[i].n_unknown)
            log_warn("%s: %zu tensors are not used, and why is not known, such as %s (atelier inspect lists them)",
                     r->files[i].path, r->files[i].n_unknown, TEXT_SHOW(r->files[i].unknown[0]));
}

struct model *model_open(const char *path, const struct model_params *p, struct error *err) {
    struct arena *a = arena_create(NULL);
    struct model *m = arena_alloc(a, sizeof *m);
    m->arena = a;
    m->path = arena_strdup(a, path);
    m->report = checkpoint_report_create();
    char *real = os_path_real(a, path), *slash = strrchr(real, '/');
    m->name = slash && slash[1] ? slash + 1 : real;
    bool ok = model_sources_open(m, &p->files, err) && model_configs_check(m, err) && load_weights(m, p, err);
    if (ok) warn_unknown(m->report);
    if (p->report) {
        *p->report = m->report;
        m->report = NULL;
    }
    if (!ok) model_close(&m);
    return m;
}

void model_close(struct model **p) {
    struct model *m = *p;
    if (!m) return;
    *p = NULL;
    for (int i = 0; i < m->n_files; i++) st_close(&m->files[i]);
    for (int i = 0; i < MODEL_MAX_TEXTS; i++) tokenizer_destroy(&m->texts[i].tokenizer);
    checkpoint_single_close(&m->single);
    checkpoint_report_destroy(&m->report);
    struct arena *a = m->arena;
    arena_destroy(&a);
}

bool model_intact(const struct model *m, struct error *err) {
    for (int i = 0; i < m->n_files; i++)
        if (!st_intact(m->files[i], err)) return false;
    return true;
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
