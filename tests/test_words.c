/* New words: beside torch, which trains rows that diffusers added to the token table; their files; runs that resume. */
#include "tests/support/cm.h"
#include "tests/support/golden.h"
#include "tests/support/scratch.h"
#include "tests/support/session.h"
#include "tests/support/train_runs.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/os.h"
#include "io/png.h"
#include "io/safetensors.h"
#include "lora/file.h"
#include "train/trainer_priv.h"

static const struct train_word two_words[] = {{"<new1>", NULL, 2}, {"<new2>", NULL, 1}};

/* ---- Beside torch ---- */

struct bench {
    struct arena *a;
    struct st_file *golden;
    struct engine *e;
    struct trainer *t;
    float *latents, *noise, *time_ids, *losses, *ids[MODEL_MAX_TEXTS];
    int *times, steps, batch;
    struct shape latent;
    size_t n_step;
};

static struct train_params golden_params(const struct bench *b, const char *kind) {
    struct train_params p = train_params_default();
    p.kind = strcmp(kind, "custom") ? TRAIN_NONE : TRAIN_FULL, p.targets = LORA_SELECT_CROSS_KV;
    p.words = two_words, p.n_words = 2;
    p.lr = (float)golden_number(b->golden, "lr"), p.optimiser.weight_decay = 0;
    p.batch = b->batch, p.steps = b->steps, p.schedule.kind = TRAIN_CONSTANT;
    p.resolution = b->latent.w * vae_config_factor(&b->e->model->vae);
    return p;
}

static void read_inputs(struct bench *b) {
    struct shape s;
    float *t = golden_rows(b->golden, "timesteps", b->a, &s);
    b->steps = s.n, b->batch = s.w;
    b->times = arena_alloc_n(b->a, (size_t)(b->steps * b->batch), sizeof *b->times);
    for (int i = 0; i < b->steps * b->batch; i++) b->times[i] = (int)t[i];
    b->latents = golden_rows(b->golden, "latents", b->a, &b->latent);
    b->n_step = (size_t)shape_elems(b->latent) / (size_t)b->steps;
    b->noise = golden_rows(b->golden, "noise", b->a, NULL);
    b->losses = golden_rows(b->golden, "losses", b->a, NULL);
    b->ids[0] = golden_rows(b->golden, "ids", b->a, NULL);
    b->ids[1] = st_find(b->golden, "ids_2") ? golden_rows(b->golden, "ids_2", b->a, NULL) : NULL;
    b->time_ids = st_find(b->golden, "time_ids") ? golden_rows(b->golden, "time_ids", b->a, NULL) : NULL;
}

/* Vectors of a text encoder as the golden has them, [total][width], turned into the slot's rows, or back. */
static void turn(float *dst, const float *src, size_t rows, size_t columns) {
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < columns; c++) dst[c * rows + r] = src[r * columns + c];
}

static struct bench bench_open(const char *mini, const char *kind, int rig) {
    struct error e = {{0}};
    struct bench b = {.a = arena_create(NULL)};
    b.golden = golden_open(arena_printf(b.a, "%s.%s", mini, kind));
    read_inputs(&b);
    b.e = session_open(mini, rig);
    struct train_params p = golden_params(&b, kind);
    if (!(b.t = trainer_create(b.e, &p, false, &e))) fail_msg("%s", e.text);
    const struct lora_stack *stack = trainer_adapter(b.t)->stack;
    for (int i = 0; i < b.e->model->n_texts; i++) {
        struct shape s;
        float *start = golden_weight(b.golden, arena_printf(b.a, "start.%d", i), b.a, &s);
        float *rows = arena_alloc_n(b.a, (size_t)shape_elems(s), sizeof *rows);
        turn(rows, start, (size_t)s.w, (size_t)s.c);
        if (!gpu_set_write(trainer_adapter(b.t)->data, stack->own[b.t->words.own[i]].slot, rows, &e)) fail_msg("%s", e.text);
    }
    return b;
}

static void bench_close(struct bench *b) {
    trainer_destroy(&b->t);
    session_close(&b->e);
    st_close(&b->golden);
    arena_destroy(&b->a);
}

/* Captions are cut as diffusers cuts them after load_textual_inversion. */
static void check_ids(struct bench *b) {
    char *prompts = arena_strdup(b->a, golden_text(b->golden, "prompts")), *rest = NULL;
    int n = 0;
    for (char *p = strtok_r(prompts, "\n", &rest); p; p = strtok_r(NULL, "\n", &rest), n++)
        for (int i = 0; i < b->e->model->n_texts; i++) {
            int32_t ids[128];
            struct tokenizer_cut cut;
            train_words_encode(b->t, i, p, ids, &cut);
            for (int k = 0; k < b->t->tokens; k++) assert_int_equal(ids[k], (int)b->ids[i][n * b->t->tokens + k]);
        }
    assert_int_equal(n, b->batch);
}

static double step(struct bench *b, int k) {
    struct error e = {{0}};
    float losses[8];
    double mean = 0;
    size_t at = (size_t)k * b->n_step;
    struct train_given given = {.latents = b->latents + at, .noise = b->noise + at, .t = b->times + k * b->batch,
                                .ids = {b->ids[0], b->ids[1]}, .time_ids = b->time_ids};
    if (!trainer_step_given(b->t, &given, true, losses, &e)) fail_msg("%s", e.text);
    for (int i = 0; i < b->batch; i++) mean += (double)losses[i] / b->batch;
    return mean;
}

static void check_vectors(struct bench *b, const char *what, struct gpu_set *set, float scale, double tolerance) {
    struct error e = {{0}};
    const struct lora_stack *stack = trainer_adapter(b->t)->stack;
    for (int i = 0; i < b->e->model->n_texts; i++) {
        struct shape s;
        const char *name = arena_printf(b->a, "%s.%d", what, i);
        float *want = golden_weight(b->golden, name, b->a, &s);
        size_t n = (size_t)shape_elems(s);
        float *rows = arena_alloc_n(b->a, n, sizeof *rows), *got = arena_alloc_n(b->a, n, sizeof *got);
        if (!gpu_set_read(set, stack->own[b->t->words.own[i]].slot, rows, &e)) fail_msg("%s", e.text);
        turn(got, rows, (size_t)s.c, (size_t)s.w);
        for (size_t k = 0; k < n; k++) got[k] /= scale;
        golden_near_peak(name, got, want, n, tolerance);
    }
}

/* The dense parts. Where they end is left to the losses: Adam makes whole steps of gradients that are all rounding. */
static void check_layers(struct bench *b, const char *what, struct gpu_set *set, float scale, double tolerance) {
    struct error e = {{0}};
    const struct lora_stack *stack = trainer_adapter(b->t)->stack;
    for (int i = 0; i < stack->n_layers; i++) {
        const struct lora_stack_layer *l = &stack->layers[i];
        struct shape s;
        char *path = arena_printf(b->a, "%s.lora_unet_%s.diff", what, l->target->path);
        for (char *c = path + strlen(what) + 1; c < path + strlen(path) - 5; c++)
            if (*c == '.') *c = '_';
        float *want = golden_weight(b->golden, path, b->a, &s);
        size_t n = (size_t)shape_elems(s);
        float *got = arena_alloc_n(b->a, n, sizeof *got);
        assert_true(shape_equal(s, l->target->weight));
        if (!gpu_set_read(set, l->dense[0].weight, got, &e)) fail_msg("%s", e.text);
        for (size_t k = 0; k < n; k++) got[k] /= scale;
        golden_near_peak(path, got, want, n, tolerance);
    }
}

static char *raw_table(struct bench *b, size_t *bytes) {
    struct error e = {{0}};
    struct gpu_set *set = b->e->parts[ENGINE_TEXT];
    *bytes = (size_t)gpu_set_chunk_bytes(set, 0);
    char *data = arena_alloc(b->a, *bytes);
    if (!gpu_set_read_raw(set, 0, data, &e)) fail_msg("%s", e.text);
    return data;
}

/* losses: largest relative difference over the steps. */
static void check_run(const char *mini, const char *kind, int rig, int steps, double gradients, double losses, double ends) {
    struct bench b = bench_open(mini, kind, rig);
    double worst = 0;
    size_t n;
    check_ids(&b);
    char *before = raw_table(&b, &n);
    for (int k = 0; k < steps; k++) {
        double loss = step(&b, k), d = fabs(loss - (double)b.losses[k]) / (double)b.losses[k];
        if (k == 0) check_vectors(&b, "gradient", trainer_gradients(b.t), trainer_loss_scale(b.t), gradients);
        if (k == 0) check_layers(&b, "gradient", trainer_gradients(b.t), trainer_loss_scale(b.t), gradients);
        if (!(d <= worst)) worst = d;
    }
    print_message("%s (%s): losses differ by %.2e over %d steps\n", mini, session_rigs[rig].name, worst, steps);
    if (!(worst <= losses)) fail_msg("%s: a loss differs by %.3g", mini, worst);
    if (steps == b.steps) check_vectors(&b, "end", trainer_adapter(b.t)->data, 1, ends);
    assert_memory_equal(raw_table(&b, &n), before, n); /* only the new words changed */
    bench_close(&b);
}

static void test_cpu_class(void **state) {
    check_run("mini-sd1", "words", SESSION_CPU, 10, 1e-3, 1e-3, 1e-3);
    check_run("mini-sdxl", "words", SESSION_CPU, 10, 1e-3, 1e-3, 1e-3);
    check_run("mini-sd1", "custom", SESSION_CPU, 10, 1e-3, 1e-3, 1e-3);
}

static void test_gpu_class(void **state) { check_run("mini-sdxl", "words", SESSION_GPU_F32, 3, 1e-3, 1e-3, 0); }
static void test_gpu_class_f16(void **state) { check_run("mini-sd1", "custom", SESSION_GPU_F16, 3, 0.1, 1e-2, 0); }

/* ---- Whole runs ---- */

/* A picture without a caption of its own. */
static const char *bare_picture(void) {
    struct error e = {{0}};
    const char *folder = runs_path("bare");
    if (os_path_is_dir(folder)) return folder;
    struct image im = image_create(runs_arena, RUNS_SIDE, RUNS_SIDE);
    for (int i = 0; i < RUNS_SIDE * RUNS_SIDE * 3; i++) im.rgb[i] = (uint8_t)(i * 7 / 5);
    assert_true(os_dir_make(folder, &e));
    assert_true(png_write(arena_printf(runs_arena, "%s/0.png", folder), &im, NULL, 0, &e));
    return folder;
}

static struct train_params word_params(const char *folder, enum train_kind kind, const struct train_word *words, int n) {
    struct train_params p = runs_params(folder);
    p.kind = kind, p.words = words, p.n_words = n;
    p.data = bare_picture(), p.caption = "the <new1> fox";
    return p;
}

static const struct train_word one_word[] = {{"<new1>", "the", 2}};

static struct train_params prepared(const char *folder, enum train_kind kind) {
    return word_params(folder, kind, one_word, 1);
}

static void resumes(const char *name, enum train_kind kind) {
    struct train_params whole = prepared(arena_printf(runs_arena, "%s-whole", name), kind);
    struct train_params halves = prepared(arena_printf(runs_arena, "%s-halves", name), kind);
    whole.ema = halves.ema = 0.9f, whole.word_lr = halves.word_lr = 0.02f;
    whole.train_text_encoder = halves.train_text_encoder = kind == TRAIN_LORA;
    whole.text_lr = halves.text_lr = kind == TRAIN_LORA ? 1e-4f : 0;
    runs_well(&whole);
    halves.stop_after = RUNS_STEPS / 2;
    runs_well(&halves);
    halves.stop_after = 0, halves.resume = true;
    halves.word_lr = 0.01f;
    runs_refused(&halves, "other settings");
    halves.word_lr = 0.02f;
    runs_well(&halves);
    runs_same_file(halves.out, whole.out);
}

static void test_resume(void **state) {
    resumes("words", TRAIN_NONE);
    resumes("pivotal", TRAIN_LORA);
    resumes("custom", TRAIN_FULL);
}

static struct embedding_list load_words(const char *path) {
    struct error e = {{0}};
    struct embedding_list list = {.arena = runs_arena};
    const int widths[] = {runs_engine->model->texts[0].cfg.width};
    if (!embedding_load(&list, path, widths, 1, &e)) fail_msg("%s", e.text);
    return list;
}

/* Where vectors begin: those of the words that are named, shared out evenly, or normal numbers as wide as the table's, drawn by
 * a generator that is not the LoRA's. */
static void test_start(void **state) {
    static const struct train_word words[] = {{"<new1>", "the cat", 4}, {"<new2>", NULL, 3}};
    static const char *const from[] = {"the", "the", "cat", "cat"};
    struct error e = {{0}};
    struct train_params p = prepared("start", TRAIN_LORA);
    p.words = words, p.n_words = 2, p.seed = 6, p.caption = "<new1> <new2>";
    struct trainer *t = trainer_create(runs_engine, &p, false, &e);
    if (!t) fail_msg("%s", e.text);
    const struct model_text *text = &runs_engine->model->texts[0];
    size_t width = (size_t)text->cfg.width, numbers = width * (size_t)text->cfg.vocabulary;
    float *table = arena_alloc_n(runs_arena, numbers, sizeof *table), *drawn = arena_alloc_n(runs_arena, width, sizeof *drawn);
    nn_params_read_slot(text->params, nn_params_find(text->params, "text_model.embeddings.token_embedding.weight"), table);
    const float *rows = t->adapter->stack->own[t->words.own[0]].start; /* [width][7] */
    double sum = 0, squares = 0;
    for (size_t i = 0; i < numbers; i++) sum += (double)table[i] / (double)numbers;
    for (size_t i = 0; i < numbers; i++) squares += ((double)table[i] - sum) * ((double)table[i] - sum) / (double)numbers;
    for (size_t v = 0; v < 4; v++) {
        int32_t id;
        assert_int_equal(tokenizer_encode(text->tokenizer, from[v], &id, 1), 1);
        for (size_t c = 0; c < width; c++) assert_true(rows[c * 7 + v] == table[(size_t)id * width + c]);
    }
    struct rng rng;
    rng_seed(&rng, 6 ^ 0x40000000u);
    for (size_t v = 4; v < 7; v++) {
        rng_randn(&rng, drawn, width);
        for (size_t c = 0; c < width; c++) assert_float_equal(rows[c * 7 + v], (double)drawn[c] * sqrt(squares), 1e-6);
    }
    trainer_destroy(&t);
}

/* The word's vectors lie in the LoRA file and beside it, the same numbers; they moved away from where they began. */
static void test_files(void **state) {
    struct error e = {{0}};
    struct train_params p = prepared("files", TRAIN_LORA), alone = prepared("alone", TRAIN_NONE);
    p.text_lr = 0;
    runs_well(&p), runs_well(&alone);
    assert_string_equal(runs_files(&p), "lora-words.safetensors lora.safetensors ");
    assert_string_equal(runs_files(&alone), "lora.safetensors ");
    struct embedding_list in = load_words(p.out),
                          beside = load_words(arena_printf(runs_arena, "%.*s-words.safetensors",
                                                           (int)strlen(p.out) - 12, p.out));
    struct embedding_list own = load_words(alone.out);
    size_t width = (size_t)runs_engine->model->texts[0].cfg.width;
    const struct nn_params *text = runs_engine->model->texts[0].params;
    int slot = nn_params_find(text, "text_model.embeddings.token_embedding.weight");
    float *table = arena_alloc_n(runs_arena, (size_t)shape_elems(text->set->slots[slot].shape), sizeof *table);
    nn_params_read_slot(text, slot, table);
    int32_t id;
    assert_int_equal(tokenizer_encode(runs_engine->model->texts[0].tokenizer, "the", &id, 1), 1);
    for (int i = 0; i < 2; i++) {
        const struct embedding *m = embedding_find(i ? &own : &in, "<new1>");
        assert_non_null(m);
        assert_int_equal(m->n, 2);
        double moved = 0;
        for (size_t k = 0; k < 2 * width; k++)
            moved =
                fmax(moved, fabs((double)m->vectors[0][k] - (double)table[(size_t)id * width + k % width]));
        assert_true(moved > 1e-4 && moved < 0.1);
    }
    struct lora_file *no_lora = lora_file_open(alone.out, NULL, &e);
    assert_null(no_lora);
    assert_non_null(strstr(e.text, "give it with --embedding"));
    assert_memory_equal(embedding_find(&in, "<new1>")->vectors[0],
                        embedding_find(&beside, "<new1>")->vectors[0], 2 * width * sizeof(float));
}

/* All of every kind of layer, convolutions too, out and in again: what is saved is what was trained. */
static void test_full_file(void **state) {
    struct error e = {{0}};
    struct train_params p = runs_params("full");
    p.kind = TRAIN_FULL, p.targets = LORA_SELECT_ALL;
    struct trainer *t = trainer_create(runs_engine, &p, false, &e);
    bool finished;
    if (!t || !trainer_run(t, NULL, &finished, &e)) fail_msg("%s", e.text);
    struct adapter *trained = trainer_adapter(t), *read = adapter_open(runs_engine, &p.out, 1, &e);
    if (!read) fail_msg("%s", e.text);
    assert_int_equal(read->stack->n_layers, trained->stack->n_layers);
    int compared = 0;
    for (int i = 0; i < trained->stack->n_layers; i++) {
        const struct lora_stack_layer *l = &trained->stack->layers[i], *m = NULL;
        for (int k = 0; k < read->stack->n_layers && !m; k++)
            if (read->stack->layers[k].target == l->target) m = &read->stack->layers[k];
        assert_non_null(m);
        size_t n = (size_t)shape_elems(l->target->weight);
        float *a = arena_alloc_n(runs_arena, n, sizeof *a), *b = arena_alloc_n(runs_arena, n, sizeof *b), largest = 0;
        assert_true(gpu_set_read(trained->data, l->dense[0].weight, a, &e) &&
                    gpu_set_read(read->data, m->dense[0].weight, b, &e));
        for (size_t k = 0; k < n; k++) largest = fmaxf(largest, fabsf(a[k]));
        assert_true(largest > 0);
        if (gpu_device_storage(runs_engine->dev) == TENSOR_F32) assert_memory_equal(a, b, n * sizeof *a);
        compared += l->target->weight.n > 1;
    }
    assert_true(compared > 0);
    adapter_close(&read);
    trainer_destroy(&t);
    p.targets = LORA_SELECT_CROSS_KV, p.train_text_encoder = true;
    runs_refused(&p, "names no layer of a text encoder");
    p.train_text_encoder = false;
    p.lora_plus = 4;
    runs_refused(&p, "need --kind lora");
}

static void test_refusals(void **state) {
    static const struct { struct train_word word; const char *words; } bad[] = {
        {{"the", NULL, 1}, "already has this word"},
        {{"new one", NULL, 1}, "without spaces"},
        {{"<new1>", "zebrafish", 2}, "tokens to the model"},
        {{"<new1>", "the the the", 2}, "more words than the 2 vectors"},
        {{"<new1>", "", 2}, "names no word"},
        {{"<new9>", "the", 1}, "No caption has the new word <new9>"},
        {{"<new1>", "the", 65}, "--token-vectors"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct train_params p = word_params(arena_printf(runs_arena, "bad-%zu", i), TRAIN_NONE, &bad[i].word, 1);
        runs_refused(&p, bad[i].words);
    }
    const struct train_word twice[] = {{"<new1>", NULL, 1}, {"<new1>", NULL, 1}};
    struct train_params p = word_params("bad", TRAIN_NONE, twice, 2);
    runs_refused(&p, "given twice");
    p.n_words = 0;
    runs_refused(&p, "name one with --token");
    p.n_words = 1, p.train_text_encoder = true;
    runs_refused(&p, "leaves the text encoder as it is");
    p = runs_params("bad-rate");
    p.word_lr = 0.1f;
    runs_refused(&p, "name them with --token");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cpu_class),     cmocka_unit_test(test_gpu_class),
        cmocka_unit_test(test_gpu_class_f16), cmocka_unit_test(test_resume),
        cmocka_unit_test(test_start),         cmocka_unit_test(test_files),
        cmocka_unit_test(test_full_file),     cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, runs_setup, runs_teardown);
}
