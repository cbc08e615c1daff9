#include "lora/save.h"

#include "base/arena.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

/* [taps][rows][inner] -> [rows][inner][taps] as files have it. */
static void taps_last(float *dst, const float *src, size_t rows, size_t inner, size_t taps) {
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < inner; i++)
            for (size_t t = 0; t < taps; t++) dst[(r * inner + i) * taps + t] = src[(t * rows + r) * inner + i];
}

static void add_module(struct st_writer *w, const struct lora_keys *keys, const struct lora_save_module *m,
                       enum st_dtype dtype) {
    struct arena *scratch = arena_create(NULL);
    const struct nn_target *t = m->place.target;
    const char *name = lora_keys_kohya(keys, m->place.part, t->path, scratch);
    int64_t k = t->is_conv ? t->conv.k : 1, in = t->weight.c, out = t->weight.w;
    int rank = t->is_conv ? 4 : 2; /* dimensions, not the adapter's rank */
    if (m->diff) {
        float *diff = arena_alloc_n(scratch, (size_t)shape_elems(t->weight), sizeof *diff);
        taps_last(diff, m->diff, (size_t)out, (size_t)in, (size_t)(k * k));
        st_writer_add_f32(w, arena_printf(scratch, "%s.diff", name), dtype, rank, (const int64_t[]){out, in, k, k}, diff);
        arena_destroy(&scratch);
        return;
    }
    float *down = arena_alloc_n(scratch, (size_t)(m->rank * in * k * k), sizeof *down);
    taps_last(down, m->down, (size_t)m->rank, (size_t)in, (size_t)(k * k));
    st_writer_add_f32(w, arena_printf(scratch, "%s.alpha", name), dtype, 0, NULL, &m->alpha);
    st_writer_add_f32(w, arena_printf(scratch, "%s.lora_down.weight", name), dtype, rank,
                      (const int64_t[]){m->rank, in, k, k}, down);
    st_writer_add_f32(w, arena_printf(scratch, "%s.lora_up.weight", name), dtype, rank,
                      (const int64_t[]){out, m->rank, 1, 1}, m->up);
    arena_destroy(&scratch);
}

static bool has_meta(const struct lora_save_meta *meta, int n, const char *key) {
    for (int i = 0; i < n; i++)
        if (strcmp(meta[i].key, key) == 0) return true;
    return false;
}

/* The hashes cover the ss_* keys only, so those go in first. */
bool lora_save_metadata(struct st_writer *w, const struct lora_save_meta *meta, int n, int rank, float alpha, struct error *e) {
    char dim[32] = "Dynamic", alpha_text[32] = "Dynamic", model[65], legacy[9];
    if (rank) {
        snprintf(dim, sizeof dim, "%d", rank);
        snprintf(alpha_text, sizeof alpha_text, "%.9g", (double)alpha);
    }
    const struct lora_save_meta own[] = {
        {"ss_network_module", "networks.lora"}, {"ss_network_dim", dim}, {"ss_network_alpha", alpha_text}};
    for (int i = 0; i < 3; i++)
        if (!has_meta(meta, n, own[i].key)) st_writer_meta(w, own[i].key, own[i].value);
    for (int i = 0; i < n; i++)
        if (strncmp(meta[i].key, "ss_", 3) == 0) st_writer_meta(w, meta[i].key, meta[i].value);
    if (!st_writer_hashes(w, model, legacy, e)) return false;
    st_writer_meta(w, "sshs_model_hash", model);
    st_writer_meta(w, "sshs_legacy_hash", legacy);
    for (int i = 0; i < n; i++)
        if (strncmp(meta[i].key, "ss_", 3) != 0) st_writer_meta(w, meta[i].key, meta[i].value);
    return true;
}

static bool add_meta(struct st_writer *w, const struct lora_save_params *p, struct error *e) {
    bool uniform = p->n_modules > 0;
    for (int i = 1; i < p->n_modules; i++)
        uniform &= p->modules[i].rank == p->modules[0].rank && p->modules[i].alpha == p->modules[0].alpha;
    return lora_save_metadata(w, p->meta, p->n_meta, uniform ? p->modules[0].rank : 0, uniform ? p->modules[0].alpha : 0, e);
}

void lora_save_tensors(struct st_writer *w, const struct lora_keys *keys, const struct lora_save_params *p) {
    assert(p->dtype == ST_F32 || p->dtype == ST_F16 || p->dtype == ST_BF16);
    for (int i = 0; i < p->n_modules; i++) add_module(w, keys, &p->modules[i], p->dtype);
}

bool lora_save(const char *path, const struct lora_keys *keys, const struct lora_save_params *p, struct error *e) {
    struct st_writer *w = st_writer_create();
    lora_save_tensors(w, keys, p);
    bool ok = add_meta(w, p, e) && st_writer_save(w, path, e);
    st_writer_destroy(&w);
    return ok;
}
