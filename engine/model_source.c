/* Where each part of a model lies: a diffusers folder, one file, a VAE from elsewhere. */
#include <string.h>

#include "base/log.h"
#include "base/os.h"
#include "checkpoint/parts.h"
#include "engine/model_priv.h"
#include "vae/tiny.h"

static bool keep_file(struct model *m, struct model_source *s, struct st_file *f) {
    if (!f) return false;
    s->file = m->files[m->n_files++] = f;
    return true;
}

static bool folder_part(struct model *m, struct model_source *s, const char *part, const char *stem,
                        const struct model_files *o, struct error *err) {
    return keep_file(m, s, checkpoint_folder_open(arena_printf(m->arena, "%s/%s", m->path, part), stem, o->variant, err));
}

static bool open_folder(struct model *m, const struct model_files *o, struct error *err) {
    static const struct vae_names plain = {"", 0};
    m->prediction_from = "scheduler_config.json";
    if (!model_index_check(m, err) || !model_configs_load(m, o, err) ||
        !folder_part(m, &m->unet_source, "unet", "diffusion_pytorch_model", o, err) ||
        (!o->vae && !folder_part(m, &m->vae_source, "vae", "diffusion_pytorch_model", o, err)))
        return false;
    m->vae_source.naming = vae_diffusers_naming(&plain);
    for (int i = 0; i < m->n_texts; i++) {
        if (!folder_part(m, &m->texts[i].source, m->texts[i].part, "model", o, err)) return false;
        m->texts[i].source.naming = clip_hf_naming("");
    }
    return true;
}

static bool open_single(struct model *m, const struct model_files *o, struct error *err) {
    static const char *const names[] = {"the text encoder", "the second text encoder"};
    struct checkpoint_single *c = m->single = checkpoint_single_open(m->path, err);
    if (!c) return false;
    if (!c->has_vae && !o->vae)
        return error_set(err, "%s has no VAE (first_stage_model.*); give one with --vae FILE.", m->path);
    m->files[m->n_files++] = c->file;
    m->family = c->family;
    m->unet = c->unet, m->vae = c->vae, m->schedule = c->schedule;
    m->prediction_from = c->prediction_from, m->prediction_guessed = c->prediction_guessed;
    m->zeros_for_empty = nn_family_is_xl(m->family);
    m->unet_source = (struct model_source){c->file, c->unet_naming};
    m->vae_source = (struct model_source){c->file, c->vae_naming};
    c->file = NULL; /* m's now; the namings stay c's */
    for (m->n_texts = 0; m->n_texts < c->n_texts; m->n_texts++) {
        struct model_text *t = &m->texts[m->n_texts];
        t->part = names[m->n_texts];
        t->cfg = c->texts[m->n_texts];
        t->source = (struct model_source){m->files[0], c->text_naming[m->n_texts]};
        t->tokenizer = o->tokenizer ? tokenizer_load(o->tokenizer, err) : tokenizer_clip(t->cfg.pad_id == 0);
        if (!t->tokenizer) return false;
    }
    return true;
}

/* A VAE given apart; without a config its scale is the one of the model that it stands in. */
static bool open_vae(struct model *m, const char *path, struct error *err) {
    struct checkpoint_vae v;
    if (!checkpoint_vae_open(&v, path, err)) return false;
    struct vae_config old = m->vae;
    m->vae = v.cfg;
    if (!v.has_config) {
        bool xl = nn_family_is_xl(m->family);
        m->vae.scaling_factor = old.n_levels ? old.scaling_factor : xl ? 0.13025f : 0.18215f;
        m->vae.shift_factor = old.shift_factor;
        m->vae.sample_size = old.sample_size;
    }
    struct vae_names *names = arena_alloc(m->arena, sizeof *names);
    *names = v.names;
    m->vae_source.naming = v.tiny ? tiny_naming() : v.ldm ? vae_ldm_naming(names) : vae_diffusers_naming(names);
    return keep_file(m, &m->vae_source, v.file);
}

bool model_sources_open(struct model *m, const struct model_files *o, struct error *err) {
    if (!os_path_exists(m->path))
        return error_set(err, "There is no model %s; give a Stable Diffusion folder in diffusers' layout or a .safetensors or "
                              ".ckpt file with --model.", m->path);
    bool ok = os_path_is_dir(m->path) ? open_folder(m, o, err) : open_single(m, o, err);
    if (!ok || (o->vae && !open_vae(m, o->vae, err))) return false;
    if (o->prediction) {
        if (!schedule_prediction_parse(o->prediction, &m->schedule.prediction, err)) return false;
        m->prediction_from = "--prediction", m->prediction_guessed = false;
    }
    if (m->prediction_guessed)
        log_warn("%s does not say what it predicts; v_prediction is assumed. If pictures come out as noise, add --prediction "
                 "epsilon.", m->path);
    return true;
}
