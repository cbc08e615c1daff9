/* Training beside diffusers and peft: the gradients of a first step and the losses of ten, from the same weights,
 * latents, noise, times and texts, on the device. */
#include "tests/support/cm.h"
#include "tests/support/golden.h"
#include "tests/support/session.h"
#include "tests/support/test_device.h"
#include "tests/support/train_bench.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/os.h"
#include "train/trainer.h"

static const struct train_bench_run runs[] = {{"mini-sd1", "attn"}, {"mini-sd1", "attn-mlp"}, {"mini-sd2", "attn-mlp"},
                                  {"mini-xl", "attn"},  {"mini-xl", "all"},       {"mini-odd", "all"},
                                  {"mini-sdxl", "attn-mlp"}, {"mini-sdxl", "attn-te"}, {"demo", "attn"}};
enum { N_RUNS = sizeof runs / sizeof *runs, GPU_RUN = 5 }; /* the one run that class gpu does on the CPU device */

static void check_losses(struct train_bench *b, const char *what, int steps, double first, double tolerance) {
    double worst = 0;
    for (int k = 0; k < steps; k++) {
        double loss = k ? train_bench_step(b, k, true) : first, d = fabs(loss - b->losses[k]) / b->losses[k];
        if (!(d <= worst)) worst = d;
    }
    print_message("%s losses: worst %.2e relative over %d steps\n", what, worst, steps);
    if (!(worst <= tolerance)) fail_msg("%s: a loss differs by %.3g", what, worst);
}

static void check_run(const struct train_bench_run *r, int rig, int steps, double gradient_tolerance, double loss_tolerance) {
    double start = os_now_seconds();
    struct train_bench b = train_bench_open(r, rig, false, NULL);
    char what[64];
    snprintf(what, sizeof what, "%s %s (%s)", r->model, r->targets, session_rigs[rig].name);
    double first = train_bench_step(&b, 0, true);
    train_bench_gradients(&b, b.golden, what, gradient_tolerance);
    check_losses(&b, what, steps, first, loss_tolerance);
    train_bench_close(&b);
    print_message("%s: %.1f s\n", what, os_now_seconds() - start);
}

static void test_cpu_class(void **state) {
    for (int i = 0; i < N_RUNS; i++) check_run(&runs[i], SESSION_CPU, 10, 1e-3, 1e-3);
}

static void test_gpu_class(void **state) {
    for (int i = test_device_is_cpu() ? GPU_RUN : 0; i < (test_device_is_cpu() ? GPU_RUN + 1 : N_RUNS); i++)
        check_run(&runs[i], SESSION_GPU_F32, 3, 1e-3, 1e-3);
}

/* Half storage: what rounding of activations to 11 bits allows. */
static void test_gpu_class_f16(void **state) {
    for (int i = test_device_is_cpu() ? GPU_RUN : 0; i < (test_device_is_cpu() ? GPU_RUN + 1 : N_RUNS); i++)
        check_run(&runs[i], SESSION_GPU_F16, 3, 0.1, 1e-2);
}

/* Every chunk of a bank as the device has it. */
static char *bank_bytes(struct train_bench *b, struct gpu_set *grad, size_t *bytes) {
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
    struct train_bench b = train_bench_open(&(struct train_bench_run){"mini-xl", "attn"}, SESSION_GPU_F16, false, NULL);
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
    train_bench_step(&b, 0, true);
    assert_memory_not_equal(bank_bytes(&b, data, &n), before, n);
    for (int i = 0; i < 7; i++) assert_true(trainer_step_given(b.t, &bad, true, losses, &e));
    assert_false(trainer_step_given(b.t, &bad, true, losses, &e));
    assert_non_null(strstr(e.text, "gradient"));
    train_bench_close(&b);
}

/* Recomputing activations takes less memory and changes no bit of any gradient. */
static void test_remat(void **state) {
    for (int i = 3; i <= GPU_RUN; i += 2) {
        struct train_bench plain = train_bench_open(&runs[i], session_default(), false, NULL),
                           remat = train_bench_open(&runs[i], session_default(), true, NULL);
        assert_true(trainer_plan(remat.t).remat && !trainer_plan(plain.t).remat);
        int64_t much = trainer_plan(plain.t).activation_bytes, less = trainer_plan(remat.t).activation_bytes;
        print_message("%s %s: activations %.2f MiB, recomputing %.2f MiB\n", runs[i].model, runs[i].targets,
                      (double)much / 1048576, (double)less / 1048576);
        assert_true(less < much);
        assert_true(train_bench_step(&plain, 0, false) == train_bench_step(&remat, 0, false));
        size_t n, m;
        char *want = bank_bytes(&plain, trainer_gradients(plain.t), &n),
             *got = bank_bytes(&remat, trainer_gradients(remat.t), &m);
        assert_int_equal(n, m);
        assert_memory_equal(got, want, n);
        train_bench_close(&plain);
        train_bench_close(&remat);
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
