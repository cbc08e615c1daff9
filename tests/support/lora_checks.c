#include "tests/support/cm.h"
#include "tests/support/evaluate.h"
#include "tests/support/lora_checks.h"
#include "tests/support/mini_unet.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "diffusion/target.h"
#include "gpu/device.h"
#include "io/json.h"
#include "lora/select.h"

static struct gpu_device *device;
static enum tensor_dtype storage;

static float *read_f32(struct arena *a, const struct st_file *f, const char *name) {
    const struct st_tensor *t = st_find(f, name);
    struct error e = {0};
    if (!t) fail_msg("%s lacks %s", st_path(f), name);
    float *out = arena_alloc_n(a, st_tensor_elements(t), sizeof *out);
    if (!st_read_f32(t, out, st_tensor_elements(t), &e)) fail_msg("%s", e.text);
    return out;
}

static const char *kohya_key(struct arena *a, const char *group, const char *path, const char *tail) {
    char *key = arena_printf(a, "%s.lora_unet_%s", group, path);
    for (char *c = key + strlen(group) + 1; *c; c++)
        if (*c == '.') *c = '_';
    return arena_printf(a, "%s.%s", key, tail);
}

/* A file's [rank][in][k][k] as canonical rows. */
static float *read_down(struct arena *a, const struct st_file *f, const char *name, int rank,
                        struct shape w) {
    float *out = arena_alloc_n(a, (size_t)rank * w.c * w.n, sizeof *out);
    nn_params_read_tensor(st_find(f, name), (struct shape){w.n, 1, rank, w.c}, out);
    return out;
}

static void to_double(double *dst, const float *src, int64_t n) {
    for (int64_t i = 0; i < n; i++) dst[i] = src[i];
}
static double *new_double(struct arena *a, int64_t n) {
    return arena_alloc_n(a, (size_t)n, sizeof(double));
}

/* --- one training step ------------------------------------------------------------------------------- */

struct step {
    struct mini_unet m;
    struct st_file *file;
    struct lora_stack *stack;
    struct lora_binding binding;
    struct graph *g;
    int sample, timestep, context, target, seed, loss;
    double **data;
};

static struct schedule *load_schedule(struct arena *a, const char *name) {
    struct error e = {0};
    json_t *o =
        json_file_load(eval_data_path(a, arena_printf(a, "%s/scheduler/scheduler_config.json", name)), 0, &e);
    if (!o) fail_msg("%s", e.text);
    struct json_reader r = {.file = name, .e = &e};
    struct schedule_params p = {.beta_start = json_read_number(&r, o, "beta_start", 0),
                                .beta_end = json_read_number(&r, o, "beta_end", 0)};
    if (!schedule_beta_parse(json_read_string(&r, o, "beta_schedule", "linear"), &p.beta, &e) ||
        !schedule_prediction_parse(json_read_string(&r, o, "prediction_type", "epsilon"), &p.prediction, &e))
        fail_msg("%s", e.text);
    struct schedule *s = schedule_create(&p, &e);
    if (!s) fail_msg("%s", e.text);
    json_decref(o);
    return s;
}

static void step_open(struct step *t, const char *model, const char *choice) {
    struct error e = {0};
    *t = (struct step){0};
    mini_unet_open(&t->m, model, storage);
    struct arena *a = t->m.arena;
    t->file = st_open(eval_data_path(a, arena_printf(a, "%s.train-%s.safetensors", model, choice)), &e);
    if (!t->file) fail_msg("%s", e.text);
    enum lora_selection selection;
    assert_true(lora_selection_parse(choice, &selection, &e));
    t->stack = lora_stack_create(a, "lora", TENSOR_F32, true, 0);
    int unet = lora_stack_model(t->stack, "unet", &t->m.targets), adapter = lora_stack_adapter(t->stack);
    int rank = atoi(st_meta_find(t->file, "rank"));
    float alpha = (float)atof(st_meta_find(t->file, "alpha"));
    for (int i = 0; i < t->m.targets.n; i++) {
        const struct nn_target *target = &t->m.targets.items[i];
        if (!lora_selection_has(selection, target->path)) continue;
        struct lora_factors f = {.rank = rank,
                                 .alpha = alpha,
                                 .in = target->weight.c,
                                 .out = target->weight.w,
                                 .k = target->conv.k};
        f.down = read_down(a, t->file, kohya_key(a, "start", target->path, "lora_down.weight"), rank,
                           target->weight);
        f.up = read_f32(a, t->file, kohya_key(a, "start", target->path, "lora_up.weight"));
        if (!lora_stack_add(t->stack, adapter, unet, target->path, &f, &e)) fail_msg("%s", e.text);
    }
    assert_true(lora_stack_seal(t->stack, &e));
    size_t in_file = 0;
    for (size_t i = 0; i < st_count(t->file); i++)
        in_file += strncmp(st_at(t->file, i)->name, "gradient.", 9) == 0;
    assert_int_equal(in_file, 2 * t->stack->n_layers);
}

static void step_build(struct step *t, int n, struct shape latent, struct shape context, bool remat) {
    struct error e = {0};
    struct graph *g = t->g = graph_create(t->m.arena, storage);
    t->sample = graph_io(g, "sample", latent);
    t->target = graph_io(g, "target", latent);
    t->timestep = graph_io(g, "timestep", (struct shape){n, 1, 1, 1});
    t->context = graph_io(g, "context", context);
    t->seed = graph_io(g, "seed", (struct shape){n, 1, 1, 1});
    lora_stack_bind(t->stack, 0, g, "unet", n, &t->binding);
    struct nn_ctx c = nn_begin(g, t->m.params, &t->binding.hook, "unet");
    struct unet_inputs in = {t->sample, t->timestep, t->context, -1, -1};
    int out = unet_build(&c, &t->m.cfg, &in);
    nn_end(&c);
    t->loss = out < 0 ? -1 : graph_output(g, "loss", graph_mse(g, out, t->target));
    if (t->loss >= 0) graph_grad(g, t->loss, t->seed, &e);
    if (remat && !graph_remat(g, &e)) fail_msg("%s", e.text);
    if (!remat) graph_prune(g);
    if (!graph_verify(g, &e)) fail_msg("%s", e.text);
}

/* Golden [steps,batch,4,h,w]: the first step as canonical rows. */
static float *first_step(struct arena *a, const struct st_file *f, const char *name, struct shape *s) {
    const struct st_tensor *t = st_find(f, name);
    assert_non_null(t);
    *s = (struct shape){(int)t->dims[1], (int)t->dims[3], (int)t->dims[4], (int)t->dims[2]};
    float *raw = read_f32(a, f, name), *out = arena_alloc_n(a, (size_t)shape_elems(*s), sizeof *out);
    int pixels = s->h * s->w;
    for (int n = 0, at = 0; n < s->n; n++)
        for (int p = 0; p < pixels; p++)
            for (int c = 0; c < s->c; c++) out[at++] = raw[(n * s->c + c) * pixels + p];
    return out;
}

/* Gradients of a mean over many pixels are too small for f16: they travel scaled. */
static double seed_scale(void) {
    return storage == TENSOR_F16 ? 1024 : 1;
}

static void step_run(struct step *t, const char *model, bool remat) {
    struct arena *a = t->m.arena;
    struct shape s, cs;
    float *latents = first_step(a, t->file, "latents", &s), *noise = first_step(a, t->file, "noise", &s);
    float *times = read_f32(a, t->file, "timesteps");
    double *context = eval_golden(t->file, "context", a, &cs);
    step_build(t, s.n, s, cs, remat);
    struct eval_set sets[] = {eval_params(t->m.params), {t->stack->set, mini_stack_read, t->stack}};
    double **data = t->data = arena_alloc_n(a, (size_t)t->g->n_values, sizeof *data);
    struct schedule *schedule = load_schedule(a, model);
    int64_t each = shape_elems(s) / s.n, columns = t->stack->n_columns;
    float *x = arena_alloc_n(a, (size_t)each, sizeof *x);
    data[t->sample] = new_double(a, shape_elems(s)), data[t->target] = new_double(a, shape_elems(s));
    data[t->timestep] = new_double(a, s.n), data[t->seed] = new_double(a, s.n);
    data[t->context] = context;
    for (int i = 0; i < s.n; i++) {
        target_add_noise(schedule, (int)times[i], x, latents + i * each, noise + i * each, (size_t)each);
        to_double(data[t->sample] + i * each, x, each);
        target_make(schedule, (int)times[i], x, latents + i * each, noise + i * each, (size_t)each);
        to_double(data[t->target] + i * each, x, each);
        data[t->timestep][i] = times[i], data[t->seed][i] = seed_scale() / s.n;
    }
    float *strength = arena_alloc_n(a, (size_t)(s.n * columns), sizeof *strength), ones[] = {1, 1, 1, 1};
    lora_stack_fill_strengths(t->stack, s.n, ones, strength);
    data[t->binding.strength] = new_double(a, s.n * columns);
    to_double(data[t->binding.strength], strength, s.n * columns);
    eval_run(device, t->g, data, sets, 2, a);
    schedule_destroy(&schedule);
}

static float *gradient_rows(struct step *t, int slot) {
    for (int v = 0; v < t->g->n_values; v++) {
        const struct value *value = &t->g->values[v];
        if (value->cls != VALUE_SET || value->bank != SET_GRAD || value->slot != slot || !t->data[v])
            continue;
        int64_t n = shape_elems(value->shape);
        float *out = arena_alloc_n(t->m.arena, (size_t)n, sizeof *out);
        for (int64_t i = 0; i < n; i++) out[i] = (float)(t->data[v][i] / seed_scale());
        return out;
    }
    fail_msg("no gradient for %s", t->stack->set->slots[slot].name);
    return NULL;
}

static double worst_relative(const float *got, const float *want, size_t n) {
    double worst = 0, largest = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - want[i]);
        if (!(d <= worst)) worst = d;
        largest = fmax(largest, fabs(want[i]));
    }
    return worst / largest;
}

static void step_compare(struct step *t, const char *label) {
    struct arena *a = t->m.arena;
    double worst = 0, loss = 0;
    for (int l = 0; l < t->stack->n_layers; l++) {
        const struct lora_stack_layer *layer = &t->stack->layers[l];
        const struct lora_stack_part *part = &layer->parts[0];
        struct shape w = layer->target->weight;
        size_t n_down = (size_t)part->rank * w.c * w.n, n_up = (size_t)part->rank * w.w;
        float *down = arena_alloc_n(a, n_down, sizeof *down), *up = arena_alloc_n(a, n_up, sizeof *up);
        lora_stack_extract(layer, part, gradient_rows(t, layer->down), gradient_rows(t, layer->up), down, up);
        float *want_down = read_down(
            a, t->file, kohya_key(a, "gradient", layer->target->path, "lora_down.weight"), part->rank, w);
        float *want_up =
            read_f32(a, t->file, kohya_key(a, "gradient", layer->target->path, "lora_up.weight"));
        worst = fmax(worst, worst_relative(down, want_down, n_down));
        worst = fmax(worst, worst_relative(up, want_up, n_up));
        if (!(worst < (storage == TENSOR_F16 ? 0.1 : 1e-3)))
            fail_msg("%s: gradient of %s differs by %g", label, layer->target->path, worst);
    }
    int n = graph_shape(t->g, t->loss).n;
    for (int i = 0; i < n; i++) loss += t->data[t->loss][i] / n;
    float want = read_f32(a, t->file, "losses")[0];
    print_message("%s: %d layers, gradients within %.2g, loss %.7f wanted %.7f\n", label, t->stack->n_layers,
                  worst, loss, want);
    assert_true(fabs(loss - want) < (storage == TENSOR_F16 ? 2e-3 : 1e-5) * want);
}

static void check_gradient(const char *model, const char *choice, bool remat) {
    struct step t;
    char label[64];
    snprintf(label, sizeof label, "%s %s%s", model, choice, remat ? " with recompute" : "");
    step_open(&t, model, choice);
    step_run(&t, model, remat);
    step_compare(&t, label);
    st_close(&t.file);
    mini_unet_close(&t.m);
}

/* --- stacks ------------------------------------------------------------------------------------------ */

/* Image 0 and image 1 of one batch carry different mixtures; each must equal its merged model. */
static void check_mixtures(void) {
    static const float strength[2][2] = {{1.0f, 0.5f}, {-0.7f, 0.0f}};
    struct error e = {0};
    for (int trainable = 0; trainable < 2; trainable++) {
        struct mini_unet m;
        mini_unet_open(&m, "mini-xl", storage);
        struct st_file *golden = st_open(eval_data_path(m.arena, "mini-xl.golden.safetensors"), &e);
        assert_non_null(golden);
        struct lora_stack *stack = mini_unet_random_stack(&m, trainable);
        print_message("%d layers, %d layouts, %d columns\n", stack->n_layers, stack->n_layouts,
                      stack->n_columns);
        assert_true(stack->n_columns % 4 == 0);
        struct shape s;
        double *mixed = mini_unet_run(&m, device, golden, stack, strength[0], eval_params(m.params), &s);
        int64_t half = shape_elems(s) / 2;
        for (int image = 0; image < 2; image++) {
            struct mini_merged merged = {&m, stack, strength[image]};
            struct eval_set weights = {m.params->set, mini_merged_read, &merged};
            double *want = mini_unet_run(&m, device, golden, stack, NULL, weights, &s);
            double worst = eval_worst(mixed + image * half, want + image * half, half);
            double other = eval_worst(mixed + !image * half, want + !image * half, half);
            print_message("image %d: %.2g of the range (the other image: %.2g)\n", image, worst, other);
            assert_true(worst < (storage == TENSOR_F16 ? 1e-2 : 1e-4));
            assert_true(other > 1e-3); /* the mixtures do differ */
        }
        st_close(&golden);
        mini_unet_close(&m);
    }
}

void lora_check_gradients(struct gpu_device *dev) {
    static const char *const cases[][2] = {{"mini-xl", "all"},       {"mini-odd", "all"},
                                           {"mini-sd1", "attn-mlp"}, {"mini-xl", "attn"},
                                           {"mini-sd2", "attn-mlp"}, {"mini-sd1", "attn"}};
    device = dev, storage = dev ? gpu_device_storage(dev) : TENSOR_F32;
    /* A gpu's kernels are slow on the CPU: the first two cases use all of them. */
    size_t n = dev && gpu_device_caps(dev)->cls == KERNEL_GPU ? 2 : sizeof cases / sizeof *cases;
    for (size_t i = 0; i < n; i++) {
        check_gradient(cases[i][0], cases[i][1], true);
        if (!dev) check_gradient(cases[i][0], cases[i][1], false);
    }
}

void lora_check_mixtures(struct gpu_device *dev) {
    device = dev, storage = dev ? gpu_device_storage(dev) : TENSOR_F32;
    check_mixtures();
}
