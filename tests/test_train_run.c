/* Whole training runs on a folder of three pictures: the same bytes every time and across --resume, what is written
 * when, and what is said when something is wrong. */
#include "tests/support/cm.h"
#include "tests/support/scratch.h"
#include "tests/support/session.h"
#include "tests/support/train_runs.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/os.h"
#include "io/png.h"
#include "io/prompt_file.h"
#include "io/safetensors.h"
#include "train/trainer.h"

/* --- the same bytes ------------------------------------------------------------------------------------ */

/* One run in one go, as what the others are compared with; made once. */
static const struct train_params *whole(void) {
    static struct train_params p;
    if (p.out) return &p;
    p = runs_params("whole");
    p.log = runs_path("whole/log.jsonl");
    runs_well(&p);
    return &p;
}

static void test_twice_the_same(void **state) {
    struct train_params p = runs_params("again");
    p.out = runs_path("again/lora.safetensors"), p.log = runs_path("again/log.jsonl");
    runs_well(&p);
    runs_same_file(p.out, whole()->out);
    runs_same_file(p.log, whole()->log);
    assert_string_equal(runs_files(&p), "log.jsonl lora.safetensors ");
    p = runs_params("otherseed");
    p.seed = 2;
    runs_well(&p);
    assert_string_not_equal(runs_tensors_hash(p.out), runs_tensors_hash(whole()->out));
}

static void test_resume(void **state) {
    struct train_params p = runs_params("halves");
    p.log = runs_path("halves/log.jsonl"), p.stop_after = RUNS_STEPS / 2;
    runs_well(&p);
    assert_string_equal(runs_files(&p), "log.jsonl lora.safetensors.state.safetensors ");
    p.stop_after = 0, p.resume = true;
    runs_well(&p);
    runs_same_file(p.out, whole()->out);
    runs_same_file(p.log, whole()->log);
    assert_string_equal(runs_files(&p), "log.jsonl lora.safetensors ");
}

/* The state is older than the log: the log's later lines are made again. */
static void test_resume_after_a_crash(void **state) {
    struct train_params p = runs_params("crash");
    p.log = runs_path("crash/log.jsonl"), p.save_every = 2, p.stop_after = 3;
    runs_well(&p);
    const char *state_path = trainer_state_path(runs_arena, p.out);
    struct error e = {{0}};
    struct os_map m;
    p = runs_params("crash2"), p.save_every = 2, p.stop_after = 2;
    runs_well(&p);
    if (!os_file_map(&m, trainer_state_path(runs_arena, p.out), &e)) fail_msg("%s", e.text);
    assert_true(os_file_write_atomic(state_path, m.data, m.bytes, &e));
    os_file_unmap(&m);
    p = runs_params("crash"), p.log = runs_path("crash/log.jsonl"), p.save_every = 2, p.resume = true;
    runs_well(&p);
    runs_same_file(p.out, whole()->out);
    runs_same_file(p.log, whole()->log);
}

static void keep_state(void *ctx, const struct train_report *r) {
    struct error e = {{0}};
    struct os_map m;
    if (r->step != 3) return;
    if (!os_file_map(&m, ctx, &e)) fail_msg("%s", e.text);
    assert_true(os_file_write_atomic(arena_printf(runs_arena, "%s.kept", (const char *)ctx), m.data, m.bytes, &e));
    os_file_unmap(&m);
}

/* A process that is killed in its third step leaves what --save-every wrote after the second: a run goes on from there. */
static void test_resume_after_a_kill(void **state) {
    struct train_params p = runs_params("kill");
    struct error e = {{0}};
    bool finished;
    p.save_every = 2;
    char *path = trainer_state_path(runs_arena, p.out);
    struct trainer *t = trainer_create(runs_engine, &p, false, &e);
    if (!t || !trainer_run(t, &(struct train_callbacks){keep_state, path}, &finished, &e)) fail_msg("%s", e.text);
    trainer_destroy(&t);
    assert_false(os_path_exists(path));
    assert_true(os_file_rename(arena_printf(runs_arena, "%s.kept", path), path, &e) && os_file_remove(p.out, &e));
    p.resume = true;
    struct runs_outcome o = runs_try(&p);
    if (!o.ok) fail_msg("%s", o.e.text);
    assert_int_equal(o.steps, RUNS_STEPS - 2);
    runs_same_file(p.out, whole()->out);
}

static void stand_in_the_way(void *ctx, const struct train_report *r) {
    struct error e = {{0}};
    if (r->step == RUNS_STEPS) assert_true(os_dir_make(ctx, &e));
}

/* A LoRA that cannot be written in the end does not cost the run. */
static void test_resume_after_a_failed_save(void **state) {
    struct train_params p = runs_params("failed");
    struct error e = {{0}};
    bool finished;
    struct trainer *t = trainer_create(runs_engine, &p, false, &e);
    assert_non_null(t);
    assert_false(trainer_run(t, &(struct train_callbacks){stand_in_the_way, (void *)p.out}, &finished, &e));
    trainer_destroy(&t);
    if (!strstr(e.text, "lora.safetensors") || !strstr(e.text, "step 4: --resume")) fail_msg("%s", e.text);
    assert_true(os_dir_remove(p.out, &e));
    assert_string_equal(runs_files(&p), "lora.safetensors.state.safetensors ");
    p.resume = true;
    struct runs_outcome o = runs_try(&p);
    if (!o.ok) fail_msg("%s", o.e.text);
    assert_int_equal(o.steps, 0);
    runs_same_file(p.out, whole()->out);
    assert_string_equal(runs_files(&p), "lora.safetensors ");
}

static void test_remat_is_the_same(void **state) {
    struct train_params p = runs_params("remat");
    p.remat = TRAIN_REMAT_ON;
    runs_well(&p);
    assert_string_equal(runs_tensors_hash(p.out), runs_tensors_hash(whole()->out));
}

static const struct prompt_line samples[] = {{.prompt = "red fox"}, {.prompt = "blue car"}};

/* Looking at samples does not change what is learned. */
static void test_samples_and_saves(void **state) {
    struct train_params p = runs_params("periodic");
    p.samples = samples, p.n_samples = 2, p.sample_every = 2, p.sample_steps = 2, p.save_every = 2;
    runs_well(&p);
    runs_same_file(p.out, whole()->out);
    assert_string_equal(runs_files(&p),
                        "lora-sample-000002.png lora-sample-000004.png lora-step00000002.safetensors lora.safetensors ");
    int w, h;
    struct error e = {{0}};
    assert_true(image_probe(runs_path("periodic/lora-sample-000002.png"), &w, &h, &e));
    assert_true(w >= 2 * RUNS_SIDE && h >= RUNS_SIDE);
    p = runs_params("last"); /* without --sample-every one sheet, of what was learnt */
    p.samples = samples, p.n_samples = 1, p.sample_steps = 1;
    runs_well(&p);
    assert_string_equal(runs_files(&p), "lora-sample-000004.png lora.safetensors ");
}

/* --- accumulation, the text encoder, other classes ------------------------------------------------------ */

static void fill_given(struct train_given *g, int n_latent, int n_context, int n) {
    struct rng rng;
    rng_seed(&rng, 3);
    float *latents = arena_alloc_n(runs_arena, (size_t)(n * n_latent), sizeof *latents),
          *noise = arena_alloc_n(runs_arena, (size_t)(n * n_latent), sizeof *noise);
    float *context = arena_alloc_n(runs_arena, (size_t)(n * n_context), sizeof *context);
    int *t = arena_alloc_n(runs_arena, (size_t)n, sizeof *t);
    rng_randn(&rng, latents, (size_t)(n * n_latent));
    rng_randn(&rng, noise, (size_t)(n * n_latent));
    rng_randn(&rng, context, (size_t)(n * n_context));
    for (int i = 0; i < n; i++) t[i] = 99 + 300 * i;
    *g = (struct train_given){latents, noise, context, t};
}

/* Four pictures at once or two and two: the same gradients but for rounding. */
static void test_accumulation(void **state) {
    struct error e = {{0}};
    float losses[2][4], *grad[2];
    struct shape shape;
    for (int i = 0; i < 2; i++) {
        struct train_params p = runs_params("accumulate");
        p.data = NULL, p.batch = i ? 2 : 4, p.accumulate = i ? 2 : 1;
        struct trainer *t = trainer_create(runs_engine, &p, false, &e);
        if (!t) fail_msg("%s", e.text);
        int f = vae_config_factor(&runs_engine->model->vae),
            lat = RUNS_SIDE / f * (RUNS_SIDE / f) * runs_engine->model->vae.latent_channels;
        struct train_given given;
        fill_given(&given, lat, model_window(runs_engine->model) * model_context_dim(runs_engine->model), 4);
        if (!trainer_step_given(t, &given, true, losses[i], &e)) fail_msg("%s", e.text); /* up is zero in the first */
        if (!trainer_step_given(t, &given, true, losses[i], &e)) fail_msg("%s", e.text);
        const struct lora_stack *s = trainer_adapter(t)->stack;
        shape = s->set->slots[s->layers[0].down].shape;
        grad[i] = arena_alloc_n(runs_arena, (size_t)shape_elems(shape), sizeof **grad);
        if (!gpu_set_read(trainer_gradients(t), s->layers[0].down, grad[i], &e)) fail_msg("%s", e.text);
        trainer_destroy(&t);
    }
    float peak = 0;
    for (int64_t i = 0; i < shape_elems(shape); i++) peak = fmaxf(peak, fabsf(grad[0][i]));
    assert_true(peak > 0);
    for (int i = 0; i < 4; i++) assert_true(fabsf(losses[0][i] - losses[1][i]) <= 1e-4f * losses[0][i]);
    for (int64_t i = 0; i < shape_elems(shape); i++) assert_true(fabsf(grad[0][i] - grad[1][i]) <= 1e-3f * peak);
}

/* Largest absolute value of the up factors whose name starts so. */
static float largest_up(const char *path, const char *prefix) {
    struct error e = {{0}};
    struct st_file *f = st_open(path, &e);
    if (!f) fail_msg("%s", e.text);
    float most = -1;
    for (size_t i = 0; i < st_count(f); i++) {
        const struct st_tensor *t = st_at(f, i);
        size_t n = st_tensor_elements(t);
        if (strncmp(t->name, prefix, strlen(prefix)) || !strstr(t->name, "lora_up")) continue;
        float *v = arena_alloc_n(runs_arena, n, sizeof *v);
        assert_true(st_read_f32(t, v, n, &e));
        for (size_t k = 0; k < n; k++) most = fmaxf(most, fabsf(v[k]));
    }
    st_close(&f);
    return most;
}

static void test_text_encoder(void **state) {
    struct train_params p = runs_params("text");
    p.train_text_encoder = true, p.accumulate = 2, p.stop_after = RUNS_STEPS / 2;
    runs_well(&p);
    p.stop_after = 0, p.resume = true;
    runs_well(&p);
    assert_true(largest_up(p.out, "lora_te_") > 1e-4f);
    assert_true(largest_up(p.out, "lora_unet_") > 1e-4f);
    assert_true(largest_up(whole()->out, "lora_te_") < 0);
    struct train_params once = runs_params("textonce");
    once.train_text_encoder = true, once.accumulate = 2;
    runs_well(&once);
    runs_same_file(p.out, once.out);
    /* What was trained loads again, on both parts. */
    struct error e = {{0}};
    struct adapter *ad = adapter_open(runs_engine, &p.out, 1, &e);
    if (!ad) fail_msg("%s", e.text);
    assert_true(ad->touches[LORA_TEXT]);
    adapter_close(&ad);
}

static void test_gpu_classes(void **state) {
    for (int rig = SESSION_GPU_F32; rig < SESSION_RIGS; rig++) {
        struct engine *e = session_open("mini-odd", rig);
        struct train_params p = runs_params(arena_printf(runs_arena, "gpu%d", rig));
        p.steps = 2;
        struct runs_outcome o = runs_try_on(e, &p);
        if (!o.ok) fail_msg("%s", o.e.text);
        print_message("%s: loss %.5f, then %.5f\n", session_rigs[rig].name, (double)o.first_loss, (double)o.last_loss);
        assert_true(isfinite(o.last_loss));
        session_close(&e);
    }
}

/* --- what is wrong -------------------------------------------------------------------------------------- */

static void test_resume_refused(void **state) {
    struct train_params p = runs_params("refuse");
    p.resume = true;
    runs_refused(&p, "nothing to resume");
    p.resume = false, p.stop_after = 1;
    runs_well(&p);
    p.stop_after = 0, p.resume = true, p.lr *= 2;
    runs_refused(&p, "other settings");
    p.lr /= 2, p.rank = 8;
    runs_refused(&p, "other settings");
    p.rank = 4, p.caption = "unused";
    struct error e = {{0}};
    assert_true(os_file_write_atomic(arena_printf(runs_arena, "%s/1.txt", p.data), "other words", 11, &e));
    runs_refused(&p, "pictures");
    assert_true(os_file_write_atomic(arena_printf(runs_arena, "%s/1.txt", p.data), "small house", 11, &e));
    const char *picture = arena_printf(runs_arena, "%s/1.png", p.data); /* another one of the same name and size */
    struct image im, other = image_create(runs_arena, RUNS_SIDE, RUNS_SIDE);
    assert_true(image_load(runs_arena, picture, 1, &im, &e) && png_write(picture, &other, NULL, 0, &e));
    runs_refused(&p, "pictures");
    assert_true(png_write(picture, &im, NULL, 0, &e));
    assert_string_equal(runs_files(&p), "lora.safetensors.state.safetensors ");
}

/* Cut short, or with a number that cannot be: a sentence each time, and nothing else changes. */
static void test_damaged_state(void **state) {
    struct error e = {{0}};
    struct os_map m;
    struct train_params p = runs_params("damaged");
    p.stop_after = 1;
    runs_well(&p);
    p.stop_after = 0, p.resume = true;
    const char *path = trainer_state_path(runs_arena, p.out);
    if (!os_file_map(&m, path, &e)) fail_msg("%s", e.text);
    size_t n = m.bytes;
    char *good = arena_alloc(runs_arena, n), *bad = arena_alloc(runs_arena, n);
    memcpy(good, m.data, n);
    os_file_unmap(&m);
    for (int i = 0; i < 4; i++) {
        static const char *const find[] = {NULL, "\"order_at\":\"", "\"moment2.0\"", "\"rng\""};
        memcpy(bad, good, n);
        for (size_t k = 0; find[i] && k + strlen(find[i]) < n; k++)
            if (!memcmp(bad + k, find[i], strlen(find[i]))) bad[k + strlen(find[i]) - (i > 1 ? 2 : 0)] = i > 1 ? 'x' : '9';
        if (i == 1 && !memcmp(bad, good, n)) fail_msg("the state file has no order_at");
        assert_true(os_file_write_atomic(path, bad, i ? n : n * 2 / 3, &e));
        runs_refused(&p, "state.safetensors");
        assert_string_equal(runs_files(&p), "lora.safetensors.state.safetensors ");
    }
    assert_true(os_file_write_atomic(path, good, n, &e));
    runs_well(&p);
    runs_same_file(p.out, whole()->out);
}

static void test_not_a_number(void **state) {
    struct train_params p = runs_params("nan");
    p.lr = 1e30f, p.schedule.kind = TRAIN_CONSTANT;
    runs_refused(&p, "no longer a number");
    runs_refused(&p, "_block"); /* the node's place in the model */
    assert_string_equal(runs_files(&p), "");
}

static void test_bad_settings(void **state) {
    struct train_params p = runs_params("bad");
    p.resolution = RUNS_SIDE + 3;
    runs_refused(&p, "multiple of");
    p = runs_params("bad"), p.data = runs_path("nowhere");
    runs_refused(&p, "nowhere");
    p = runs_params("bad"), p.out = runs_path("no/such/folder/lora.safetensors");
    runs_refused(&p, "no/such/folder");
    p = runs_params("bad"), p.out = runs_path("bad");
    runs_refused(&p, "is a folder");
    p = runs_params("bad"), p.sample_every = 1;
    runs_refused(&p, "--sample-prompt");
    p.samples = (const struct prompt_line[]){{.prompt = "red fox", .h = 60}}, p.n_samples = 1;
    runs_refused(&p, "A sample of 64x60 cannot be drawn");
    assert_string_equal(runs_files(&p), "");
}

/* What the plan says on a device with so much memory; NULL trainer: the error. */
static struct train_plan plan_within(int64_t bytes, enum train_remat remat, struct error *e) {
    struct train_params p = runs_params("memory");
    p.remat = remat;
    struct engine_params ep = runs_engine->params;
    ep.gpu.memory_limit = bytes;
    struct engine *small = engine_open(&ep, e);
    struct trainer *t = small ? trainer_create(small, &p, true, e) : NULL;
    struct train_plan plan = t ? trainer_plan(t) : (struct train_plan){0};
    trainer_destroy(&t);
    engine_close(&small);
    return plan;
}

/* Where the plain step does not fit, activations are recomputed; where nothing fits, the sentence names options. (Weights in
 * turn: tests/test_memory.c; here most are too small for that.) */
static void test_little_memory(void **state) {
    struct error e = {{0}};
    int64_t much = plan_within(0, TRAIN_REMAT_OFF, &e).peak_bytes, less = plan_within(0, TRAIN_REMAT_ON, &e).peak_bytes;
    print_message("%.2f MiB, recomputing %.2f MiB %s\n", (double)much / 1048576, (double)less / 1048576, e.text);
    assert_true(0 < less && less < much);
    struct train_plan plan = plan_within(0, TRAIN_REMAT_AUTO, &e);
    assert_false(plan.remat || plan.away_bytes);
    plan = plan_within((much + less) / 2 + 65536, TRAIN_REMAT_AUTO, &e);
    assert_true(plan.remat && !plan.away_bytes);
    assert_string_equal(e.text, "");
    int64_t least = less;
    for (; !e.text[0]; least -= less / 50) plan_within(least, TRAIN_REMAT_AUTO, &e);
    print_message("%.2f MiB are too few: %s\n", (double)least / 1048576, e.text);
    assert_true(strstr(e.text, "--batch") && strstr(e.text, "MiB") && !strstr(e.text, "--checkpointing"));
    plan_within(least, TRAIN_REMAT_OFF, &e);
    assert_true(strstr(e.text, "--checkpointing on") && strstr(e.text, "--batch"));
}

static void interrupt(void *ctx, const struct train_report *r) {
    if (r->step == RUNS_STEPS / 2) raise(SIGINT);
}

/* Last: the flag of an interrupt stays. */
static void test_interrupt(void **state) {
    struct error e = {{0}};
    bool finished;
    assert_true(os_interrupt_install());
    struct train_params p = runs_params("interrupt"), halves = runs_params("interrupt2");
    halves.stop_after = RUNS_STEPS / 2;
    runs_well(&halves);
    struct trainer *t = trainer_create(runs_engine, &p, false, &e);
    if (!t || !trainer_run(t, &(struct train_callbacks){interrupt, NULL}, &finished, &e)) fail_msg("%s", e.text);
    trainer_destroy(&t);
    assert_false(finished);
    assert_string_equal(runs_files(&p), "lora.safetensors.state.safetensors ");
    runs_same_file(trainer_state_path(runs_arena, p.out), trainer_state_path(runs_arena, halves.out));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_twice_the_same),   cmocka_unit_test(test_resume),
        cmocka_unit_test(test_resume_after_a_crash),
        cmocka_unit_test(test_resume_after_a_kill), cmocka_unit_test(test_resume_after_a_failed_save),
        cmocka_unit_test(test_remat_is_the_same),
        cmocka_unit_test(test_samples_and_saves), cmocka_unit_test(test_accumulation),
        cmocka_unit_test(test_text_encoder),     cmocka_unit_test(test_gpu_classes),
        cmocka_unit_test(test_resume_refused),   cmocka_unit_test(test_damaged_state),
        cmocka_unit_test(test_not_a_number),     cmocka_unit_test(test_bad_settings),
        cmocka_unit_test(test_little_memory),
        cmocka_unit_test(test_interrupt),
    };
    return cmocka_run_group_tests(tests, runs_setup, runs_teardown);
}
