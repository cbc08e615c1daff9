/* kv-closed-form: the solution beside numpy's on random matrices, and a merge of two small runs on a miniature. */
#include "tests/support/cm.h"
#include "tests/support/golden.h"
#include "tests/support/scratch.h"
#include "tests/support/session.h"
#include "tests/support/train_runs.h"

#include <math.h>
#include <string.h>

#include "base/os.h"
#include "engine/prompt.h"
#include "io/png.h"
#include "lora/closed_form.h"
#include "lora/delta.h"
#include "train/concept.h"
#include "train/merger.h"

static double *doubles(struct arena *a, const float *x, size_t n) {
    double *d = arena_alloc_n(a, n, sizeof *d);
    for (size_t i = 0; i < n; i++) d[i] = (double)x[i];
    return d;
}

static double *gram_of(struct arena *a, const float *rows, size_t n, size_t width) {
    double *gram = arena_alloc_n(a, width, width * sizeof *gram);
    for (size_t r = 0; r < n; r++)
        for (size_t i = 0; i < width; i++)
            for (size_t k = 0; k < width; k++) gram[i * width + k] += (double)rows[r * width + i] * (double)rows[r * width + k];
    return gram;
}

static void test_random(void **state) {
    struct arena *a = arena_create(NULL);
    struct error e = {{0}};
    struct st_file *g = golden_open("closed_form");
    struct shape c, r, s;
    const float *features = golden_weight(g, "features", a, &c), *regular = golden_weight(g, "regular", a, &r);
    const float *owners = golden_rows(g, "files", a, NULL), *want = golden_weight(g, "solved", a, &s);
    size_t width = (size_t)c.c, out = (size_t)s.w;
    int files[16];
    for (int i = 0; i < c.w; i++) files[i] = (int)owners[i];
    struct lora_closed_form f = {.n = c.w, .width = c.c, .files = files, .features = doubles(a, features, (size_t)c.w * width)};
    if (!lora_closed_form_solve(&f, gram_of(a, regular, (size_t)r.w, width), a, &e)) fail_msg("%s", e.text);
    float *got = arena_alloc_n(a, out, width * sizeof *got);
    for (int k = 0; k < 3; k++) {
        float *change = golden_weight(g, arena_printf(a, "change.%d", k), a, NULL);
        lora_closed_form_apply(&f, k, change, out);
        for (size_t i = 0; i < out * width; i++) got[i] += change[i];
    }
    golden_near_peak("closed form", got, want, out * width, 1e-5);
    /* Two captions that ask for the same. */
    memcpy((double *)f.features + width, f.features, width * sizeof(double));
    assert_false(lora_closed_form_solve(&f, gram_of(a, regular, (size_t)r.w, width), a, &e));
    assert_non_null(strstr(e.text, "own words alone"));
    st_close(&g);
    arena_destroy(&a);
}

/* ---- Two runs ---- */

static const char *picture(void) {
    struct error e = {{0}};
    const char *folder = runs_path("bare");
    if (os_path_is_dir(folder)) return folder;
    struct image im = image_create(runs_arena, RUNS_SIDE, RUNS_SIDE);
    for (int i = 0; i < RUNS_SIDE * RUNS_SIDE * 3; i++) im.rgb[i] = (uint8_t)(i * 7 / 5);
    assert_true(os_dir_make(folder, &e) && png_write(arena_printf(runs_arena, "%s/0.png", folder), &im, NULL, 0, &e));
    return folder;
}

static const char *trained(const char *folder, const char *word, enum lora_selection targets) {
    const struct train_word words[] = {{word, "the", 1}};
    struct train_params p = runs_params(folder);
    p.kind = TRAIN_FULL, p.targets = targets, p.words = words, p.n_words = 1;
    p.data = picture(), p.caption = arena_printf(runs_arena, "%s fox", word), p.seed = (uint64_t)word[4];
    runs_well(&p);
    return p.out;
}

static struct train_merge_params merge_params(const char *const *files, const char *const *prompts) {
    static const float weights[] = {1, 0.5f};
    struct error e = {{0}};
    struct train_merge_params p = train_merge_params_default();
    static const char captions[] = "a photo of a red fox\r\n\nthe blue house on a table\na drawing of an "
                                   "orange cat\nHello, World 2024\n";
    p.method = train_merger_find("kv-closed-form");
    assert_non_null(p.method);
    p.e = runs_engine, p.loras = files, p.weights = weights, p.n = 2, p.prompts = prompts, p.dtype = ST_F32;
    p.captions = runs_path("captions.txt"), p.out = runs_path("merged.safetensors");
    assert_true(os_file_write_atomic(p.captions, captions, strlen(captions), &e));
    return p;
}

/* The change of the first layer, [out][in], times its weight. */
static const float *change_of(const struct lora_file *f, const char *path, float weight, size_t *out, size_t *in) {
    struct error e = {{0}};
    for (int i = 0; i < f->n_modules; i++) {
        const struct lora_module *m = &f->modules[i];
        if (strcmp(m->target->path, path)) continue;
        *out = (size_t)m->target->weight.w, *in = (size_t)m->target->weight.c;
        float *d = arena_alloc_n(runs_arena, *out, *in * sizeof *d);
        if (!lora_module_delta(m, runs_engine->model->unet_params, d, NULL, &e)) fail_msg("%s", e.text);
        for (size_t k = 0; k < *out * *in; k++) d[k] *= weight;
        return d;
    }
    fail_msg("no layer %s", path);
    return NULL;
}

/* What the merged layer answers to a file's own words is what that file's layer answers. */
static void test_merge(void **state) {
    struct error e = {{0}};
    const char *files[] = {trained("one", "<new1>", LORA_SELECT_CROSS_KV), trained("two", "<new2>", LORA_SELECT_CROSS_KV)};
    const char *prompts[] = {"the <new1> fox", "the <new2> cat"};
    struct train_merge_params p = merge_params(files, prompts);
    struct lora_merge_result r;
    if (!train_merge(&p, &r, &e)) fail_msg("%s", e.text);
    assert_true(r.n_layers > 0 && r.n_shared == r.n_layers);
    struct lora_model layers = adapter_lora_model(runs_engine->model);
    struct lora_keys *keys = lora_keys_create(&layers);
    struct lora_file *merged = lora_file_open(p.out, keys, &e), *own[2];
    if (!merged) fail_msg("%s", e.text);
    struct embedding_list words = {.arena = runs_arena};
    assert_true(adapter_words_load(runs_engine->model, &merged, 1, &words, &e));
    assert_int_equal(words.n, 2);
    struct prompter_params pp = {.words = &words};
    struct prompter *prompter = prompter_create(runs_engine, &pp, &e);
    struct prompt_context contexts[2];
    assert_true(prompter_encode(prompter, prompts, 2, NULL, runs_arena, contexts, &e));
    for (int k = 0; k < 2; k++) {
        own[k] = lora_file_open(files[k], keys, &e);
        assert_non_null(own[k]);
        size_t out, in;
        const char *path = own[k]->modules[0].target->path;
        const float *want = change_of(own[k], path, p.weights[k], &out, &in), *got = change_of(merged, path, 1, &out, &in);
        float *answers = arena_alloc_n(runs_arena, 2, out * sizeof *answers);
        for (int t = 2; t < 4; t++) { /* the new word and the one behind it; "the" comes first in both */
            const float *c = contexts[k].rows + (size_t)t * in;
            for (size_t o = 0; o < out; o++)
                for (size_t i = 0; i < in; i++)
                    answers[o] += want[o * in + i] * c[i], answers[out + o] += got[o * in + i] * c[i];
            golden_near_peak(path, answers + out, answers, out, 1e-3);
            memset(answers, 0, 2 * out * sizeof *answers);
        }
        lora_file_close(&own[k]);
    }
    prompter_destroy(&prompter);
    lora_file_close(&merged);
    lora_keys_destroy(&keys);
}

/* Methods that look at what LoRAs show read their files' own words, too. */
static void test_concepts(void **state) {
    struct error e = {{0}};
    struct concept plain, own;
    struct lora_model layers = adapter_lora_model(runs_engine->model);
    struct lora_keys *keys = lora_keys_create(&layers);
    struct lora_file *file = lora_file_open(runs_path("one/lora.safetensors"), keys, &e);
    struct embedding_list words = {.arena = runs_arena};
    if (!file || !adapter_words_load(runs_engine->model, &file, 1, &words, &e)) fail_msg("%s", e.text);
    struct concept_params p = {.prompt = "the <new1> fox", .n_drawn = 1, .steps = 1, .cfg = 1, .side = RUNS_SIDE};
    assert_true(concept_show(runs_engine, &p, runs_arena, &plain, &e));
    p.words = &words;
    assert_true(concept_show(runs_engine, &p, runs_arena, &own, &e));
    struct prompter_params pp = {.words = &words};
    struct prompter *prompter = prompter_create(runs_engine, &pp, &e);
    struct prompt_context context;
    assert_true(prompter_encode(prompter, &p.prompt, 1, NULL, runs_arena, &context, &e));
    size_t bytes = (size_t)model_window(runs_engine->model) * (size_t)model_context_dim(runs_engine->model) * sizeof(float);
    assert_memory_equal(own.contexts, context.rows, bytes);
    assert_memory_not_equal(own.contexts, plain.contexts, bytes);
    assert_memory_not_equal(own.latents, plain.latents, own.n_latent * sizeof(float));
    prompter_destroy(&prompter);
    lora_file_close(&file);
    lora_keys_destroy(&keys);
}

static void refused(struct train_merge_params *p, const char *words) {
    struct lora_merge_result r;
    struct error e = {{0}};
    p->out = runs_path("never.safetensors");
    assert_false(train_merge(p, &r, &e));
    print_message("%s\n", e.text);
    if (!strstr(e.text, words)) fail_msg("the message lacks \"%s\"", words);
    assert_false(os_path_exists(p->out));
}

static void test_refusals(void **state) {
    struct error e = {{0}};
    const char *one = runs_path("one/lora.safetensors"), *same = trained("same", "<new1>", LORA_SELECT_CROSS_KV);
    const char *more = trained("more", "<new3>", LORA_SELECT_ATTN), *two = runs_path("two/lora.safetensors");
    const char *prompts[] = {"<new1> fox", "<new2> cat"}, *alike[] = {"the fox", "the fox"};
    struct train_merge_params p = merge_params((const char *const[]){one, same}, prompts);
    refused(&p, "both carry the word <new1>");
    p = merge_params((const char *const[]){one, more}, prompts);
    refused(&p, "keys and values of cross-attention alone");
    p = merge_params((const char *const[]){one, two}, alike);
    refused(&p, "has nothing that another LoRA's prompt does not have");
    p = merge_params((const char *const[]){one, two}, NULL);
    refused(&p, "a --prompt for every --lora");
    p = merge_params((const char *const[]){one, two}, prompts);
    p.captions = NULL;
    refused(&p, "--captions FILE");
    p.captions = runs_path("nothing.txt");
    refused(&p, "no file of captions");
    assert_true(os_file_write_atomic(p.captions, "\n\n", 2, &e));
    refused(&p, "holds no caption");
    assert_true(os_file_write_atomic(p.captions, "ok\n\xff\n", 5, &e));
    refused(&p, "line 2 is no caption");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random), cmocka_unit_test(test_merge),
                                       cmocka_unit_test(test_concepts), cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, runs_setup, runs_teardown);
}
