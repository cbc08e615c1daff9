#include "lora/resize.h"

#include "base/arena.h"
#include "base/text.h"
#include "lora/delta.h"
#include "lora/dense.h"
#include "lora/save.h"

#include <math.h>

struct resizing {
    const struct lora_keys *keys;
    const struct lora_resize_params *p;
    struct st_writer *writer;
    struct lora_resize_result *result;
    float alpha;
};

static bool check(const struct lora_module *m, struct error *e) {
    if (m->status != LORA_MATCHED) return error_set(e, "%s %s.", TEXT_SHOW(m->name), m->why);
    bool plain = !m->target->is_norm && lora_module_is_low_rank(m) && !lora_module_has_bias(m, NULL);
    return plain || error_set(e, "%s is no plain LoRA (%s, perhaps with a bias), and only those can be resized: merge it with "
                                 "another by --method svd --partial instead.",
                              TEXT_SHOW(m->name), m->kind->title);
}

static bool fits(const struct resizing *z, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!(fabsf(x[i]) < (z->p->dtype == ST_F16 ? 65520 : INFINITY))) return false;
    return true;
}

static void count(struct resizing *z, const struct lora_svd *svd, int rank) {
    struct lora_resize_result *r = z->result;
    double sum, fro;
    lora_svd_kept(svd, rank, &sum, &fro);
    r->kept_sum += sum, r->kept_fro += fro;
    if (!r->n_layers++ || rank < r->rank_min) r->rank_min = rank;
    if (rank > r->rank_max) r->rank_max = rank;
}

static bool resize(struct resizing *z, const struct lora_module *m, struct arena *a, struct error *e) {
    struct shape s = m->target->weight;
    size_t taps = (size_t)s.n, in = (size_t)s.c, out = (size_t)s.w, old = (size_t)m->rank;
    float *down = arena_alloc_n(a, taps * old * in, sizeof *down), *flat = arena_alloc_n(a, taps * old * in, sizeof *flat);
    float *up = arena_alloc_n(a, out * old, sizeof *up);
    struct lora_svd svd;
    if (!lora_module_read(m, down, up, e)) return false;
    lora_dense_taps_last(flat, down, old, in, taps);
    if (!lora_svd_product(&svd, up, flat, out, old, in * taps, a, e)) return error_prefix(e, "%s", TEXT_SHOW(m->name));
    int rank = lora_svd_rank(&svd, &z->p->rule);
    size_t r = (size_t)rank;
    up = arena_alloc_n(a, out * r, sizeof *up), flat = arena_alloc_n(a, r * in * taps, sizeof *flat);
    down = arena_alloc_n(a, taps * r * in, sizeof *down);
    lora_svd_factors(&svd, r, up, flat);
    lora_dense_taps_first(down, flat, r, in, taps);
    if (!fits(z, up, out * r))
        return error_set(e, "%s would hold numbers beyond its type; does --dtype f32 help?", TEXT_SHOW(m->name));
    z->alpha = m->scale * (float)rank;
    struct lora_save_module module = {{m->part, m->target}, rank, z->alpha, down, up};
    struct lora_save_params save = {.modules = &module, .n_modules = 1, .dtype = z->p->dtype};
    lora_save_tensors(z->writer, z->keys, &save);
    count(z, &svd, rank);
    return true;
}

bool lora_resize(const struct lora_file *f, const struct lora_keys *keys, const struct lora_resize_params *p, const char *out,
                 struct lora_resize_result *r, struct error *e) {
    *r = (struct lora_resize_result){0};
    struct resizing z = {keys, p, st_writer_create(), r, 0};
    float alpha = 0;
    bool ok = true, same = true;
    for (int i = 0; ok && i < f->n_modules; i++) {
        struct arena *a = arena_create(NULL);
        ok = check(&f->modules[i], e) && resize(&z, &f->modules[i], a, e);
        if (i == 0) alpha = z.alpha;
        same &= z.alpha == alpha;
        arena_destroy(&a);
    }
    if (ok) r->kept_sum /= r->n_layers, r->kept_fro /= r->n_layers;
    const struct lora_save_meta meta[] = {{"ss_training_comment", p->comment}};
    int rank = same && r->rank_min == r->rank_max ? r->rank_max : 0;
    ok = ok && lora_save_metadata(z.writer, meta, 1, rank, alpha, e) && st_writer_save(z.writer, out, e);
    st_writer_destroy(&z.writer);
    return ok;
}
