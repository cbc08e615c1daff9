#include "train/merger.h"

#include <string.h>

#include "base/os.h"
#include "base/text.h"
#include "train/merger_priv.h"

#define TRAIN_MERGER(id) extern const struct train_merger train_merger_##id;
#include "train/mergers.def"
#undef TRAIN_MERGER
static const struct train_merger *const mergers[] = {
#define TRAIN_MERGER(id) &train_merger_##id,
#include "train/mergers.def"
#undef TRAIN_MERGER
};

const struct train_merger *train_merger_at(int i) {
    return i >= 0 && i < (int)(sizeof mergers / sizeof *mergers) ? mergers[i] : NULL;
}

const struct train_merger *train_merger_find(const char *name) {
    const struct train_merger *m;
    for (int i = 0; (m = train_merger_at(i)); i++)
        if (strcmp(m->merger.name, name) == 0) return m;
    return NULL;
}

struct train_merge_params train_merge_params_default(void) {
    return (struct train_merge_params){.pictures = 8, .draw_steps = 20, .draw_cfg = 7.5f, .steps = 100, .batch = 1, .lr = 0.01f,
                                       .similarity = 0.01f, .times = 10, .dtype = ST_F16};
}

void train_merge_strengths(const struct train_merge *m, int lora, float *dst) {
    for (int i = 0; i < m->params.n; i++) dst[i] = lora < 0 || i == lora ? m->params.weights[i] : 0;
}

bool train_merge_report(const struct train_merge *m, const struct train_merge_progress *p, struct error *err) {
    if (os_interrupted()) return error_set(err, "Stopped before the LoRAs were merged; nothing was written.");
    if (m->params.report) m->params.report(m->params.ctx, p);
    return true;
}

void train_merge_release(struct train_merge *m) { adapter_close(&m->adapter); }

bool train_merge_words(struct train_merge *m, struct error *err) {
    m->words.arena = m->arena;
    return adapter_words_load(m->e->model, m->files, m->params.n, &m->words, err);
}

bool train_merge_show(struct train_merge *m, struct error *err) {
    const struct train_merge_params *p = &m->params;
    if (!(m->words.n || train_merge_words(m, err)) || !(m->adapter = adapter_open(m->e, p->loras, p->n, err))) return false;
    m->concepts = arena_alloc_n(m->arena, (size_t)p->n, sizeof *m->concepts);
    for (int i = 0; i < p->n; i++) {
        float *strength = arena_alloc_n(m->arena, (size_t)p->n, sizeof *strength);
        train_merge_strengths(m, i, strength);
        struct concept_params c = {.adapter = m->adapter, .strength = strength, .data = p->data ? p->data[i] : NULL,
                                   .caption = p->caption, .prompt = p->prompts ? p->prompts[i] : NULL, .n_drawn = p->pictures,
                                   .steps = p->draw_steps,
                                   .cfg = p->draw_cfg, .seed = p->seed, .side = m->side, .words = &m->words};
        if (!concept_show(m->e, &c, m->arena, &m->concepts[i], err)) return false;
    }
    return true;
}

static bool check(const struct train_merge_params *p, struct error *err) {
    const char *name = p->method->merger.name;
    if (p->method->takes & TRAIN_MERGE_CONCEPTS && !p->data == !p->prompts)
        return error_set(err, "--method %s looks at what each LoRA draws: give a --data folder for every --lora, or a --prompt "
                              "for every --lora.", name);
    if (p->steps < 1 || p->batch < 1 || p->batch * p->n > 64 || p->pictures < 1 || p->times < 1)
        return error_set(err, "Steps, pictures and times must be at least 1, and a batch of all LoRAs' pictures at most 64.");
    if (!(p->lr > 0) || !(p->similarity >= 0)) return error_set(err, "--lr must be above 0 and --similarity not negative.");
    if (model_extra_channels(p->e->model))
        return error_set(err, "%s is an inpainting model; --method %s needs the plain model that the LoRAs go with.",
                         TEXT_SHOW(p->e->model->name), name);
    return true;
}

static bool open_files(struct train_merge *m, struct error *err) {
    const struct train_merge_params *p = &m->params;
    struct lora_model layers = adapter_lora_model(m->e->model);
    m->keys = lora_keys_create(&layers);
    m->files = arena_alloc_n(m->arena, (size_t)p->n, sizeof *m->files);
    for (int i = 0; i < p->n; i++)
        if (!(m->files[i] = lora_file_open(p->loras[i], m->keys, err)) || !lora_file_require_match(m->files[i], m->keys, err))
            return false;
    return true;
}

static bool choose_size(struct train_merge *m, struct error *err) {
    const struct model *model = m->e->model;
    int f = vae_config_factor(&model->vae);
    m->side = m->params.resolution ? m->params.resolution : model->unet.sample_w ? model->unet.sample_w * f : 512;
    if (m->side % f || m->side < f)
        return error_set(err, "--resolution %d is not a multiple of %d, which this model's VAE needs.", m->side, f);
    m->lw = m->lh = m->side / f;
    m->tokens = model_window(model);
    return true;
}

static void close_merge(struct train_merge *m) {
    if (m->state) m->params.method->destroy(m);
    adapter_close(&m->adapter);
    schedule_destroy(&m->schedule);
    for (int i = 0; m->files && i < m->params.n; i++)
        if (m->files[i]) lora_file_close(&m->files[i]);
    if (m->keys) lora_keys_destroy(&m->keys);
    arena_destroy(&m->arena);
}

/* Whatever can be said before the model runs is said first. */
static bool open_merge(struct train_merge *m, const struct train_merge_params *p, struct lora_merge_params *how,
                       struct error *err) {
    *m = (struct train_merge){.arena = arena_create(NULL), .params = *p, .e = p->e};
    if (!check(p, err) || !choose_size(m, err) || !open_files(m, err)) return false;
    *how = (struct lora_merge_params){.method = &p->method->merger, .files = m->files, .weights = p->weights, .n = p->n,
                                      .rank = p->rank, .seed = p->seed, .dtype = p->dtype};
    how->base[LORA_UNET] = m->e->model->unet_params;
    for (int i = 0; i < m->e->model->n_texts; i++) how->base[LORA_TEXT + i] = m->e->model->texts[i].params;
    return lora_merge_check(how, m->keys, err) && (m->schedule = schedule_create(&m->e->model->schedule, err));
}

bool train_merge(const struct train_merge_params *p, struct lora_merge_result *r, struct error *err) {
    struct train_merge m;
    struct lora_merge_params how;
    bool ok = open_merge(&m, p, &how, err) && p->method->learn(&m, false, err);
    struct lora_merge_maps maps = {p->method->apply, &m};
    if (ok) {
        how.maps = &maps, how.settings = p->method->settings(&m, m.arena);
        ok = lora_merge(&how, m.keys, p->out, r, err);
    }
    close_merge(&m);
    return ok;
}

bool train_merge_plan(const struct train_merge_params *p, struct train_merge_plan *out, struct error *err) {
    struct train_merge m;
    struct lora_merge_params how;
    bool ok = open_merge(&m, p, &how, err) && p->method->learn(&m, true, err);
    m.plan.total = gpu_device_memory_total(p->e->dev);
    *out = m.plan;
    close_merge(&m);
    return ok;
}
