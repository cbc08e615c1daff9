/* Distillation beside torch and diffusers: losses and gradients from the same start, latents, noise, times and guidance; the
 * solver's arithmetic by hand; runs that resume to the same bytes; what does not go together. */
#include "tests/support/cm.h"
#include "tests/support/golden.h"
#include "tests/support/scratch.h"
#include "tests/support/session.h"
#include "tests/support/test_device.h"
#include "tests/support/train_bench.h"
#include "tests/support/train_runs.h"

#include <math.h>
#include <string.h>

#include "io/safetensors.h"
#include "train/trainer_priv.h"

/* ---- Arithmetic ---- */

static struct schedule *schedule_of(enum schedule_prediction prediction) {
    struct error e = {{0}};
    struct schedule_params sp = {.beta = SCHEDULE_BETA_SCALED_LINEAR, .beta_start = 0.00085, .beta_end = 0.012,
                                 .prediction = prediction};
    struct schedule *s = schedule_create(&sp, &e);
    assert_non_null(s);
    return s;
}

static void near(double have, double want) {
    if (!(fabs(have - want) <= 1e-5 * fmax(1, fabs(want)))) fail_msg("%.9g, not %.9g", have, want);
}

/* A model that knows the clean picture and the noise is led along x_t = a x0 + b noise by the solver, and its consistency
 * function is the clean picture, but at time 0 the point itself. */
static void test_solver(void **state) {
    static const enum schedule_prediction kinds[] = {SCHEDULE_PREDICT_EPSILON, SCHEDULE_PREDICT_V, SCHEDULE_PREDICT_SAMPLE};
    enum { N = 3 };
    const float x0[N] = {0.5f, -1.2f, 2}, noise[N] = {-0.3f, 0.8f, 1.1f};
    for (int k = 0; k < 3; k++) {
        struct schedule *s = schedule_of(kinds[k]);
        struct distill_params p = {.method = DISTILL_LCM, .skip = 20};
        assert_int_equal(distill_grid_size(&p, s), 50);
        for (int i = 0; i < 50; i += 7) {
            int t = distill_grid_time(&p, i), to = distill_time_before(&p, t);
            assert_true(t == 20 * i + 19 && to == (i ? t - 20 : 0));
            float x[N], answer[N], next[N], want[N], clean[N], back[N];
            target_add_noise(s, t, x, x0, noise, N);
            target_make(s, t, answer, x0, noise, N);
            target_add_noise(s, to, want, x0, noise, N);
            distill_solve(s, t, to, next, x, answer, N);
            distill_consistent(s, t, clean, x, answer, N);
            double stretch = distill_answer_for(s, t, back, x, clean, N);
            struct distill_boundary c = distill_boundary_at(t);
            for (int j = 0; j < N; j++) {
                near((double)next[j], (double)want[j]);
                near((double)clean[j], c.c_skip * (double)x[j] + c.c_out * (double)x0[j]);
                near((double)back[j], (double)answer[j]);
            }
            answer[0] += 0.25f; /* an error of the answer is that much larger or smaller in the function */
            distill_consistent(s, t, want, x, answer, N);
            near(fabs((double)want[0] - (double)clean[0]), 0.25 * stretch);
        }
        float x[N], answer[N] = {1, 2, 3}, same[N];
        target_add_noise(s, 0, x, x0, noise, N);
        distill_consistent(s, 0, same, x, answer, N);
        assert_memory_equal(same, x, sizeof x);
        schedule_destroy(&s);
    }
    /* formats.md e.3, from diffusers */
    near(distill_boundary_at(999).c_skip * 1e9, 2.50500752);
    near(distill_boundary_at(259).c_skip * 1e8, 3.7268376);
    near(distill_boundary_at(259).c_out, 0.999999981);
    float with[2] = {1, 2}, without[2] = {0, 4};
    distill_guide(with, with, without, 3, 2);
    assert_true(with[0] == 3 && with[1] == -2);
}

/* Times are independent evenly spread draws from n equal parts of the grid, one per picture: of 50 times and four pictures the
 * second draws the 13th by half as often as the 14th to 25th, and the first the other half. */
static void test_times(void **state) {
    enum { GRID = 50, DRAWS = 20000, MOST = 5 };
    struct trainer t = {.schedule = schedule_of(SCHEDULE_PREDICT_EPSILON)};
    t.params.distill = (struct distill_params){.method = DISTILL_LCM, .skip = 20};
    rng_seed(&t.rng, 3);
    for (int n = 1; n <= MOST; n++)
        for (int b = 0; b < n; b++) {
            int seen[GRID] = {0};
            for (int i = 0; i < DRAWS; i++) {
                int time = train_distill_time(&t, b, n);
                assert_true(time > 0 && time < 1000 && time % 20 == 19);
                seen[time / 20]++;
            }
            double low = (double)GRID * b / n, high = (double)GRID * (b + 1) / n;
            for (int k = 0; k < GRID; k++) { /* the share of the picture's part that is this time's */
                double share = fmax(0, fmin(high, k + 1) - fmax(low, k)) / (high - low), want = DRAWS * share;
                if (!(fabs(seen[k] - want) <= 5 * sqrt(want * (1 - share)) + 1e-6))
                    fail_msg("time %d of picture %d of %d: %d draws, not %.1f", k, b, n, seen[k], want);
            }
        }
    schedule_destroy(&t.schedule);
}

/* ---- Beside torch ---- */

static struct st_file *golden;

static void change(struct train_params *p) {
    bool lcm = golden_number(golden, "huber_c") > 0 && strstr(st_path(golden), "lcm");
    p->distill = (struct distill_params){lcm ? DISTILL_LCM : DISTILL_CFG, 3, 8, (int)golden_number(golden, "skip")};
    if (lcm) p->loss = (struct loss_params){LOSS_PSEUDO_HUBER, LOSS_C_CONSTANT, (float)golden_number(golden, "huber_c")};
    p->ema = lcm ? (float)golden_number(golden, "ema") : 0;
}

static void check(const char *model, const char *targets, const char *method, int rig, double gradient_tolerance,
                  double loss_tolerance) {
    struct arena *a = arena_create(NULL);
    struct error e = {{0}};
    char what[64];
    snprintf(what, sizeof what, "%s %s (%s)", model, method, session_rigs[rig].name);
    golden = golden_open(arena_printf(a, "%s.distill-%s", model, method));
    struct train_bench b = train_bench_open(&(struct train_bench_run){model, targets}, rig, false, change);
    float *times = golden_rows(golden, "timesteps", a, NULL), *guidance = golden_rows(golden, "guidance", a, NULL);
    float *empty = golden_rows(golden, "empty", a, NULL), *want = golden_rows(golden, "losses", a, NULL);
    int batch = b.latent.n, steps = rig == SESSION_CPU ? (int)golden_number(golden, "steps") : 2;
    double worst = 0;
    for (int k = 0; k < steps; k++) {
        int t[8];
        float losses[8];
        double mean = 0;
        for (int i = 0; i < batch; i++) t[i] = (int)times[k * batch + i];
        struct train_given given = {.latents = b.latents + (size_t)k * b.n_step, .noise = b.noise + (size_t)k * b.n_step,
                                    .context = b.context, .t = t, .pooled = b.pooled, .time_ids = b.time_ids,
                                    .guidance = guidance + k * batch, .empty = empty};
        if (!trainer_step_given(b.t, &given, true, losses, &e)) fail_msg("%s", e.text);
        for (int i = 0; i < batch; i++) mean += (double)losses[i] / batch;
        if (!k && st_find(golden, "gradient.lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.lora_up.weight"))
            train_bench_gradients(&b, golden, what, gradient_tolerance);
        double d = fabs(mean - (double)want[k]) / (double)want[k];
        if (!(d <= worst)) worst = d;
    }
    print_message("%s losses: worst %.2e relative over %d steps\n", what, worst, steps);
    if (!(worst <= loss_tolerance)) fail_msg("%s: a loss differs by %.3g", what, worst);
    train_bench_close(&b);
    st_close(&golden);
    arena_destroy(&a);
}

/* The first: with an average. The second: v-prediction, an odd shape. The third: SDXL's conditions. */
static const char *const models[][2] = {{"mini-sd1", "attn"}, {"mini-odd", "all"}, {"mini-sdxl", "attn-mlp"}};

static void test_torch(void **state) {
    for (int i = 0; i < 3; i++) {
        check(models[i][0], models[i][1], "lcm", SESSION_CPU, 1e-4, 1e-4);
        check(models[i][0], models[i][1], "cfg", SESSION_CPU, 1e-4, 1e-4);
    }
}

static void test_gpu_class(void **state) { check("mini-sd1", "attn", "lcm", SESSION_GPU_F32, 1e-4, 1e-4); }

/* ---- Runs ---- */

static struct train_params params(const char *name, enum distill_method method) {
    struct train_params p = runs_params(name);
    p.distill = (struct distill_params){method, 2, 5, 20};
    if (method == DISTILL_LCM) p.loss = (struct loss_params){LOSS_PSEUDO_HUBER, LOSS_C_CONSTANT, 0.001f}, p.ema = 0.5f;
    return p;
}

/* In halves to the same bytes; every guidance lies in its range and every time on the grid. */
static void test_resume(void **state) {
    for (enum distill_method m = DISTILL_LCM; m <= DISTILL_CFG; m++) {
        struct train_params whole = params(m == DISTILL_LCM ? "lcm" : "cfg", m),
                            halves = params(m == DISTILL_LCM ? "lcm2" : "cfg2", m);
        runs_well(&whole);
        halves.stop_after = RUNS_STEPS / 2;
        runs_well(&halves);
        halves.stop_after = 0, halves.resume = true;
        struct train_params other = halves;
        other.distill.guidance_max = 6;
        runs_refused(&other, "other settings");
        runs_well(&halves);
        runs_same_file(halves.out, whole.out);
        struct error e = {{0}};
        whole.out = NULL;
        struct trainer *t = trainer_create(runs_engine, &whole, false, &e);
        if (!t) fail_msg("%s", e.text);
        for (int k = 0; k < 3; k++) {
            if (!train_batch_draw(t, 1, &e)) fail_msg("%s", e.text);
            for (int b = 0; b < whole.batch; b++) {
                assert_true(t->distill.guidance[b] >= 2 && t->distill.guidance[b] <= 5);
                assert_true(m == DISTILL_CFG || (int)t->batch_t[b] % 20 == 19);
            }
        }
        trainer_destroy(&t);
    }
}

static float *bank_read(struct arena *a, struct gpu_set *set, size_t *bytes) {
    struct error e = {{0}};
    *bytes = (size_t)gpu_set_chunk_bytes(set, 0);
    float *data = arena_alloc(a, *bytes);
    assert_true(gpu_set_read_raw(set, 0, data, &e));
    return data;
}

/* The target is asked of the average: with the average in the place of the weights it stays, with the weights in the place
 * of the average it does not. */
static void test_average(void **state) {
    struct error e = {{0}};
    struct arena *a = arena_create(NULL);
    struct train_params p = params("average", DISTILL_LCM);
    p.ema = 0.999f;
    struct trainer *t = trainer_create(runs_engine, &p, false, &e);
    bool finished;
    t->params.stop_after = RUNS_STEPS - 1;
    if (!trainer_run(t, NULL, &finished, &e) || !train_batch_draw(t, 1, &e)) fail_msg("%s", e.text);
    size_t bytes, n = (size_t)(t->params.batch * t->lw * t->lh * t->channels) * sizeof(float);
    float *weights = bank_read(a, t->adapter->data, &bytes), *average = bank_read(a, t->ema, &bytes);
    assert_int_equal(t->adapter->stack->set->n_chunks, 1);
    assert_true(memcmp(weights, average, bytes));
    float *target = memcpy(arena_alloc(a, n), t->batch_target, n);
    assert_true(gpu_set_write_raw(t->adapter->data, 0, average, &e) && train_distill_place(t, &e));
    assert_memory_equal(t->batch_target, target, n);
    assert_true(gpu_set_write_raw(t->ema, 0, weights, &e) && train_distill_place(t, &e));
    assert_memory_not_equal(t->batch_target, target, n);
    trainer_destroy(&t);
    arena_destroy(&a);
}

/* What the teacher is told where it is told nothing: an empty caption as the text encoder reads it, but zeros with SDXL. */
static void test_empty(void **state) {
    static const char *const names[] = {"mini-sd1", "mini-sdxl"};
    for (int k = 0; k < 2; k++) {
        struct error e = {{0}};
        struct engine *engine = session_open(names[k], session_default());
        struct train_params p = params(names[k], DISTILL_CFG);
        struct trainer *t = trainer_create(engine, &p, false, &e);
        if (!t) fail_msg("%s", e.text);
        size_t each = (size_t)t->tokens * (size_t)t->width, n_pooled = (size_t)model_pooled_dim(engine->model);
        struct arena *a = arena_create(NULL);
        float *want = arena_alloc_n(a, each, sizeof *want), *pooled = arena_alloc_n(a, n_pooled + 1, sizeof *pooled);
        struct text_params tp = {0};
        int32_t *ids[MODEL_MAX_TEXTS] = {0};
        for (int i = 0; i < engine->model->n_texts; i++) {
            struct tokenizer_cut cut;
            train_words_encode(t, i, "", ids[i] = arena_alloc_n(a, (size_t)t->tokens, sizeof *ids[i]), &cut);
        }
        if (k == 0 && !engine_encode_text(engine, (const int32_t *const *)ids, 1, &tp, want, pooled, &e))
            fail_msg("%s", e.text);
        assert_int_equal(engine->model->zeros_for_empty, k);
        for (int b = 0; b < p.batch; b++) assert_memory_equal(t->distill.empty + (size_t)b * each, want, each * sizeof *want);
        assert_memory_equal(t->distill.empty_pooled, pooled, n_pooled * sizeof *pooled);
        trainer_destroy(&t);
        session_close(&engine);
        arena_destroy(&a);
    }
}

/* The plan counts what the run takes. */
static void test_memory(void **state) {
    struct error e = {{0}};
    struct train_params p = params("memory", DISTILL_LCM);
    struct trainer *t = trainer_create(runs_engine, &p, true, &e);
    if (!t) fail_msg("%s", e.text);
    struct train_plan plan = trainer_plan(t);
    assert_true(plan.teacher_bytes > 0 && plan.teacher_flops > 0);
    trainer_destroy(&t);
    if (!(t = trainer_create(runs_engine, &p, false, &e))) fail_msg("%s", e.text);
    struct gpu_memory_use use = gpu_program_memory(denoiser_program(t->distill.teacher));
    assert_int_equal(use.activations + use.io + use.prepared, plan.teacher_bytes);
    trainer_destroy(&t);
}

static void test_refused(void **state) {
    struct train_params p = params("refused", DISTILL_LCM);
    p.distill.guidance_min = 6;
    runs_refused(&p, "--guidance-min");
    p = params("refused1", DISTILL_LCM), p.distill.skip = 501;
    runs_refused(&p, "--skip");
    p = params("refused2", DISTILL_CFG), p.distill.guidance_min = p.distill.guidance_max = 1;
    runs_refused(&p, "--guidance-max");
    p = params("refused3", DISTILL_LCM), p.train_text_encoder = true;
    runs_refused(&p, "--train-text-encoder");
    p = params("refused4", DISTILL_LCM), p.buckets = (struct bucket_params){.on = true, .min = 32, .max = 128, .step = 16};
    runs_refused(&p, "--buckets");
    p = params("refused5", DISTILL_LCM), p.max_timestep = 500;
    runs_refused(&p, "--max-timestep");
    struct error e = {{0}};
    enum distill_method m;
    assert_false(distill_method_parse("none", &m, &e));
    assert_true(distill_method_parse("cfg", &m, &e) && m == DISTILL_CFG);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_solver),    cmocka_unit_test(test_times),
                                       cmocka_unit_test(test_torch),     cmocka_unit_test(test_average),
                                       cmocka_unit_test(test_gpu_class), cmocka_unit_test(test_empty),
                                       cmocka_unit_test(test_resume),    cmocka_unit_test(test_memory),
                                       cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, runs_setup, runs_teardown);
}
