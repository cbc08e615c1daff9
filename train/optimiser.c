#include "train/optimiser_priv.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define OPTIMISER(name) extern const struct optimiser_kind optimiser_kind_##name;
#include "train/optimisers.def"
#undef OPTIMISER
#define OPTIMISER(name) &optimiser_kind_##name,
static const struct optimiser_kind *const kinds[] = {
#include "train/optimisers.def"
};
#undef OPTIMISER
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static const struct optimiser_kind *find(const char *name) {
    for (int i = 0; i < N_KINDS; i++)
        if (!strcmp(kinds[i]->traits.name, name ? name : "adamw")) return kinds[i];
    return NULL;
}

const struct optimiser_traits *optimiser_find(const char *name) {
    const struct optimiser_kind *k = find(name);
    return k ? &k->traits : NULL;
}

static bool unknown(const char *name, struct error *err) {
    struct arena *a = arena_create(NULL);
    const char *list = kinds[0]->traits.name;
    for (int i = 1; i < N_KINDS; i++) list = arena_printf(a, "%s, %s", list, kinds[i]->traits.name);
    error_set(err, "There is no optimiser \"%.40s\"; known are %s.", name, list);
    arena_destroy(&a);
    return false;
}

bool optimiser_params_check(const struct optimiser_params *p, struct error *err) {
    const struct optimiser_kind *k = find(p->name);
    if (!k) return unknown(p->name, err);
    if (!(p->beta1 >= 0 && p->beta1 < 1 && p->beta2 >= 0 && p->beta2 < 1))
        return error_set(err, "The optimiser's betas must lie from 0 to below 1.");
    if (!(p->weight_decay >= 0) || !(p->max_grad_norm >= 0) || !(p->eps >= 0))
        return error_set(err, "Weight decay, the largest gradient norm and eps must not be negative.");
    bool prodigy = p->d_coef != 0 || p->growth != 0 || p->bias_correction || p->safeguard;
    if (prodigy && strcmp(k->traits.name, "prodigy"))
        return error_set(err, "The --prodigy options need --optimizer prodigy, not %s.", k->traits.name);
    if ((p->relative_step || p->scale_by_param) && strcmp(k->traits.name, "adafactor"))
        return error_set(err, "The --adafactor options need --optimizer adafactor, not %s.", k->traits.name);
    return !k->check || k->check(p, err);
}

/* ---- The tapes ---- */

static int append(struct graph *g, enum op op, const int *in, int n_in) {
    int node = graph_append(g, op, in, n_in, (union op_attr){0});
    return node < 0 ? -1 : g->nodes[node].out[0];
}

static int texels_of(const struct tensor_set *set, int chunk) {
    return (int)((set->chunk_texels[chunk] + SHAPE_ROW_TILE - 1) / SHAPE_ROW_TILE * SHAPE_ROW_TILE);
}

void optimiser_build_flat(struct optimiser *o, enum op op, bool has_rates) {
    for (int c = 0; c < o->set->n_chunks; c++) {
        int in[GRAPH_MAX_IN], n = 0;
        in[n++] = graph_flat(o->g, o->set, SET_DATA, c);
        in[n++] = graph_flat(o->g, o->set, o->grad_bank, c);
        for (int i = 0; i < o->kind->n_states; i++) in[n++] = graph_flat(o->g, o->set, optimiser_bank_of(i), c);
        in[n++] = o->hyper;
        o->rates[c] =
            has_rates ? graph_io(o->g, "rates", (struct shape){1, 1, 1, texels_of(o->set, c) / OPTIMISE_RATE_TEXELS}) : -1;
        if (has_rates) in[n++] = o->rates[c];
        append(o->g, op, in, n);
    }
}

static bool build(struct optimiser *o, struct error *err) {
    int total = -1;
    o->norm_g = graph_create(o->arena, TENSOR_F32);
    for (int c = 0; c < o->set->n_chunks; c++)
        total = append(o->norm_g, OP_SUM_SQUARES, (int[]){graph_flat(o->norm_g, o->set, o->grad_bank, c), total}, 2);
    o->norm = graph_output(o->norm_g, "gradient norm", total);
    o->g = graph_create(o->arena, TENSOR_F32);
    o->hyper = graph_io(o->g, "hyper", (struct shape){1, 1, 1, OPTIMISE_HYPER});
    for (int c = 0; c < 16; c++) o->rates[c] = -1;
    o->kind->build(o);
    return graph_ok(o->norm_g, err) && graph_ok(o->g, err) && (!o->first_g || graph_ok(o->first_g, err));
}

struct optimiser *optimiser_create(struct arena *parent, const struct optimiser_params *p, const struct optimiser_setup *s,
                                   struct error *err) {
    if (!optimiser_params_check(p, err)) return NULL;
    struct arena *a = arena_create(parent);
    struct optimiser *o = arena_alloc(a, sizeof *o);
    const struct optimiser_kind *k = find(p->name);
    *o = (struct optimiser){.arena = a, .kind = k, .params = *p, .set = s->set, .grad_bank = s->grad_bank,
                            .loss_scale = s->loss_scale};
    if (!p->beta1) o->params.beta1 = k->beta1;
    if (!p->beta2) o->params.beta2 = k->beta2;
    if (!p->eps) o->params.eps = k->eps;
    o->slots = arena_alloc_n(a, (size_t)s->set->n_slots, sizeof *o->slots);
    for (int i = 0; i < s->set->n_slots; i++) {
        o->slots[i] = s->slots[i];
        assert(!k->traits.one_rate || s->slots[i].rate == 1);
    }
    if (!build(o, err)) optimiser_destroy(&o);
    return o;
}

static int64_t bank_bytes(const struct tensor_set *set) {
    int64_t bytes = 0;
    for (int c = 0; c < set->n_chunks; c++) bytes += (int64_t)texels_of(set, c) * 16;
    return bytes;
}

int64_t optimiser_state_bytes(const struct optimiser *o) {
    return o->kind->n_states * bank_bytes(o->set) + (o->own ? bank_bytes(o->own) : 0);
}

/* ---- On the device ---- */

static int bindings(const struct optimiser *o, struct gpu_binding *b) {
    int n = 0;
    b[n++] = (struct gpu_binding){o->set, SET_DATA, o->data};
    b[n++] = (struct gpu_binding){o->set, o->grad_bank, o->grad};
    for (int i = 0; i < o->kind->n_states; i++) b[n++] = (struct gpu_binding){o->set, optimiser_bank_of(i), o->states[i]};
    if (o->own) b[n++] = (struct gpu_binding){o->own, SET_DATA, o->own_data};
    return n;
}

static void write_rates(struct optimiser *o) {
    struct arena *a = arena_create(NULL);
    for (int c = 0; c < o->set->n_chunks; c++) {
        if (o->rates[c] < 0) continue;
        size_t n = (size_t)(texels_of(o->set, c) / OPTIMISE_RATE_TEXELS);
        float *rates = arena_alloc_n(a, n, sizeof *rates);
        for (size_t i = 0; i < n; i++) rates[i] = 1;
        for (int i = 0; i < o->set->n_slots; i++) {
            const struct tensor_slot *s = &o->set->slots[i];
            assert(s->offset % OPTIMISE_RATE_TEXELS == 0);
            for (int64_t k = s->offset / OPTIMISE_RATE_TEXELS;
                 s->chunk == c && k * OPTIMISE_RATE_TEXELS < s->offset + shape_texels(s->shape); k++)
                rates[k] = o->slots[i].rate;
        }
        gpu_program_write(o->prog, o->rates[c], rates);
    }
    arena_destroy(&a);
}

bool optimiser_open(struct optimiser *o, struct engine *e, struct gpu_set *data, struct gpu_set *grad, struct error *err) {
    o->data = data, o->grad = grad;
    for (int i = 0; i < o->kind->n_states; i++)
        if (!(o->states[i] = gpu_set_create(e->dev, o->set, optimiser_bank_of(i), err))) return false;
    if (o->own && !(o->own_data = gpu_set_create(e->dev, o->own, SET_DATA, err))) return false;
    struct gpu_binding b[OPTIMISER_STATES + 3];
    struct gpu_program_params p = engine_program_params(e, "The optimiser", NULL);
    p.bindings = b, p.n_bindings = bindings(o, b);
    if (!(o->norm_prog = gpu_program_create(e->dev, o->norm_g, &p, err))) return false;
    if (o->first_g && !(o->first_prog = gpu_program_create(e->dev, o->first_g, &p, err))) return false;
    if (!(o->prog = gpu_program_create(e->dev, o->g, &p, err))) return false;
    write_rates(o);
    return true;
}

void optimiser_destroy(struct optimiser **p) {
    struct optimiser *o = *p;
    if (!o) return;
    *p = NULL;
    gpu_program_destroy(&o->norm_prog);
    gpu_program_destroy(&o->first_prog);
    gpu_program_destroy(&o->prog);
    for (int i = 0; i < OPTIMISER_STATES; i++) gpu_set_destroy(&o->states[i]);
    gpu_set_destroy(&o->own_data);
    struct arena *a = o->arena;
    arena_destroy(&a);
}

/* ---- A step ---- */

static bool start_states(struct optimiser *o, struct error *err) {
    struct arena *a = arena_create(NULL);
    bool ok = true;
    for (int c = 0; ok && o->kind->start_as_data && c < o->set->n_chunks; c++) {
        void *bytes = arena_alloc(a, (size_t)gpu_set_chunk_bytes(o->data, c));
        ok = gpu_set_read_raw(o->data, c, bytes, err);
        for (int i = 0; ok && i < o->kind->n_states; i++)
            if (o->kind->start_as_data >> i & 1) ok = gpu_set_write_raw(o->states[i], c, bytes, err);
    }
    arena_destroy(&a);
    return ok;
}

bool optimiser_step(struct optimiser *o, float lr, float *norm, bool *applied, struct error *err) {
    float total;
    *applied = false;
    *norm = 0;
    if (!gpu_program_run(o->norm_prog, err)) return false;
    gpu_program_read(o->norm_prog, o->norm, &total);
    if (!isfinite(total)) return true;
    *norm = sqrtf(total) / o->loss_scale;
    if (o->numbers[NUMBER_STEP] == 0 && !start_states(o, err)) return false;
    o->numbers[NUMBER_STEP]++;
    float clip = o->params.max_grad_norm > 0 ? fminf(1, o->params.max_grad_norm / (*norm + 1e-6f)) : 1;
    memset(o->hyper_values, 0, sizeof o->hyper_values);
    o->hyper_values[0] = lr, o->hyper_values[1] = o->params.weight_decay, o->hyper_values[2] = clip / o->loss_scale;
    o->hyper_values[3] = (float)o->params.beta1, o->hyper_values[4] = (float)o->params.beta2;
    o->hyper_values[10] = (float)(1 - o->params.beta1), o->hyper_values[11] = (float)(1 - o->params.beta2);
    if (o->kind->prepare && !o->kind->prepare(o, lr, err)) return false;
    gpu_program_write(o->prog, o->hyper, o->hyper_values);
    *applied = true;
    return gpu_program_run(o->prog, err);
}

float optimiser_rate(const struct optimiser *o, float lr) { return o->kind->rate ? o->kind->rate(o, lr) : lr; }

bool optimiser_judged(struct optimiser *o, int chunk, float *data, bool *has, struct error *err) {
    *has = o->kind->judged && o->numbers[NUMBER_STEP] > 0;
    if (!*has) return true;
    size_t bytes = (size_t)gpu_set_chunk_bytes(o->data, chunk);
    struct arena *a = arena_create(NULL);
    float *z = arena_alloc(a, bytes), mix = (float)(1 - 1 / o->params.beta1);
    bool ok = gpu_set_read_raw(o->data, chunk, data, err) && gpu_set_read_raw(o->states[0], chunk, z, err);
    for (size_t i = 0; ok && i < bytes / sizeof *z; i++) data[i] += mix * (z[i] - data[i]);
    arena_destroy(&a);
    return ok;
}

int optimiser_banks(const struct optimiser *o, struct optimiser_bank out[OPTIMISER_MAX_BANKS]) {
    static const char *const names[] = {"moment1", "moment2", "moment3", "moment4"};
    int n = 0;
    for (; n < o->kind->n_states; n++) out[n] = (struct optimiser_bank){names[n], o->states[n], o->set->n_chunks};
    if (o->own) out[n++] = (struct optimiser_bank){"means", o->own_data, o->own->n_chunks};
    return n;
}

double *optimiser_numbers(struct optimiser *o) { return o->numbers; }
