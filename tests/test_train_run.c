/* Whole training runs on a folder of three pictures: the same bytes every time and across --resume, what is written
 * when, and what is said when something is wrong. */
#include "tests/support/cm.h"
#include "tests/support/scratch.h"
#include "tests/support/session.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/os.h"
#include "io/png.h"
#include "io/safetensors.h"
#include "train/trainer.h"

enum { STEPS = 4, SIDE = 64 };
static struct arena *a;
static struct engine *engine;

static int setup(void **state) {
    a = arena_create(NULL);
    engine = session_open("mini-odd", session_default());
    log_set_level(0);
    return scratch_make(state);
}

static int teardown(void **state) {
    session_close(&engine);
    arena_destroy(&a);
    return scratch_drop(state);
}

/* --- helpers ------------------------------------------------------------------------------------------- */

static const char *in_folder(const char *name) { return arena_strdup(a, scratch_path(name)); }

/* Three pictures of coloured waves with captions. */
static const char *pictures(void) {
    static const char *const captions[] = {"red fox", "small house", "blue car"};
    struct error e = {{0}};
    const char *folder = in_folder("pictures");
    if (os_path_is_dir(folder)) return folder;
    assert_true(os_dir_make(folder, &e));
    for (int i = 0; i < 3; i++) {
        struct image im = image_create(a, SIDE, SIDE);
        for (int p = 0; p < SIDE * SIDE * 3; p++)
            im.rgb[p] = (uint8_t)(127 + 120 * sin(p / 3 % SIDE * 0.1 * (i + 1) + p / 3 / SIDE * 0.07 + p % 3));
        assert_true(png_write(arena_printf(a, "%s/%d.png", folder, i), &im, NULL, 0, &e));
        assert_true(os_file_write_atomic(arena_printf(a, "%s/%d.txt", folder, i), captions[i], strlen(captions[i]), &e));
    }
    return folder;
}

/* A run of its own folder, so that what it leaves can be listed. */
static struct train_params params(const char *name) {
    struct error e = {{0}};
    struct train_params p = train_params_default();
    p.data = pictures();
    p.out = arena_printf(a, "%s/lora.safetensors", in_folder(name));
    if (!os_dir_make(in_folder(name), &e)) fail_msg("%s", e.text);
    p.steps = STEPS, p.rank = 4, p.batch = 2, p.lr = 0.01f, p.resolution = SIDE, p.half = false;
    return p;
}

struct outcome {
    bool ok, finished;
    int steps; /* reported */
    float first_loss, last_loss;
    struct error e;
};

static void on_report(void *ctx, const struct train_report *r) {
    struct outcome *o = ctx;
    if (!o->steps++) o->first_loss = r->loss;
    o->last_loss = r->loss;
}

static struct outcome run_on(struct engine *e, const struct train_params *p) {
    struct outcome o = {0};
    struct trainer *t = trainer_create(e, p, false, &o.e);
    o.ok = t && trainer_run(t, &(struct train_callbacks){on_report, &o}, &o.finished, &o.e);
    trainer_destroy(&t);
    return o;
}

static struct outcome run(const struct train_params *p) { return run_on(engine, p); }

static void run_well(const struct train_params *p) {
    struct outcome o = run(p);
    if (!o.ok) fail_msg("%s", o.e.text);
    assert_true(o.finished == !p->stop_after);
}

static void same_file(const char *x, const char *y) {
    struct error e = {{0}};
    struct os_map m, n;
    if (!os_file_map(&m, x, &e) || !os_file_map(&n, y, &e)) fail_msg("%s", e.text);
    if (m.bytes != n.bytes || memcmp(m.data, n.data, m.bytes)) fail_msg("%s and %s differ", x, y);
    os_file_unmap(&m);
    os_file_unmap(&n);
}

static const char *tensors_hash(const char *path) {
    struct error e = {{0}};
    char hex[65];
    struct st_file *f = st_open(path, &e);
    if (!f) fail_msg("%s", e.text);
    st_data_sha256(f, hex);
    st_close(&f);
    return arena_strdup(a, hex);
}

/* The files of a run's folder, sorted, each followed by a space. */
static const char *files(const struct train_params *p) {
    struct error e = {{0}};
    struct os_entry *entries;
    size_t n;
    const char *list = "", *folder = arena_strndup(a, p->out, (size_t)(strrchr(p->out, '/') - p->out));
    if (!os_dir_list(a, folder, &entries, &n, &e)) fail_msg("%s", e.text);
    for (size_t i = 0; i < n; i++) list = arena_printf(a, "%s%s ", list, entries[i].name);
    return list;
}

static void refused(const struct train_params *p, const char *words) {
    struct outcome o = run(p);
    assert_false(o.ok);
    print_message("%s\n", o.e.text);
    if (!strstr(o.e.text, words)) fail_msg("the message lacks \"%s\"", words);
}

/* --- the same bytes ------------------------------------------------------------------------------------ */

/* One run in one go, as what the others are compared with; made once. */
static const struct train_params *whole(void) {
    static struct train_params p;
    if (p.out) return &p;
    p = params("whole");
    p.log = in_folder("whole/log.jsonl");
    run_well(&p);
    return &p;
}

static void test_twice_the_same(void **state) {
    struct train_params p = params("again");
    p.out = in_folder("again/lora.safetensors"), p.log = in_folder("again/log.jsonl");
    run_well(&p);
    same_file(p.out, whole()->out);
    same_file(p.log, whole()->log);
    assert_string_equal(files(&p), "log.jsonl lora.safetensors ");
    p = params("otherseed");
    p.seed = 2;
    run_well(&p);
    assert_string_not_equal(tensors_hash(p.out), tensors_hash(whole()->out));
}

static void test_resume(void **state) {
    struct train_params p = params("halves");
    p.log = in_folder("halves/log.jsonl"), p.stop_after = STEPS / 2;
    run_well(&p);
    assert_string_equal(files(&p), "log.jsonl lora.safetensors.state.safetensors ");
    p.stop_after = 0, p.resume = true;
    run_well(&p);
    same_file(p.out, whole()->out);
    same_file(p.log, whole()->log);
    assert_string_equal(files(&p), "log.jsonl lora.safetensors ");
}

/* The state is older than the log: the log's later lines are made again. */
static void test_resume_after_a_crash(void **state) {
    struct train_params p = params("crash");
    p.log = in_folder("crash/log.jsonl"), p.save_every = 2, p.stop_after = 3;
    run_well(&p);
    const char *state_path = trainer_state_path(a, p.out);
    struct error e = {{0}};
    struct os_map m;
    p = params("crash2"), p.save_every = 2, p.stop_after = 2;
    run_well(&p);
    if (!os_file_map(&m, trainer_state_path(a, p.out), &e)) fail_msg("%s", e.text);
    assert_true(os_file_write_atomic(state_path, m.data, m.bytes, &e));
    os_file_unmap(&m);
    p = params("crash"), p.log = in_folder("crash/log.jsonl"), p.save_every = 2, p.resume = true;
    run_well(&p);
    same_file(p.out, whole()->out);
    same_file(p.log, whole()->log);
}

static void test_remat_is_the_same(void **state) {
    struct train_params p = params("remat");
    p.remat = TRAIN_REMAT_ON;
    run_well(&p);
    assert_string_equal(tensors_hash(p.out), tensors_hash(whole()->out));
}

static const char *const prompts[] = {"red fox", "blue car"};

/* Looking at samples does not change what is learned. */
static void test_samples_and_saves(void **state) {
    struct train_params p = params("periodic");
    p.sample_prompts = prompts, p.n_sample_prompts = 2, p.sample_every = 2, p.sample_steps = 2, p.save_every = 3;
    run_well(&p);
    same_file(p.out, whole()->out);
    assert_string_equal(files(&p), "lora-sample-000002.png lora-sample-000004.png lora-step00000003.safetensors lora.safetensors ");
    int w, h;
    struct error e = {{0}};
    assert_true(image_probe(in_folder("periodic/lora-sample-000002.png"), &w, &h, &e));
    assert_true(w >= 2 * SIDE && h >= SIDE);
}

/* --- accumulation, the text encoder, other classes ------------------------------------------------------ */

static void fill_given(struct train_given *g, int n_latent, int n_context, int n) {
    struct rng rng;
    rng_seed(&rng, 3);
    float *latents = arena_alloc_n(a, (size_t)(n * n_latent), sizeof *latents), *noise = arena_alloc_n(a, (size_t)(n * n_latent), sizeof *noise);
    float *context = arena_alloc_n(a, (size_t)(n * n_context), sizeof *context);
    int *t = arena_alloc_n(a, (size_t)n, sizeof *t);
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
        struct train_params p = params("accumulate");
        p.data = NULL, p.batch = i ? 2 : 4, p.accumulate = i ? 2 : 1;
        struct trainer *t = trainer_create(engine, &p, false, &e);
        if (!t) fail_msg("%s", e.text);
        int f = vae_config_factor(&engine->model->vae), lat = SIDE / f * (SIDE / f) * engine->model->vae.latent_channels;
        struct train_given given;
        fill_given(&given, lat, model_window(engine->model) * model_context_dim(engine->model), 4);
        if (!trainer_step_given(t, &given, true, losses[i], &e)) fail_msg("%s", e.text); /* up is zero in the first */
        if (!trainer_step_given(t, &given, true, losses[i], &e)) fail_msg("%s", e.text);
        const struct lora_stack *s = trainer_adapter(t)->stack;
        shape = s->set->slots[s->layers[0].down].shape;
        grad[i] = arena_alloc_n(a, (size_t)shape_elems(shape), sizeof **grad);
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
        float *v = arena_alloc_n(a, n, sizeof *v);
        assert_true(st_read_f32(t, v, n, &e));
        for (size_t k = 0; k < n; k++) most = fmaxf(most, fabsf(v[k]));
    }
    st_close(&f);
    return most;
}

static void test_text_encoder(void **state) {
    struct train_params p = params("text");
    p.train_text_encoder = true, p.accumulate = 2, p.stop_after = STEPS / 2;
    run_well(&p);
    p.stop_after = 0, p.resume = true;
    run_well(&p);
    assert_true(largest_up(p.out, "lora_te_") > 1e-4f);
    assert_true(largest_up(p.out, "lora_unet_") > 1e-4f);
    assert_true(largest_up(whole()->out, "lora_te_") < 0);
    struct train_params once = params("textonce");
    once.train_text_encoder = true, once.accumulate = 2;
    run_well(&once);
    same_file(p.out, once.out);
    /* What was trained loads again, on both parts. */
    struct error e = {{0}};
    struct adapter *ad = adapter_open(engine, &p.out, 1, &e);
    if (!ad) fail_msg("%s", e.text);
    assert_true(ad->touches[LORA_TEXT]);
    adapter_close(&ad);
}

static void test_gpu_classes(void **state) {
    for (int rig = SESSION_GPU_F32; rig < SESSION_RIGS; rig++) {
        struct engine *e = session_open("mini-odd", rig);
        struct train_params p = params(arena_printf(a, "gpu%d", rig));
        p.steps = 2;
        struct outcome o = run_on(e, &p);
        if (!o.ok) fail_msg("%s", o.e.text);
        print_message("%s: loss %.5f, then %.5f\n", session_rigs[rig].name, (double)o.first_loss, (double)o.last_loss);
        assert_true(isfinite(o.last_loss));
        session_close(&e);
    }
}

/* --- what is wrong -------------------------------------------------------------------------------------- */

static void test_resume_refused(void **state) {
    struct train_params p = params("refuse");
    p.resume = true;
    refused(&p, "nothing to resume");
    p.resume = false, p.stop_after = 1;
    run_well(&p);
    p.stop_after = 0, p.resume = true, p.lr *= 2;
    refused(&p, "other settings");
    p.lr /= 2, p.rank = 8;
    refused(&p, "other settings");
    p.rank = 4, p.caption = "unused";
    struct error e = {{0}};
    assert_true(os_file_write_atomic(arena_printf(a, "%s/1.txt", p.data), "other words", 11, &e));
    refused(&p, "pictures");
    assert_true(os_file_write_atomic(arena_printf(a, "%s/1.txt", p.data), "small house", 11, &e));
    assert_string_equal(files(&p), "lora.safetensors.state.safetensors ");
}

/* Cut short, or with a number that cannot be: a sentence each time, and nothing else changes. */
static void test_damaged_state(void **state) {
    struct error e = {{0}};
    struct os_map m;
    struct train_params p = params("damaged");
    p.stop_after = 1;
    run_well(&p);
    p.stop_after = 0, p.resume = true;
    const char *path = trainer_state_path(a, p.out);
    if (!os_file_map(&m, path, &e)) fail_msg("%s", e.text);
    size_t n = m.bytes;
    char *good = arena_alloc(a, n), *bad = arena_alloc(a, n);
    memcpy(good, m.data, n);
    os_file_unmap(&m);
    for (int i = 0; i < 4; i++) {
        static const char *const find[] = {NULL, "\"order_at\":\"", "\"moment2.0\"", "\"rng\""};
        memcpy(bad, good, n);
        for (size_t k = 0; find[i] && k + strlen(find[i]) < n; k++)
            if (!memcmp(bad + k, find[i], strlen(find[i]))) bad[k + strlen(find[i]) - (i > 1 ? 2 : 0)] = i > 1 ? 'x' : '9';
        if (i == 1 && !memcmp(bad, good, n)) fail_msg("the state file has no order_at");
        assert_true(os_file_write_atomic(path, bad, i ? n : n * 2 / 3, &e));
        refused(&p, "state.safetensors");
        assert_string_equal(files(&p), "lora.safetensors.state.safetensors ");
    }
    assert_true(os_file_write_atomic(path, good, n, &e));
    run_well(&p);
    same_file(p.out, whole()->out);
}

static void test_not_a_number(void **state) {
    struct train_params p = params("nan");
    p.lr = 1e30f, p.schedule = TRAIN_CONSTANT;
    refused(&p, "no longer a number");
    refused(&p, "_block"); /* the node's place in the model */
    assert_string_equal(files(&p), "");
}

static void test_bad_settings(void **state) {
    struct train_params p = params("bad");
    p.resolution = SIDE + 3;
    refused(&p, "multiple of");
    p = params("bad"), p.data = in_folder("nowhere");
    refused(&p, "nowhere");
    p = params("bad"), p.out = in_folder("no/such/folder/lora.safetensors");
    refused(&p, "no/such/folder");
    p = params("bad"), p.out = in_folder("bad");
    refused(&p, "is a folder");
    p = params("bad"), p.sample_every = 1;
    refused(&p, "--sample-prompt");
    assert_string_equal(files(&p), "");
}

/* What the plan says on a device with so much memory; NULL trainer: the error. */
static struct train_plan plan_within(int64_t bytes, enum train_remat remat, struct error *e) {
    struct train_params p = params("memory");
    p.remat = remat;
    struct engine_params ep = engine->params;
    ep.gpu.memory_limit = bytes;
    struct engine *small = engine_open(&ep, e);
    struct trainer *t = small ? trainer_create(small, &p, true, e) : NULL;
    struct train_plan plan = t ? trainer_plan(t) : (struct train_plan){0};
    trainer_destroy(&t);
    engine_close(&small);
    return plan;
}

/* Where the plain step does not fit, activations are recomputed; where nothing fits, the sentence names options. */
static void test_little_memory(void **state) {
    struct error e = {{0}};
    int64_t much = plan_within(0, TRAIN_REMAT_OFF, &e).peak_bytes, less = plan_within(0, TRAIN_REMAT_ON, &e).peak_bytes;
    print_message("%.2f MiB, recomputing %.2f MiB %s\n", (double)much / 1048576, (double)less / 1048576, e.text);
    assert_true(0 < less && less < much);
    assert_false(plan_within(0, TRAIN_REMAT_AUTO, &e).remat);
    assert_true(plan_within((much + less) / 2, TRAIN_REMAT_AUTO, &e).remat);
    assert_string_equal(e.text, "");
    plan_within((much + less) / 2, TRAIN_REMAT_OFF, &e);
    print_message("%s\n", e.text);
    assert_true(strstr(e.text, "--checkpointing on") && strstr(e.text, "--batch"));
    plan_within(less - 4096, TRAIN_REMAT_AUTO, &e);
    print_message("%s\n", e.text);
    assert_true(strstr(e.text, "--batch") && strstr(e.text, "MiB") && !strstr(e.text, "--checkpointing"));
}

static void interrupt(void *ctx, const struct train_report *r) {
    if (r->step == STEPS / 2) raise(SIGINT);
}

/* Last: the flag of an interrupt stays. */
static void test_interrupt(void **state) {
    struct error e = {{0}};
    bool finished;
    assert_true(os_interrupt_install());
    struct train_params p = params("interrupt"), halves = params("interrupt2");
    halves.stop_after = STEPS / 2;
    run_well(&halves);
    struct trainer *t = trainer_create(engine, &p, false, &e);
    if (!t || !trainer_run(t, &(struct train_callbacks){interrupt, NULL}, &finished, &e)) fail_msg("%s", e.text);
    trainer_destroy(&t);
    assert_false(finished);
    assert_string_equal(files(&p), "lora.safetensors.state.safetensors ");
    same_file(trainer_state_path(a, p.out), trainer_state_path(a, halves.out));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_twice_the_same),   cmocka_unit_test(test_resume),
        cmocka_unit_test(test_resume_after_a_crash), cmocka_unit_test(test_remat_is_the_same),
        cmocka_unit_test(test_samples_and_saves), cmocka_unit_test(test_accumulation),
        cmocka_unit_test(test_text_encoder),     cmocka_unit_test(test_gpu_classes),
        cmocka_unit_test(test_resume_refused),   cmocka_unit_test(test_damaged_state),
        cmocka_unit_test(test_not_a_number),     cmocka_unit_test(test_bad_settings),
        cmocka_unit_test(test_little_memory),
        cmocka_unit_test(test_interrupt),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
