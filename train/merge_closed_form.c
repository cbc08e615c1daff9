/* `atelier merge --method kv-closed-form`: text features of captions, and what lora/closed_form.h makes of them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/os.h"
#include "base/text.h"
#include "engine/prompt.h"
#include "lora/closed_form.h"
#include "lora/select.h"
#include "train/merger_priv.h"

enum { AT_ONCE = 16, MAX_CAPTIONS = 100000, MAX_CAPTION_BYTES = 4096, MAX_FILE_BYTES = 1 << 26 };

struct state {
    struct prompter *prompter;
    struct lora_closed_form form;
    const char **captions; /* for regularisation */
    int n_captions;
};

/* ---- What can be merged ---- */

static bool check_layers(const struct train_merge *m, struct error *err) {
    for (int f = 0; f < m->params.n; f++)
        for (int i = 0; i < m->files[f]->n_modules; i++) {
            const struct lora_module *module = &m->files[f]->modules[i];
            if (module->status != LORA_MATCHED ||
                (module->part == LORA_UNET && lora_selection_has(LORA_SELECT_CROSS_KV, module->target->path)))
                continue;
            return error_set(err,
                             "%s changes %s, and kv-closed-form joins the keys and values of cross-attention "
                             "alone: train with --recipe "
                             "custom-diffusion or --targets cross-kv, or merge with another --method.",
                             TEXT_SHOW(m->files[f]->given), TEXT_SHOW(module->name));
        }
    return true;
}

static bool check_params(const struct train_merge_params *p, struct error *err) {
    if (!p->prompts)
        return error_set(err, "--method kv-closed-form wants every LoRA's own words: a --prompt for every "
                              "--lora, such as \"<new1> cat\".");
    if (!p->captions)
        return error_set(err, "--method kv-closed-form wants --captions FILE: captions, a line each, that "
                              "the model is to go on drawing as it does.");
    return true;
}

/* ---- Captions ---- */

static bool cut_lines(struct state *s, const char *path, const char *text, size_t bytes, struct arena *a, struct error *err) {
    size_t lines = 1;
    for (size_t i = 0; i < bytes; i++) lines += text[i] == '\n';
    if (lines > MAX_CAPTIONS)
        return error_set(err, "%s has %zu lines; up to %d captions are read.", TEXT_SHOW(path), lines,
                         MAX_CAPTIONS);
    s->captions = arena_alloc_n(a, lines, sizeof *s->captions);
    for (size_t at = 0, end; at < bytes; at = end + 1) {
        for (end = at; end < bytes && text[end] != '\n';) end++;
        size_t n = end - at;
        while (n && (text[at + n - 1] == '\r' || text[at + n - 1] == ' ')) n--;
        if (n > MAX_CAPTION_BYTES || !text_utf8_valid(text + at, n) || memchr(text + at, 0, n))
            return error_set(err, "%s: line %d is no caption: UTF-8 text of up to %d bytes is needed.",
                             TEXT_SHOW(path), s->n_captions + 1, MAX_CAPTION_BYTES);
        if (n) s->captions[s->n_captions++] = arena_strndup(a, text + at, n);
    }
    return s->n_captions > 0 || error_set(err, "%s holds no caption; give one a line.", TEXT_SHOW(path));
}

static bool read_captions(struct state *s, const char *path, struct arena *a, struct error *err) {
    struct os_map map;
    if (!os_path_is_file(path)) return error_set(err, "There is no file of captions %s.", TEXT_SHOW(path));
    if (!os_file_map(&map, path, err)) return false;
    bool ok = map.bytes <= MAX_FILE_BYTES ? cut_lines(s, path, (const char *)map.data, map.bytes, a, err)
                                          : error_set(err, "%s is too large for a file of captions.", TEXT_SHOW(path));
    ok = ok && os_map_intact(&map, err);
    os_file_unmap(&map);
    return ok;
}

/* ---- Features ---- */

/* R += rows^T rows, over everything that layers read, padding included. */
static void add_gram(double *gram, const float *rows, size_t n, size_t width) {
    for (size_t r = 0; r < n; r++)
        for (size_t i = 0; i < width; i++) {
            double v = (double)rows[r * width + i];
            double *to = gram + i * width;
            for (size_t k = 0; k <= i; k++) to[k] += v * (double)rows[r * width + k];
        }
}

static bool sum_captions(struct train_merge *m, struct state *s, double *gram, struct error *err) {
    size_t width = (size_t)s->form.width;
    bool ok = true;
    for (int at = 0; ok && at < s->n_captions; at += AT_ONCE) {
        int n = s->n_captions - at < AT_ONCE ? s->n_captions - at : AT_ONCE;
        struct arena *a = arena_create(NULL);
        struct prompt_context contexts[AT_ONCE];
        ok = prompter_encode(s->prompter, s->captions + at, n, NULL, a, contexts, err);
        for (int i = 0; ok && i < n; i++) add_gram(gram, contexts[i].rows, (size_t)contexts[i].tokens, width);
        arena_destroy(&a);
        struct train_merge_progress p = {"reading captions", at + n, s->n_captions, -1, 0};
        ok = ok && train_merge_report(m, &p, err);
    }
    for (size_t i = 0; i < width; i++)
        for (size_t k = i + 1; k < width; k++) gram[i * width + k] = gram[k * width + i];
    return ok;
}

/* Words that prompts begin with alike mean the same to every LoRA and would ask for two answers. */
static bool is_shared(const float *row, size_t width, const struct prompt_context *c, int n, int own) {
    for (int i = 0; i < n; i++)
        for (int t = 0; i != own && t < c[i].tokens; t++) {
            float far = 0, size = 0;
            for (size_t k = 0; k < width; k++) {
                far = fmaxf(far, fabsf(row[k] - c[i].rows[(size_t)t * width + k]));
                size = fmaxf(size, fabsf(row[k]));
            }
            if (far <= 1e-5f * size) return true;
        }
    return false;
}

/* The rows from behind the start to the end token. */
static bool list_features(struct train_merge *m, struct state *s, const struct prompt_context *c, struct error *err) {
    size_t width = (size_t)s->form.width;
    int n = m->params.n, eos = tokenizer_eos(m->e->model->texts[0].tokenizer);
    double *features = arena_alloc_n(m->arena, (size_t)(n * c[0].tokens), width * sizeof *features);
    int *files = arena_alloc_n(m->arena, (size_t)(n * c[0].tokens), sizeof *files);
    for (int f = 0; f < n; f++) {
        int before = s->form.n;
        for (int t = 1; t < c[f].tokens && (t == 1 || c[f].ids[0][t - 1] != eos); t++) {
            const float *row = c[f].rows + (size_t)t * width;
            if (is_shared(row, width, c, n, f)) continue;
            for (size_t k = 0; k < width; k++) features[(size_t)s->form.n * width + k] = (double)row[k];
            files[s->form.n++] = f;
        }
        if (s->form.n == before)
            return error_set(err, "The prompt \"%s\" has nothing that another LoRA's prompt does not have.",
                             TEXT_SHOW(m->params.prompts[f]));
    }
    s->form.features = features, s->form.files = files;
    return true;
}

static bool open_prompter(struct train_merge *m, struct state *s, struct error *err) {
    if (!train_merge_words(m, err)) return false;
    struct prompter_params pp = {.words = &m->words};
    return (s->prompter = prompter_create(m->e, &pp, err)) != NULL;
}

static bool solve(struct train_merge *m, struct state *s, struct error *err) {
    size_t width = (size_t)s->form.width;
    struct arena *a = arena_create(NULL);
    double *gram = arena_alloc_n(a, width, width * sizeof *gram);
    struct prompt_context *c = arena_alloc_n(a, (size_t)m->params.n, sizeof *c);
    bool ok = prompter_encode(s->prompter, m->params.prompts, m->params.n, NULL, a, c, err) && list_features(m, s, c, err) &&
              sum_captions(m, s, gram, err) && lora_closed_form_solve(&s->form, gram, m->arena, err);
    arena_destroy(&a);
    if (ok) log_info("%d features of %d LoRAs, kept apart from %d captions", s->form.n, m->params.n, s->n_captions);
    return ok;
}

static bool learn(struct train_merge *m, bool plan_only, struct error *err) {
    struct state *s = m->state = arena_alloc(m->arena, sizeof *s);
    s->form.width = model_context_dim(m->e->model);
    m->plan.passes = 1;
    m->plan.host_bytes = (int64_t)s->form.width * s->form.width * (int64_t)sizeof(double);
    for (int i = 0; i < m->e->model->n_texts; i++)
        for (int k = 0; k < m->e->model->texts[i].params->set->n_chunks; k++)
            m->plan.device_bytes += m->e->model->texts[i].params->set->chunk_texels[k] *
                                    (int64_t)tensor_texel_bytes(m->e->model->texts[i].params->set->dtype);
    for (int i = 0; i < m->files[0]->n_modules; i++) m->plan.n_layers += m->files[0]->modules[i].status == LORA_MATCHED;
    if (!check_params(&m->params, err) || !check_layers(m, err) ||
        !read_captions(s, m->params.captions, m->arena, err))
        return false;
    return plan_only || (open_prompter(m, s, err) && solve(m, s, err));
}

static bool apply(void *merge, int file, const struct lora_module *module, float *rows, size_t n, struct error *err) {
    const struct state *s = ((struct train_merge *)merge)->state;
    lora_closed_form_apply(&s->form, file, rows, n);
    return true;
}

static void destroy(struct train_merge *m) {
    struct state *s = m->state;
    prompter_destroy(&s->prompter);
}

static char *settings(const struct train_merge *m, struct arena *a) {
    const struct state *s = m->state;
    char *text = arena_printf(a, "--captions of %d lines", s->n_captions);
    for (int i = 0; i < m->params.n; i++) text = arena_printf(a, "%s --prompt '%s'", text, m->params.prompts[i]);
    return text;
}

const struct train_merger train_merger_closed_form = {
    .merger = {.name = "kv-closed-form",
               .about = "keys and values that answer each file's caption as that file does, and others as "
                        "the model does",
               .takes_rank = true,
               .whole = true,
               .needs_shared = true},
    .takes = TRAIN_MERGE_PROMPTS | TRAIN_MERGE_CAPTIONS,
    .learn = learn,
    .apply = apply,
    .destroy = destroy,
    .settings = settings};
