/* PEFT's and diffusers' side of conversion: the same tensors, and settings that say which rank and alpha each layer has. */
#include "lora/convert_priv.h"

#include "base/arena.h"
#include "base/os.h"
#include "base/path.h"
#include "base/text.h"
#include "io/json.h"
#include "lora/delta.h"
#include "lora/dialect.h"

#include <stdlib.h>
#include <string.h>

const char *lora_peft_cannot(const struct lora_module *m, struct arena *a) {
    bool dora = strcmp(m->kind_name, "dora") == 0;
    const struct st_tensor *lengths = dora ? lora_convert_slot(m, "magnitude") : NULL;
    if (!dora && strcmp(m->kind_name, "lora") != 0)
        return arena_printf(a, "is of the kind %s, and PEFT's files of LoRAs hold no other", m->kind->title);
    if (m->kind->bias && m->tensors[m->kind->bias]) return "changes a bias, which PEFT's LoRAs do not";
    if (lengths && (lengths->dims[0] != m->target->weight.w || st_tensor_elements(lengths) != (size_t)m->target->weight.w))
        return "has DoRA's lengths of columns, and PEFT knows those of rows";
    return NULL;
}

/* ---- Settings ---- */

struct count {
    double value;
    int n;
};

static int by_use(const void *x, const void *y) {
    const struct count *a = x, *b = y;
    return a->n != b->n ? b->n - a->n : (a->value > b->value) - (a->value < b->value);
}

/* The commonest rank or alpha of a part's modules: what is not in the patterns. */
static double commonest(const struct lora_conversion *c, enum lora_part part, bool alpha) {
    struct count *counts = arena_alloc_n(c->arena, (size_t)c->n + 1, sizeof *counts);
    int n = 0;
    for (int i = 0; i < c->n; i++) {
        const struct lora_module *m = c->modules[i];
        double value = alpha ? m->alpha : m->rank;
        int k = 0;
        if (m->part != part) continue;
        while (k < n && counts[k].value != value) k++;
        if (k == n) counts[n++].value = value;
        counts[k].n++;
    }
    qsort(counts, (size_t)n, sizeof *counts, by_use);
    return n ? counts[0].value : 0;
}

static json_t *number(double v) { return v == (double)(int)v ? json_integer((int)v) : json_real(v); }

/* How transformers 5 and diffusers name the layer inside its part. */
static const char *part_path(const struct lora_module *m) {
    static const char tower[] = "text_model.";
    bool bare = m->part == LORA_TEXT && strncmp(m->target->path, tower, sizeof tower - 1) == 0;
    return m->target->path + (bare ? sizeof tower - 1 : 0);
}

static json_t *settings_of(const struct lora_conversion *c, enum lora_part part) {
    double rank = commonest(c, part, false), alpha = commonest(c, part, true);
    json_t *targets = json_array(), *ranks = json_object(), *alphas = json_object();
    bool dora = false, bias = false;
    for (int i = 0; i < c->n; i++) {
        const struct lora_module *m = c->modules[i];
        if (m->part != part) continue;
        const char *path = part_path(m);
        json_array_append_new(targets, json_string(path));
        if (m->rank != rank) json_object_set_new(ranks, path, json_integer(m->rank));
        if (m->alpha != alpha) json_object_set_new(alphas, path, number(m->alpha));
        dora |= strcmp(m->kind_name, "dora") == 0;
        bias |= lora_convert_slot(m, "up_bias") != NULL;
    }
    return json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:b, s:b, s:b, s:f, s:s, s:b, s:b, s:b, s:n, s:n}",
                     "peft_type", "LORA", "r", number(rank), "lora_alpha", number(alpha), "rank_pattern",
                     ranks, "alpha_pattern", alphas, "target_modules", targets, "use_dora", dora, "lora_bias",
                     bias, "use_rslora", 0, "lora_dropout", 0.0, "bias", "none", "fan_in_fan_out", 0,
                     "inference_mode", 1, "init_lora_weights", 1, "task_type", "base_model_name_or_path");
}

/* use_dora holds for a whole part. */
static bool check_unity(const struct lora_conversion *c) {
    const struct lora_module *first[LORA_N_PARTS] = {0};
    for (int i = 0; i < c->n; i++) {
        const struct lora_module *m = c->modules[i], **to = &first[m->part];
        if (!*to) *to = m;
        if (strcmp((*to)->kind_name, m->kind_name) != 0)
            return error_set(c->e,
                             "%s: some of its modules are DoRAs and others are not (%s, %s), and PEFT has "
                             "one setting for all.",
                             TEXT_SHOW(c->file->path), TEXT_SHOW((*to)->name), TEXT_SHOW(m->name));
    }
    return true;
}

/* ---- Tensors ---- */

/* A Tucker core is multiplied into the factor below it; the product is kept in f32, whatever the factors were in. */
static bool add_folded(const struct lora_conversion *c, struct st_writer *w, const struct lora_module *m, const char *stem) {
    struct shape s = m->target->weight;
    const struct st_tensor *up = lora_convert_slot(m, "up");
    size_t taps = (size_t)s.n, rank = (size_t)m->rank, in = (size_t)s.c;
    float *rows = arena_alloc_n(c->arena, taps * rank * in, sizeof *rows),
          *file = arena_alloc_n(c->arena, taps * rank * in, sizeof *file);
    float *factor = arena_alloc_n(c->arena, (size_t)s.w * rank, sizeof *factor);
    if (!lora_module_read(m, rows, factor, c->e)) return false;
    for (size_t t = 0; t < taps; t++)
        for (size_t i = 0; i < rank * in; i++) file[i * taps + t] = rows[t * rank * in + i];
    st_writer_add_f32(w, arena_printf(c->arena, "%s.lora_A.weight", stem), ST_F32, 4,
                      (const int64_t[]){m->rank, s.c, m->target->conv.k, m->target->conv.k}, file);
    lora_convert_tensor(w, m, up, arena_printf(c->arena, "%s.lora_B.weight", stem));
    return true;
}

static bool add_module(const struct lora_conversion *c, struct st_writer *w, const struct lora_module *m, const char *stem) {
    static const char *const slots[] = {"down", "up"};
    const struct st_tensor *bias = lora_convert_slot(m, "up_bias");
    if (bias) st_writer_add(w, arena_printf(c->arena, "%s.lora_B.bias", stem), bias->dtype, bias->rank, bias->dims, bias->data);
    const struct st_tensor *lengths = lora_convert_slot(m, "row_magnitude");
    if (!lengths) lengths = lora_convert_slot(m, "magnitude");
    if (lengths) {
        const int64_t row[] = {m->target->weight.w}, plane[] = {1, m->target->weight.w, 1, 1};
        bool conv = m->target->is_conv;
        st_writer_add(
            w, arena_printf(c->arena, "%s%s", stem, lora_key_ending(m->kind_name, "row_magnitude", true)),
            lengths->dtype, conv ? 4 : 1, conv ? plane : row, lengths->data);
    }
    if (lora_convert_slot(m, "mid")) return add_folded(c, w, m, stem);
    for (int i = 0; i < 2; i++)
        lora_convert_tensor(w, m, lora_convert_slot(m, slots[i]),
                            arena_printf(c->arena, "%s%s", stem, lora_key_ending(m->kind_name, slots[i], true)));
    return true;
}

/* ---- Files ---- */

bool lora_convert_diffusers(const struct lora_conversion *c, const char *out) {
    if (!check_unity(c)) return false;
    struct st_writer *w = st_writer_create();
    json_t *all = json_object();
    bool used[LORA_N_PARTS] = {0}, ok = true;
    for (int i = 0; ok && i < c->n; i++) {
        const struct lora_module *m = c->modules[i];
        used[m->part] = true;
        ok = add_module(c, w, m, arena_printf(c->arena, "%s.%s", lora_part_name(m->part), part_path(m)));
    }
    for (int part = 0; ok && part < LORA_N_PARTS; part++) {
        if (!used[part]) continue;
        json_t *settings = settings_of(c, (enum lora_part)part), *value;
        const char *key;
        json_object_foreach(settings, key, value)
            json_object_set(all, arena_printf(c->arena, "%s.%s", lora_part_name((enum lora_part)part), key), value);
        json_decref(settings);
    }
    char *text = json_dumps(all, JSON_INDENT(2) | JSON_SORT_KEYS);
    st_writer_meta(w, "format", "pt");
    st_writer_meta(w, "lora_adapter_metadata", text);
    ok = ok && st_writer_save(w, out, c->e);
    free(text);
    json_decref(all);
    st_writer_destroy(&w);
    return ok;
}

static bool write_folder(const struct lora_conversion *c, enum lora_part part, const char *folder) {
    if (!os_dir_make(folder, c->e)) return false;
    struct st_writer *w = st_writer_create();
    bool ok = true;
    for (int i = 0; ok && i < c->n; i++)
        if (c->modules[i]->part == part)
            ok = add_module(c, w, c->modules[i], arena_printf(c->arena, "base_model.model.%s", part_path(c->modules[i])));
    json_t *settings = settings_of(c, part);
    st_writer_meta(w, "format", "pt");
    ok = ok && st_writer_save(w, path_join(c->arena, folder, "adapter_model.safetensors"), c->e) &&
         json_file_save(path_join(c->arena, folder, "adapter_config.json"), settings, 2, c->e);
    json_decref(settings);
    st_writer_destroy(&w);
    return ok;
}

bool lora_convert_peft(const struct lora_conversion *c, const char *out) {
    bool used[LORA_N_PARTS] = {0};
    int n_parts = 0;
    if (!check_unity(c)) return false;
    for (int i = 0; i < c->n; i++) used[c->modules[i]->part] = true;
    for (int part = 0; part < LORA_N_PARTS; part++) n_parts += used[part];
    for (int part = 0; part < LORA_N_PARTS; part++)
        if (used[part] &&
            !write_folder(c, (enum lora_part)part,
                          n_parts == 1 ? out
                                       : path_join(c->arena, out, lora_part_name((enum lora_part)part))))
            return false;
    return true;
}
