#include "lora/extract.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/os.h"
#include "lora/dense.h"
#include "lora/save.h"

struct job {
    const struct lora_keys *keys;
    const struct lora_extract_params *p;
    struct st_writer *writer;
    struct lora_extract_result *r;
    double work, done;         /* arithmetic of all layers, of those that are finished */
    double all, kept, missing; /* sums of squares */
    float alpha;
    bool mixed; /* layers of different alpha */
};

/* ---- One layer ---- */

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* torch.quantile's: linear between the two nearest. */
static void clamp_factors(float *up, size_t n_up, float *down, size_t n_down, double q) {
    size_t n = n_up + n_down;
    struct arena *a = arena_create(NULL);
    float *size = arena_alloc_n(a, n, sizeof *size);
    for (size_t i = 0; i < n; i++) size[i] = fabsf(i < n_up ? up[i] : down[i - n_up]);
    qsort(size, n, sizeof *size, by_value);
    double at = q * (double)(n - 1);
    size_t low = (size_t)at, high = low + 1 < n ? low + 1 : low;
    float most = (float)(size[low] + (at - (double)low) * ((double)size[high] - size[low]));
    for (size_t i = 0; i < n; i++) {
        float *x = i < n_up ? &up[i] : &down[i - n_up];
        *x = *x > most ? most : *x < -most ? -most : *x;
    }
    arena_destroy(&a);
}

bool lora_extract_layer(const float *d, struct shape w, const struct lora_rank_rule *rule, double clamp, struct arena *a,
                        int *rank, float **up, float **down, double *kept_fro, struct error *e) {
    size_t taps = (size_t)w.n, out = (size_t)w.w, in = (size_t)w.c;
    float *matrix = arena_alloc_n(a, out * in, taps * sizeof *matrix);
    struct lora_svd svd;
    lora_dense_taps_last(matrix, d, out, in, taps);
    if (!lora_svd_dense(&svd, matrix, out, in * taps, a, e)) return false;
    *rank = lora_svd_rank(&svd, rule);
    size_t r = (size_t)*rank;
    double sum;
    lora_svd_kept(&svd, *rank, &sum, kept_fro);
    float *flat = arena_alloc_n(a, r * in, taps * sizeof *flat);
    *up = arena_alloc_n(a, out * r, sizeof **up), *down = arena_alloc_n(a, r * in, taps * sizeof **down);
    lora_svd_factors(&svd, r, *up, flat);
    if (clamp < 1) clamp_factors(*up, out * r, flat, r * in * taps, clamp);
    lora_dense_taps_first(*down, flat, r, in, taps);
    return true;
}

static float *difference(const struct nn_params *base, const struct nn_params *tuned, int slot, int other, size_t n,
                         struct arena *a) {
    float *x = arena_alloc_n(a, n, sizeof *x), *y = arena_alloc_n(a, n, sizeof *y);
    nn_params_read_slot(base, slot, x);
    nn_params_read_slot(tuned, other, y);
    for (size_t i = 0; i < n; i++) y[i] -= x[i];
    return y;
}

static double largest(const float *d, size_t n) {
    double most = 0;
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)d[i]) <= most)) most = fabs((double)d[i]); /* not a number counts */
    return most;
}

/* Squares of what is missing: d - up * down. */
static double missing(const float *d, const float *up, const float *down, struct shape w, size_t rank, struct arena *a) {
    size_t taps = (size_t)w.n, out = (size_t)w.w, in = (size_t)w.c;
    float *product = arena_alloc_n(a, out, in * sizeof *product);
    double sum = 0;
    for (size_t t = 0; t < taps; t++) {
        lora_dense_product(product, up, down + t * rank * in, out, rank, in);
        for (size_t i = 0; i < out * in; i++) {
            double x = (double)d[t * out * in + i] - product[i];
            sum += x * x;
        }
    }
    return sum;
}

static bool fits(enum st_dtype dtype, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!(fabsf(x[i]) < (dtype == ST_F16 ? 65520 : INFINITY))) return false;
    return true;
}

static void count(struct job *j, int rank) {
    struct lora_extract_result *r = j->r;
    if (!r->n_layers++ || rank < r->rank_min) r->rank_min = rank;
    if (rank > r->rank_max) r->rank_max = rank;
    j->mixed |= r->n_layers > 1 && j->alpha != (float)rank;
    j->alpha = (float)rank;
}

static bool extract(struct job *j, enum lora_part part, const struct nn_target *t, const float *d, struct arena *a,
                    struct error *e) {
    struct shape w = t->weight;
    size_t n = (size_t)shape_elems(w);
    int rank;
    float *up, *down;
    double kept, norm = 0;
    if (!lora_extract_layer(d, w, &j->p->rule, j->p->clamp, a, &rank, &up, &down, &kept, e))
        return error_prefix(e, "The change of %s.%s", lora_part_name(part), t->path);
    if (!fits(j->p->dtype, up, (size_t)w.w * (size_t)rank))
        return error_set(e, "The change of %s.%s has numbers that half floats cannot hold; use --dtype f32.",
                         lora_part_name(part), t->path);
    for (size_t i = 0; i < n; i++) norm += (double)d[i] * d[i];
    j->all += norm, j->kept += kept * kept * norm;
    j->missing += missing(d, up, down, w, (size_t)rank, a);
    struct lora_save_module module = {{part, t}, rank, (float)rank, down, up};
    struct lora_save_params save = {.modules = &module, .n_modules = 1, .dtype = j->p->dtype};
    lora_save_tensors(j->writer, j->keys, &save);
    count(j, rank);
    return true;
}

/* ---- All of them ---- */

static const char *weight_of(const struct nn_target *t, struct arena *a) { return arena_printf(a, "%s.weight", t->path); }

static double work_of(const struct nn_target *t) {
    double out = t->weight.w, in = (double)t->weight.c * t->weight.n;
    return out * in * (out < in ? out : in);
}

/* The same slots of the same shapes; the work ahead. */
static bool compare(struct job *j, enum lora_part part, struct error *e) {
    const struct nn_params *base = j->p->base[part], *tuned = j->p->tuned[part];
    const struct nn_target_list *list = lora_keys_model(j->keys)->targets[part];
    if (!base != !tuned)
        return error_set(e, "The two models are of different architectures: only one of them has a %s.", lora_part_name(part));
    for (int i = 0; base && i < base->set->n_slots; i++) {
        const struct tensor_slot *s = &base->set->slots[i];
        int other = nn_params_find(tuned, s->name);
        if (other < 0 || !shape_equal(s->shape, tuned->set->slots[other].shape))
            return error_set(e, "The two models are of different architectures: %s.%s %s; both must come from one base model.",
                             lora_part_name(part), s->name, other < 0 ? "is in one of them only" : "has another shape in each");
    }
    if (base && base->set->n_slots != tuned->set->n_slots)
        return error_set(e, "The two models are of different architectures: %d weights in the %s of one and %d in the other's.",
                         base->set->n_slots, lora_part_name(part), tuned->set->n_slots);
    for (int i = 0; base && i < list->n; i++) j->work += work_of(&list->items[i]);
    return true;
}

static bool extract_one(struct job *j, enum lora_part part, const struct nn_target *t, struct error *e) {
    struct arena *a = arena_create(NULL);
    const struct nn_params *base = j->p->base[part], *tuned = j->p->tuned[part];
    int slot = nn_params_find(base, weight_of(t, a)), other = nn_params_find(tuned, weight_of(t, a));
    size_t n = (size_t)shape_elems(t->weight);
    const float *d = difference(base, tuned, slot, other, n, a);
    bool ok = true;
    if (largest(d, n) == 0) j->r->n_same++;
    else ok = extract(j, part, t, d, a, e);
    j->done += work_of(t);
    arena_destroy(&a);
    return ok;
}

/* Whether any layer of a part changes by min_diff. */
static bool changes(const struct job *j, enum lora_part part) {
    const struct nn_target_list *list = lora_keys_model(j->keys)->targets[part];
    bool found = false;
    for (int i = 0; i < list->n && !found; i++) {
        struct arena *a = arena_create(NULL);
        const char *name = weight_of(&list->items[i], a);
        size_t n = (size_t)shape_elems(list->items[i].weight);
        const struct nn_params *base = j->p->base[part], *tuned = j->p->tuned[part];
        double most = largest(difference(base, tuned, nn_params_find(base, name), nn_params_find(tuned, name), n, a), n);
        found = !(most < j->p->min_diff);
        arena_destroy(&a);
    }
    return found;
}

/* Biases, norms and tables: what no row of the targets is. */
static void look_beside(struct job *j, enum lora_part part) {
    const struct nn_params *base = j->p->base[part];
    const struct nn_target_list *list = lora_keys_model(j->keys)->targets[part];
    struct arena *a = arena_create(NULL);
    bool *is_target = arena_alloc_n(a, (size_t)base->set->n_slots, sizeof *is_target);
    for (int i = 0; i < list->n; i++) is_target[nn_params_find(base, weight_of(&list->items[i], a))] = true;
    for (int i = 0; i < base->set->n_slots; i++) {
        if (is_target[i]) continue;
        struct arena *own = arena_create(a);
        size_t n = (size_t)shape_elems(base->set->slots[i].shape);
        int other = nn_params_find(j->p->tuned[part], base->set->slots[i].name);
        double most = largest(difference(base, j->p->tuned[part], i, other, n, own), n);
        j->r->n_other += most != 0;
        if (most > j->r->other_diff) j->r->other_diff = most;
        arena_destroy(&own);
    }
    arena_destroy(&a);
}

static bool extract_part(struct job *j, enum lora_part part, struct error *e) {
    const struct nn_target_list *list = lora_keys_model(j->keys)->targets[part];
    if (!j->p->base[part]) return true;
    look_beside(j, part);
    if (part != LORA_UNET && !changes(j, part)) {
        for (int i = 0; i < list->n; i++) j->done += work_of(&list->items[i]);
        j->r->skipped[part] = true;
        return true;
    }
    for (int i = 0; i < list->n; i++) {
        if (os_interrupted()) return error_set(e, "Stopped before all layers were compared; nothing was written.");
        if (j->p->progress) j->p->progress(j->p->ctx, j->done / j->work, list->items[i].path);
        if (!extract_one(j, part, &list->items[i], e)) return false;
    }
    return true;
}

bool lora_extract(const struct lora_keys *keys, const struct lora_extract_params *p, const char *out,
                  struct lora_extract_result *r, struct error *e) {
    *r = (struct lora_extract_result){0};
    struct job j = {.keys = keys, .p = p, .writer = st_writer_create(), .r = r};
    bool ok = true;
    for (int part = 0; ok && part < LORA_N_PARTS; part++) ok = compare(&j, (enum lora_part)part, e);
    for (int part = 0; ok && part < LORA_N_PARTS; part++) ok = extract_part(&j, (enum lora_part)part, e);
    if (ok && !r->n_layers)
        ok = error_set(e, "No layer that a LoRA can change differs between the two models, so there is nothing to extract.");
    const struct lora_save_meta meta[] = {{"ss_training_comment", p->comment}};
    ok = ok && lora_save_metadata(j.writer, meta, 1, j.mixed ? 0 : r->rank_max, j.alpha, e) && st_writer_save(j.writer, out, e);
    if (ok) r->kept_fro = sqrt(j.kept / j.all), r->error = sqrt(j.missing / j.all);
    st_writer_destroy(&j.writer);
    return ok;
}
