/* Training beside diffusers and peft: the gradients of a first step and the losses of ten, from the same weights,
 * latents, noise, times and texts, on the device. */
#include "tests/support/cm.h"
#include "tests/support/golden.h"
#include "tests/support/session.h"
#include "tests/support/test_device.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/os.h"
#include "train/trainer.h"

struct run {
    const char *model, *targets; /* "-te" behind the targets: the text encoders learn too */
};
static const struct run runs[] = {{"mini-sd1", "attn"}, {"mini-sd1", "attn-mlp"}, {"mini-sd2", "attn-mlp"},
                                  {"mini-xl", "attn"},  {"mini-xl", "all"},       {"mini-odd", "all"},
                                  {"mini-sdxl", "attn-mlp"}, {"mini-sdxl", "attn-te"}, {"demo", "attn"}};
enum { N_RUNS = sizeof runs / sizeof *runs, GPU_RUN = 5 }; /* the one run that class gpu does on the CPU device */

struct bench {
    struct arena *a;
    struct st_file *golden;
    struct engine *e;
    struct trainer *t;
    struct shape latent; /* of one step: n is the batch */
    float *latents, *noise, *context, *pooled, *time_ids; /* pooled, time_ids: SDXL */
    float *ids[MODEL_MAX_TEXTS];                          /* where the text encoders learn; else context */
    int *times, steps;
    size_t n_step; /* floats of latents per step */
    float *losses;
};

static struct train_params params_of(const struct bench *b, const char *targets, int remat) {
    struct error e = {{0}};
    struct train_params p = train_params_default();
    p.rank = (int)golden_number(b->golden, "rank"), p.alpha = (float)golden_number(b->golden, "alpha");
    p.lr = (float)golden_number(b->golden, "lr"), p.optimiser.weight_decay = (float)golden_number(b->golden, "weight_decay");
    p.optimiser.beta1 = golden_number(b->golden, "beta1"), p.optimiser.beta2 = golden_number(b->golden, "beta2");
    p.optimiser.eps = (float)golden_number(b->golden, "eps"), p.optimiser.max_grad_norm = (float)golden_number(b->golden, "clip");
    p.batch = b->latent.n, p.steps = b->steps, p.schedule.kind = TRAIN_CONSTANT;
    p.resolution = b->latent.w * vae_config_factor(&b->e->model->vae);
    p.remat = remat ? TRAIN_REMAT_ON : TRAIN_REMAT_OFF;
    p.train_text_encoder = b->ids[0] != NULL;
    if (p.train_text_encoder) targets = arena_strndup(b->a, targets, strlen(targets) - strlen("-te"));
    if (!lora_selection_parse(targets, &p.targets, &e)) fail_msg("%s", e.text);
    return p;
}

static float *rows_if(struct bench *b, const char *name) {
    return st_find(b->golden, name) ? golden_rows(b->golden, name, b->a, NULL) : NULL;
}

static void read_inputs(struct bench *b) {
    struct shape s;
    b->steps = (int)golden_number(b->golden, "steps");
    b->latents = golden_rows(b->golden, "latents", b->a, &s);
    b->noise = golden_rows(b->golden, "noise", b->a, NULL);
    b->latent = (struct shape){s.n / b->steps, s.h, s.w, s.c};
    b->n_step = (size_t)shape_elems(b->latent);
    b->context = rows_if(b, "context");
    b->pooled = rows_if(b, "pooled"), b->time_ids = rows_if(b, "time_ids");
    b->ids[0] = rows_if(b, "ids"), b->ids[1] = rows_if(b, "ids_2");
    b->losses = golden_rows(b->golden, "losses", b->a, NULL);
    float *t = golden_rows(b->golden, "timesteps", b->a, NULL);
    b->times = arena_alloc_n(b->a, (size_t)s.n, sizeof *b->times);
    for (int i = 0; i < s.n; i++) b->times[i] = (int)t[i];
}

static const char *tensor_name(struct bench *b, const char *prefix, const struct lora_stack_layer *l, const char *tail) {
    const struct adapter *ad = trainer_adapter(b->t);
    const char *part = l->model == ad->models[LORA_UNET] ? "lora_unet" : l->model == ad->models[LORA_TEXT] ? "lora_te1" : "lora_te2";
    char *path = arena_strdup(b->a, l->target->path);
    for (char *c = path; *c; c++)
        if (*c == '.') *c = '_';
    return arena_printf(b->a, "%s.%s_%s.%s.weight", prefix, part, path, tail);
}

/* The golden's weights into the trainer's slots; as many as the file has. */
static void set_start(struct bench *b) {
    struct error e = {{0}};
    struct adapter *ad = trainer_adapter(b->t);
    struct lora_stack *s = ad->stack;
    int given = 0;
    for (size_t i = 0; i < st_count(b->golden); i++) given += !strncmp(st_at(b->golden, i)->name, "start.", 6);
    assert_int_equal(given, 2 * s->n_layers);
    for (int i = 0; i < s->n_layers; i++) {
        struct lora_stack_layer *l = &s->layers[i];
        l->parts[0].down = golden_weight(b->golden, tensor_name(b, "start", l, "lora_down"), b->a, NULL);
        l->parts[0].up = golden_weight(b->golden, tensor_name(b, "start", l, "lora_up"), b->a, NULL);
        const int slots[] = {l->down, l->up};
        for (int k = 0; k < 2; k++) {
            float *rows = arena_alloc_n(b->a, (size_t)shape_elems(s->set->slots[slots[k]].shape), sizeof *rows);
            assert_true(lora_stack_read_slot(s, slots[k], rows, NULL));
            if (!gpu_set_write(ad->data, slots[k], rows, &e)) fail_msg("%s", e.text);
        }
    }
}

static struct bench bench_open(const struct run *r, int rig, bool remat) {
    struct error e = {{0}};
    struct bench b = {.a = arena_create(NULL)};
    b.golden = golden_open(arena_printf(b.a, "%s.train-%s", r->model, r->targets));
    read_inputs(&b);
    b.e = session_open(r->model, rig);
    struct train_params p = params_of(&b, r->targets, remat);
    if (!(b.t = trainer_create(b.e, &p, false, &e))) fail_msg("%s", e.text);
    set_start(&b);
    return b;
}

static void bench_close(struct bench *b) {
    trainer_destroy(&b->t);
    session_close(&b->e);
    st_close(&b->golden);
    arena_destroy(&b->a);
}

/* Mean loss of step k; trains on if `update`. */
static double step(struct bench *b, int k, bool update) {
    struct error e = {{0}};
    float losses[8];
    double mean = 0;
    struct train_given given = {b->latents + (size_t)k * b->n_step, b->noise + (size_t)k * b->n_step, b->context, b->times + k * b->latent.n,
                                {b->ids[0], b->ids[1]}, b->pooled, b->time_ids};
    if (!trainer_step_given(b->t, &given, update, losses, &e)) fail_msg("%s", e.text);
    for (int i = 0; i < b->latent.n; i++) mean += (double)losses[i] / b->latent.n;
    return mean;
}

/* One tensor's gradient against the golden's, over its largest value. */
static double gradient_error(struct bench *b, const struct lora_stack_layer *l, bool up) {
    struct error e = {{0}};
    struct lora_stack *s = trainer_adapter(b->t)->stack;
    struct arena *a = arena_create(NULL);
    struct shape shape;
    int slot = up ? l->up : l->down;
    float *want = golden_weight(b->golden, tensor_name(b, "gradient", l, up ? "lora_up" : "lora_down"), a, &shape);
    size_t n = (size_t)shape_elems(shape);
    float *rows = arena_alloc_n(a, (size_t)shape_elems(s->set->slots[slot].shape), sizeof *rows), *got = arena_alloc_n(a, n, sizeof *got);
    if (!gpu_set_read(trainer_gradients(b->t), slot, rows, &e)) fail_msg("%s", e.text);
    lora_stack_extract(l, &l->parts[0], rows, rows, up ? NULL : got, up ? got : NULL);
    double peak = 1e-30, worst = 0, scale = (double)trainer_loss_scale(b->t);
    for (size_t i = 0; i < n; i++) {
        peak = fmax(peak, fabs((double)want[i]));
        double d = fabs((double)got[i] / scale - want[i]);
        if (!(d <= worst)) worst = d;
    }
    arena_destroy(&a);
    return worst / peak;
}

static void check_gradients(struct bench *b, const char *what, double tolerance) {
    struct lora_stack *s = trainer_adapter(b->t)->stack;
    double worst = 0;
    const char *where = "";
    for (int i = 0; i < s->n_layers; i++)
        for (int up = 0; up < 2; up++) {
            double d = gradient_error(b, &s->layers[i], up);
            if (!(d <= worst)) worst = d, where = s->layers[i].target->path;
        }
    print_message("%s gradients: worst %.2e of the largest value, %s\n", what, worst, where);
    if (!(worst <= tolerance)) fail_msg("%s: the gradient of %s differs by %.3g", what, where, worst);
}

static void check_losses(struct bench *b, const char *what, int steps, double first, double tolerance) {
    double worst = 0;
    for (int k = 0; k < steps; k++) {
        double loss = k ? step(b, k, true) : first, d = fabs(loss - b->losses[k]) / b->losses[k];
        if (!(d <= worst)) worst = d;
    }
    print_message("%s losses: worst %.2e relative over %d steps\n", what, worst, steps);
    if (!(worst <= tolerance)) fail_msg("%s: a loss differs by %.3g", what, worst);
}

static void check_run(const struct run *r, int rig, int steps, double gradient_tolerance, double loss_tolerance) {
    double start = os_now_seconds();
    struct bench b = bench_open(r, rig, false);
    char what[64];
    snprintf(what, sizeof what, "%s %s (%s)", r->model, r->targets, session_rigs[rig].name);
    double first = step(&b, 0, true);
    check_gradients(&b, what, gradient_tolerance);
    check_losses(&b, what, steps, first, loss_tolerance);
    bench_close(&b);
    print_message("%s: %.1f s\n", what, os_now_seconds() - start);
}

static void test_cpu_class(void **state) {
    for (int i = 0; i < N_RUNS; i++) check_run(&runs[i], SESSION_CPU, 10, 1e-3, 1e-3);
}

static void test_gpu_class(void **state) {
    for (int i = test_device_is_cpu() ? GPU_RUN : 0; i < (test_device_is_cpu() ? GPU_RUN + 1 : N_RUNS); i++) check_run(&runs[i], SESSION_GPU_F32, 3, 1e-3, 1e-3);
}

/* Half storage: what rounding of activations to 11 bits allows. */
static void test_gpu_class_f16(void **state) {
    for (int i = test_device_is_cpu() ? GPU_RUN : 0; i < (test_device_is_cpu() ? GPU_RUN + 1 : N_RUNS); i++) check_run(&runs[i], SESSION_GPU_F16, 3, 0.1, 1e-2);
}

/* Every chunk of a bank as the device has it. */
static char *bank_bytes(struct bench *b, struct gpu_set *grad, size_t *bytes) {
    struct error e = {{0}};
    int n = trainer_adapter(b->t)->stack->set->n_chunks;
    *bytes = (size_t)gpu_set_bytes(grad);
    char *data = arena_alloc(b->a, *bytes), *at = data;
    for (int c = 0; c < n; at += gpu_set_chunk_bytes(grad, c), c++)
        if (!gpu_set_read_raw(grad, c, at, &e)) fail_msg("%s", e.text);
    return data;
}

/* A target so far off that its gradient, scaled for f16, is infinite: such a step changes nothing, the next good
 * one does, and eight bad ones in a row end the run with a sentence. */
static void test_overflow(void **state) {
    struct bench b = bench_open(&(struct run){"mini-xl", "attn"}, SESSION_GPU_F16, false);
    struct gpu_set *data = trainer_adapter(b.t)->data;
    struct error e = {{0}};
    size_t n;
    int *times = arena_alloc_n(b.a, (size_t)b.latent.n, sizeof *times); /* 0: hardly any noise reaches the input */
    float *far_off = arena_alloc_n(b.a, b.n_step, sizeof *far_off), losses[8];
    memcpy(far_off, b.noise, b.n_step * sizeof *far_off);
    far_off[b.n_step / 2] = 1.2e6f;
    struct train_given bad = {.latents = b.latents, .noise = far_off, .context = b.context, .t = times};
    char *before = bank_bytes(&b, data, &n);
    assert_true(trainer_step_given(b.t, &bad, true, losses, &e));
    assert_true(isfinite(losses[0]));
    assert_memory_equal(bank_bytes(&b, data, &n), before, n);
    step(&b, 0, true);
    assert_memory_not_equal(bank_bytes(&b, data, &n), before, n);
    for (int i = 0; i < 7; i++) assert_true(trainer_step_given(b.t, &bad, true, losses, &e));
    assert_false(trainer_step_given(b.t, &bad, true, losses, &e));
    assert_non_null(strstr(e.text, "gradient"));
    bench_close(&b);
}

/* Recomputing activations takes less memory and changes no bit of any gradient. */
static void test_remat(void **state) {
    for (int i = 3; i <= GPU_RUN; i += 2) {
        struct bench plain = bench_open(&runs[i], session_default(), false), remat = bench_open(&runs[i], session_default(), true);
        assert_true(trainer_plan(remat.t).remat && !trainer_plan(plain.t).remat);
        int64_t much = trainer_plan(plain.t).activation_bytes, less = trainer_plan(remat.t).activation_bytes;
        print_message("%s %s: activations %.2f MiB, recomputing %.2f MiB\n", runs[i].model, runs[i].targets, (double)much / 1048576,
                      (double)less / 1048576);
        assert_true(less < much);
        assert_true(step(&plain, 0, false) == step(&remat, 0, false));
        size_t n, m;
        char *want = bank_bytes(&plain, trainer_gradients(plain.t), &n), *got = bank_bytes(&remat, trainer_gradients(remat.t), &m);
        assert_int_equal(n, m);
        assert_memory_equal(got, want, n);
        bench_close(&plain);
        bench_close(&remat);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cpu_class),
        cmocka_unit_test(test_gpu_class),
        cmocka_unit_test(test_gpu_class_f16),
        cmocka_unit_test(test_overflow),
        cmocka_unit_test(test_remat),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
