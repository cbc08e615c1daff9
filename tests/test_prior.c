/* Prior preservation: the loss and its gradient against the two losses by themselves, the class's pictures, resuming. */
#include "tests/support/cm.h"
#include "tests/support/scratch.h"
#include "tests/support/session.h"
#include "tests/support/train_runs.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/os.h"
#include "engine/generate.h"
#include "io/png.h"
#include "io/safetensors.h"
#include "train/trainer_priv.h"

/* ---- The loss ---- */

enum { BATCH = 2, MAX_VALUES = 1 << 17 };

struct given {
    float *latents, *noise, *context;
    int t[4 * BATCH];
};

/* Numbers for n pictures, the same for every trainer. */
static struct given given_for(const struct trainer *t, int n) {
    struct given g;
    struct rng rng;
    size_t latent = (size_t)(n * t->lw * t->lh * t->channels), text = (size_t)(n * t->tokens * t->width);
    g.latents = arena_alloc_n(runs_arena, latent, sizeof(float));
    g.noise = arena_alloc_n(runs_arena, latent, sizeof(float));
    g.context = arena_alloc_n(runs_arena, text, sizeof(float));
    rng_seed(&rng, 5);
    rng_randn(&rng, g.latents, latent), rng_randn(&rng, g.noise, latent), rng_randn(&rng, g.context, text);
    for (int i = 0; i < n; i++) g.t[i] = 100 + 211 * i % 800;
    return g;
}

/* Both factors of every layer, so that both get gradients. */
static void fill_factors(struct trainer *t) {
    struct lora_stack *s = t->adapter->stack;
    struct error e = {{0}};
    struct rng rng;
    rng_seed(&rng, 9);
    for (int i = 0; i < s->n_layers; i++) {
        struct lora_stack_layer *l = &s->layers[i];
        struct shape w = l->target->weight;
        size_t down = (size_t)(w.n * l->parts[0].rank * w.c), up = (size_t)(l->parts[0].rank * w.w);
        float *d = arena_alloc_n(runs_arena, down, sizeof *d), *u = arena_alloc_n(runs_arena, up, sizeof *u);
        rng_randn(&rng, d, down), rng_randn(&rng, u, up);
        for (size_t k = 0; k < down; k++) d[k] *= 0.1f;
        for (size_t k = 0; k < up; k++) u[k] *= 0.1f;
        l->parts[0].down = d, l->parts[0].up = u;
        for (int k = 0; k < 2; k++) {
            int slot = k ? l->up : l->down;
            float *rows = arena_alloc_n(runs_arena, (size_t)shape_elems(s->set->slots[slot].shape), sizeof *rows);
            assert_true(lora_stack_read_slot(s, slot, rows, NULL));
            if (!gpu_set_write(t->adapter->data, slot, rows, &e)) fail_msg("%s", e.text);
        }
    }
}

/* Gradients of one step over `n` pictures from `first` on; their losses. */
static int gradients(float weight, int accumulate, int first, int n, float *losses, float *grad) {
    struct train_params p = train_params_default();
    struct error e = {{0}};
    p.rank = 4, p.batch = BATCH, p.accumulate = accumulate, p.resolution = RUNS_SIDE, p.weighting = TARGET_WEIGHT_MIN_SNR;
    p.class_prompt = weight > 0 ? "x" : NULL, p.prior_weight = weight > 0 ? weight : 1;
    struct trainer *t = trainer_create(runs_engine, &p, false, &e);
    if (!t) fail_msg("%s", e.text);
    fill_factors(t);
    struct given g = given_for(t, 4 * BATCH);
    size_t latent = (size_t)(t->lw * t->lh * t->channels), text = (size_t)(t->tokens * t->width);
    assert_int_equal(n, BATCH * train_batches_per_step(t));
    struct train_given from = {.latents = g.latents + (size_t)first * latent, .noise = g.noise + (size_t)first * latent,
                               .context = g.context + (size_t)first * text, .t = g.t + first};
    if (!trainer_step_given(t, &from, false, losses, &e)) fail_msg("%s", e.text);
    int values = 0;
    for (int c = 0; c < t->adapter->stack->set->n_chunks; c++) {
        int64_t bytes = gpu_set_chunk_bytes(trainer_gradients(t), c);
        assert_true(values + bytes / 4 <= MAX_VALUES);
        if (!gpu_set_read_raw(trainer_gradients(t), c, grad + values, &e)) fail_msg("%s", e.text);
        values += (int)(bytes / 4);
    }
    trainer_destroy(&t);
    return values;
}

/* A step of the subject's batch and the class's has the gradient of subject + w * class, each a mean over its batch, and the
 * losses of both: as diffusers' script. The weight comes on top of min-SNR's. */
static void test_loss(void **state) {
    static float own[MAX_VALUES], class[MAX_VALUES], both[MAX_VALUES];
    float own_loss[BATCH], class_loss[BATCH], both_loss[2 * BATCH];
    int n = gradients(0, 1, 0, BATCH, own_loss, own);
    gradients(0, 1, BATCH, BATCH, class_loss, class);
    assert_int_equal(gradients(0.7f, 1, 0, 2 * BATCH, both_loss, both), n);
    double most = 0, off = 0, share = 0;
    for (int i = 0; i < n; i++) {
        double want = own[i] + (double)0.7f * class[i];
        most = fmax(most, fabs(want)), off = fmax(off, fabs(both[i] - want)), share = fmax(share, fabs((double)class[i]));
    }
    print_message("largest gradient %g, of the class alone %g, difference %g\n", most, share, off);
    assert_true(share > 0.01 * most && off < 1e-6 * most);
    for (int i = 0; i < BATCH; i++) assert_float_equal(both_loss[i], own_loss[i], 1e-7);
    for (int i = 0; i < BATCH; i++) assert_float_equal(both_loss[BATCH + i], class_loss[i], 1e-7);
}

/* Accumulated batches alternate: subject, class, subject, class; all count half. */
static void test_accumulate(void **state) {
    static float one[MAX_VALUES], two[MAX_VALUES], all[MAX_VALUES];
    float losses[4 * BATCH];
    int n = gradients(2, 1, 0, 2 * BATCH, losses, one);
    gradients(2, 1, 2 * BATCH, 2 * BATCH, losses, two);
    gradients(2, 2, 0, 4 * BATCH, losses, all);
    double most = 0, off = 0;
    for (int i = 0; i < n; i++) {
        double want = 0.5 * one[i] + 0.5 * two[i];
        most = fmax(most, fabs(want)), off = fmax(off, fabs(all[i] - want));
    }
    assert_true(most > 0 && off < 1e-6 * most);
}

/* ---- The pictures ---- */

static struct train_params subject(const char *name) {
    struct train_params p = runs_params(name);
    p.recipe = "subject", p.instance_prompt = "sks car", p.class_prompt = "blue car", p.class_count = 5, p.sample_steps = 2;
    p.class_data = arena_printf(runs_arena, "%s-class", runs_path(name));
    return p;
}

static int class_files(const struct train_params *p) {
    struct error e = {{0}};
    struct os_entry *list;
    size_t n;
    if (!os_dir_list(runs_arena, p->class_data, &list, &n, &e)) fail_msg("%s", e.text);
    for (size_t i = 0; i < n; i++) assert_string_equal(list[i].name, arena_printf(runs_arena, "class-%05zu.png", i));
    return (int)n;
}

static const char *class_file(const struct train_params *p, int i) {
    return arena_printf(runs_arena, "%s/class-%05d.png", p->class_data, i);
}

/* Number 3 is what the model draws from seed 3. */
static void check_picture(const struct train_params *p) {
    struct error e = {{0}};
    struct generate_params gp = {.w = RUNS_SIDE, .h = RUNS_SIDE, .steps = p->sample_steps, .cfg = p->sample_cfg};
    struct generator *g = generator_create(runs_engine, &gp, &e);
    struct image drawn = image_create(runs_arena, RUNS_SIDE, RUNS_SIDE), kept;
    struct generate_picture picture = {.prompt = p->class_prompt, .seed = 3};
    if (!g || !generator_run(g, &picture, NULL, drawn.rgb, &e) || !image_load(runs_arena, class_file(p, 3), 16, &kept, &e))
        fail_msg("%s", e.text);
    assert_memory_equal(drawn.rgb, kept.rgb, RUNS_SIDE * RUNS_SIDE * 3);
    generator_destroy(&g);
}

/* Drawn where they are missing, kept, used again; what is lost is drawn again, to the same bytes and the same LoRA. */
static void test_pictures(void **state) {
    struct train_params p = subject("drawn"), again = subject("again"), plain = runs_params("without");
    struct error e = {{0}};
    runs_well(&p);
    assert_int_equal(class_files(&p), 5);
    check_picture(&p);
    struct os_stat before, after;
    again.class_data = p.class_data;
    assert_true(os_file_stat(class_file(&p, 1), &before, &e));
    assert_true(os_file_remove(class_file(&p, 0), &e) && os_file_remove(class_file(&p, 3), &e));
    runs_well(&again);
    assert_int_equal(class_files(&p), 5);
    check_picture(&p);
    assert_true(os_file_stat(class_file(&p, 1), &after, &e));
    assert_true(before.mtime_ns == after.mtime_ns);
    runs_same_file(p.out, again.out);
    plain.instance_prompt = p.instance_prompt;
    runs_well(&plain);
    assert_string_not_equal(runs_tensors_hash(plain.out), runs_tensors_hash(p.out));
    struct st_file *f = st_open(p.out, &e);
    assert_string_equal(st_meta_find(f, "ss_num_reg_images"), "5");
    assert_string_equal(st_meta_find(f, "ss_num_train_images"), "3");
    assert_string_equal(st_meta_find(f, "ss_prior_loss_weight"), "1.0");
    assert_string_equal(st_meta_find(f, "ss_class_prompt"), "blue car");
    st_close(&f);
}

/* kohya's folder of regularisation pictures: captions by its name, nothing drawn. */
static void test_own_pictures(void **state) {
    struct train_params p = subject("kohya");
    struct error e = {{0}};
    const char *folder = arena_printf(runs_arena, "%s/2_small house", p.class_data);
    p.class_prompt = NULL;
    assert_true(os_dir_make(folder, &e));
    for (int i = 0; i < 2; i++) {
        struct os_map m;
        assert_true(os_file_map(&m, arena_printf(runs_arena, "%s/%d.png", runs_pictures(), i), &e));
        assert_true(os_file_write_atomic(arena_printf(runs_arena, "%s/%d.png", folder, i), m.data, m.bytes, &e));
        os_file_unmap(&m);
    }
    struct trainer *t = trainer_create(runs_engine, &p, true, &e);
    if (!t) fail_msg("%s", e.text);
    const struct train_feed *f = &t->feeds[TRAIN_CLASS];
    assert_int_equal(t->n_feeds, 2);
    assert_int_equal(f->data.n, 2);
    assert_int_equal(f->data.n_per_epoch, 4);
    assert_string_equal(f->data.samples[1].caption, "small house");
    trainer_destroy(&t);
    runs_well(&p);
}

/* Planning draws nothing and knows what would be drawn. */
static void test_plan(void **state) {
    struct train_params p = subject("planned");
    struct error e = {{0}};
    struct trainer *t = trainer_create(runs_engine, &p, true, &e);
    if (!t) fail_msg("%s", e.text);
    struct train_plan plan = trainer_plan(t);
    assert_int_equal(plan.n_class, 5);
    assert_int_equal(plan.n_class_missing, 5);
    assert_int_equal(plan.n_pictures, 3);
    assert_true(plan.gradient_bytes == 2 * plan.adapter_bytes);
    assert_false(os_path_exists(p.class_data));
    trainer_destroy(&t);
}

/* ---- Resuming ---- */

static void set_much(struct train_params *p) {
    p->buckets = (struct bucket_params){.on = true, .min = 32, .max = 128, .step = 16};
    p->flip = true, p->caption_dropout = 0.2f, p->accumulate = 2, p->prior_weight = 0.5f, p->remat = TRAIN_REMAT_ON,
    p->ema = 0.9f;
}
static void set_text(struct train_params *p) { p->train_text_encoder = true; }

static void resumes(const char *name, void (*set)(struct train_params *)) {
    struct train_params whole = subject(arena_printf(runs_arena, "%s-whole", name)),
                        halves = subject(arena_printf(runs_arena, "%s-halves", name));
    halves.class_data = whole.class_data;
    whole.steps = halves.steps = 5;
    set(&whole), set(&halves);
    runs_well(&whole);
    halves.stop_after = 2;
    runs_well(&halves);
    halves.stop_after = 0, halves.resume = true;
    runs_well(&halves);
    runs_same_file(halves.out, whole.out);
}

static void test_resume(void **state) {
    resumes("much", set_much);
    resumes("text", set_text);
}

/* ---- Sentences ---- */

static void test_sentences(void **state) {
    struct train_params p = subject("classless");
    p.class_prompt = NULL, p.class_data = NULL;
    runs_refused(&p, "--recipe subject needs --class-prompt");
    p.prior_weight = 0;
    runs_well(&p);
    p = subject("inside");
    p.class_data = arena_printf(runs_arena, "%s/class", runs_pictures());
    runs_refused(&p, "would lie inside --data");
    p = subject("other prompt");
    runs_well(&p);
    p.class_prompt = "red fox";
    runs_refused(&p, "was drawn for the class \"blue car\", not \"red fox\"");
    p = subject("no captions");
    p.class_prompt = NULL, p.class_data = runs_path("nowhere");
    runs_refused(&p, "there is no folder");
    p = subject("negative");
    p.prior_weight = -1;
    p.recipe = NULL;
    runs_refused(&p, "--prior-weight must lie");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loss),         cmocka_unit_test(test_accumulate), cmocka_unit_test(test_pictures),
        cmocka_unit_test(test_own_pictures), cmocka_unit_test(test_plan),       cmocka_unit_test(test_resume),
        cmocka_unit_test(test_sentences),
    };
    return cmocka_run_group_tests(tests, runs_setup, runs_teardown);
}
