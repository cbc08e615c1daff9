#include "engine/merge_priv.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "base/log.h"
#include "base/text.h"
#include "engine/adapter.h"
#include "lora/delta.h"

/* ---- Which tensors ---- */

static const struct model_source *source_of(const struct model *m, enum lora_part part) {
    return part == LORA_UNET ? &m->unet_source : &m->texts[part - LORA_TEXT].source;
}

static const struct nn_params *params_of(const struct model *m, enum lora_part part) {
    return part == LORA_UNET ? m->unet_params : m->texts[part - LORA_TEXT].params;
}

static const struct st_tensor *find(const struct model_source *s, const char *path, struct nn_place *place) {
    if (!s->naming.place) return nn_place_set(place, "", path) ? st_find(s->file, path) : NULL;
    for (int attempt = 0; s->naming.place(s->naming.ctx, path, attempt, place); attempt++) {
        const struct st_tensor *t = st_find(s->file, place->name);
        if (t) return t;
    }
    return NULL;
}

static struct merge_tensor *tensor_of(struct merge *m, const struct st_file *file, const char *name) {
    for (int i = 0; i < m->n; i++)
        if (m->tensors[i].file == file && strcmp(m->tensors[i].name, name) == 0) return &m->tensors[i];
    if (m->n == m->cap) {
        int cap = m->cap ? 2 * m->cap : 256;
        m->tensors = arena_grow(m->arena, m->tensors, (size_t)m->n, (size_t)cap, sizeof *m->tensors);
        m->cap = cap;
    }
    m->tensors[m->n] = (struct merge_tensor){.file = file, .name = name};
    return &m->tensors[m->n++];
}

static bool add_edit(struct merge *m, const struct lora_module *module, float strength, bool bias, struct error *err) {
    const struct model_source *s = source_of(m->model, module->part);
    const char *path = arena_printf(m->arena, "%s.%s", module->target->path, bias ? "bias" : "weight");
    struct merge_edit edit = {.module = module, .base = params_of(m->model, module->part), .strength = strength, .bias = bias};
    const struct st_tensor *t = find(s, path, &edit.place);
    if (!t) return error_set(err, "%s: the model's file has no %s to add to.", TEXT_SHOW(module->name), path);
    if (!merge_can_write(t))
        return error_set(err,
                         "%s is stored as %s, and only F32, F16 and BF16 can be merged into; save the model "
                         "as one of those first.",
                         TEXT_SHOW(t->name), st_dtype_name(t->dtype));
    struct merge_tensor *to = tensor_of(m, s->file, t->name);
    if (to->n == to->cap) {
        int cap = to->cap ? 2 * to->cap : 1;
        to->edits = arena_grow(m->arena, to->edits, (size_t)to->n, (size_t)cap, sizeof *to->edits);
        to->cap = cap;
    }
    to->edits[to->n++] = edit;
    return true;
}

static bool add_file(struct merge *m, const struct lora_file *f, float strength, struct error *err) {
    for (int i = 0; i < f->n_modules; i++) {
        const struct lora_module *module = &f->modules[i];
        if (module->status != LORA_MATCHED) continue;
        bool bias = lora_module_has_bias(module, params_of(m->model, module->part));
        if ((lora_module_has_weight(module) && !add_edit(m, module, strength, false, err)) ||
            (bias && !add_edit(m, module, strength, true, err)))
            return false;
    }
    return true;
}

/* ---- One tensor ---- */

bool merge_can_write(const struct st_tensor *t) { return t->dtype == ST_F32 || t->dtype == ST_F16 || t->dtype == ST_BF16; }

/* w: the whole tensor as the file has it. */
static void add_rows(float *w, const struct merge_edit *e, const float *d, struct shape s, size_t all) {
    size_t out = (size_t)s.w, in = (size_t)s.c, taps = (size_t)s.n, n = out * in * taps;
    if (e->place.parts) w += (size_t)e->place.part * (all / (size_t)e->place.parts);
    for (size_t o = 0; o < out; o++)
        for (size_t i = 0; i < in; i++)
            for (size_t t = 0; t < taps && n; t++) {
                size_t at = e->place.transposed ? i * out + o : (o * in + i) * taps + t;
                w[at] += e->strength * d[(t * out + o) * in + i];
            }
}

static bool add_edit_to(float *w, const struct merge_edit *e, size_t all, struct error *err) {
    struct shape s = e->module->target->weight;
    if (e->bias) s = (struct shape){1, 1, 1, e->module->target->is_norm ? s.c : s.w};
    float *d = malloc((size_t)shape_elems(s) * sizeof *d);
    if (!d) return error_set(err, "The host has no memory left for %s.", e->module->target->path);
    bool ok = lora_module_delta(e->module, e->base, e->bias ? NULL : d, e->bias ? d : NULL, err);
    if (ok) add_rows(w, e, d, s, all);
    free(d);
    return ok;
}

/* Numbers that the type cannot hold would silently break the model. */
static bool check_range(const struct merge_tensor *m, const float *w, size_t n, struct error *err) {
    for (size_t i = 0; i < n; i++) {
        bool fits = m->source->dtype == ST_F16 ? fabsf(w[i]) < 65520 : isfinite(w[i]);
        if (!fits)
            return error_set(err, "%s would hold a value of %g, which %s cannot: are the strengths right?",
                             TEXT_SHOW(m->name), (double)w[i], st_dtype_name(m->source->dtype));
    }
    return true;
}

bool merge_fill(void *ctx, void *dst, size_t bytes, struct error *err) {
    const struct merge_tensor *m = ctx;
    size_t n = st_tensor_elements(m->source);
    float *w = malloc((n + 1) * sizeof *w);
    bool ok = w ? st_read_f32(m->source, w, n, err) : error_set(err, "The host has no memory left for %s.", TEXT_SHOW(m->name));
    for (int i = 0; ok && i < m->n; i++) ok = add_edit_to(w, &m->edits[i], n, err);
    ok = ok && check_range(m, w, n, err);
    if (ok && m->source->dtype == ST_F16) half_from_float_n(dst, w, n);
    else if (ok && m->source->dtype == ST_BF16) bf16_from_float_n(dst, w, n);
    else if (ok) memcpy(dst, w, bytes);
    free(w);
    return ok;
}

/* ---- All of it ---- */

static struct lora_file *open_lora(const struct lora_keys *keys, const char *path, struct error *err) {
    struct lora_file *f = lora_file_open(path, keys, err);
    if (f && !lora_file_require_match(f, keys, err)) lora_file_close(&f);
    if (f && (!lora_file_is_whole(f) || f->n_embeddings)) {
        struct arena *a = arena_create(NULL);
        log_warn("%s: %s", TEXT_SHOW(f->given), lora_file_report(f, a));
        arena_destroy(&a);
    }
    return f;
}

bool model_merge(const struct model *model, const struct merge_params *p, struct merge_result *result, struct error *err) {
    struct merge m = {.arena = arena_create(NULL), .model = model};
    struct lora_model layers = adapter_lora_model(model);
    struct lora_keys *keys = lora_keys_create(&layers);
    struct lora_file **files = arena_alloc_n(m.arena, (size_t)p->n + 1, sizeof *files);
    bool ok = true;
    *result = (struct merge_result){0};
    for (int i = 0; ok && i < p->n; i++)
        ok = (files[i] = open_lora(keys, p->loras[i].path, err)) && add_file(&m, files[i], p->loras[i].strength, err);
    ok = ok && (model->single ? merge_write_single(&m, p->out, err) : merge_write_folder(&m, p->out, err));
    for (int i = 0; i < m.n; i++)
        for (int k = 0; k < m.tensors[i].n; k++) result->n_layers += !m.tensors[i].edits[k].bias;
    result->n_tensors = m.n;
    for (int i = 0; i < p->n; i++)
        if (files[i]) lora_file_close(&files[i]);
    lora_keys_destroy(&keys);
    arena_destroy(&m.arena);
    return ok;
}
