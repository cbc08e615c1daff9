/* Contexts of prompts with weights and of long ones, on the device, beside compel's and A1111's
 * (tests/reference/make_prompts.py). */
#include "tests/support/cm.h"
#include "tests/support/golden.h"
#include "tests/support/session.h"

#include <math.h>
#include <string.h>

#include "engine/adapter.h"
#include "engine/guide.h"

/* The golden's learnt word, if `what` is about it. */
static struct embedding_list words_of(struct arena *a, const struct st_file *golden, const struct model *m, const char *what) {
    struct embedding_list list = {.arena = a, .items = arena_alloc(a, sizeof *list.items)};
    if (strcmp(what, "word")) return list;
    list.n = list.cap = 1;
    list.items[0] = (struct embedding){.word = "<ink>", .n = 2};
    for (int t = 0; t < m->n_texts; t++)
        list.items[0].vectors[t] = golden_weight(golden, arena_printf(a, "word.vectors.%d", t), a, NULL);
    return list;
}

/* `what` picks the tensors "what.N"; skip.N sets the clip skip, counted from the layers that are there. */
static int compare(const char *mini, const char *what, enum prompt_style style, double tolerance) {
    struct arena *a = arena_create(NULL);
    struct error err;
    struct engine *e = session_open(mini, session_default());
    struct st_file *golden = golden_open(arena_printf(a, "%s.prompts", mini));
    bool skips = !strcmp(what, "skip");
    int n = 0, own = e->model->family == NN_FAMILY_SD2 ? 2 : 1;
    struct embedding_list words = words_of(a, golden, e->model, what);
    struct prompter_params params = {.style = style, .words = &words};
    struct prompter *p = skips ? NULL : prompter_create(e, &params, &err);
    for (int i = skips;; i++, n++) {
        const char *name = arena_printf(a, "%s.%d", what, i);
        if (!st_find(golden, name)) break;
        struct shape s;
        float *want = golden_rows(golden, name, a, &s);
        if (skips) {
            params.clip_skip = i - 1 + own;
            prompter_destroy(&p);
            if (!(p = prompter_create(e, &params, &err))) fail_msg("%s", err.text);
        }
        struct prompt_context got;
        const char *text = golden_text(golden, name);
        if (!prompter_encode(p, &text, 1, NULL, a, &got, &err)) fail_msg("%s: %s", text, err.text);
        if ((int64_t)got.tokens * model_context_dim(e->model) != shape_elems(s)) fail_msg("%s: %d tokens", text, got.tokens);
        double off = golden_range_error(got.rows, want, (size_t)shape_elems(s));
        if (!(off <= tolerance)) fail_msg("%s %s \"%s\" is off by %.2g of the range", mini, name, text, off);
    }
    prompter_destroy(&p);
    st_close(&golden);
    session_close(&e);
    arena_destroy(&a);
    return n;
}

static void test_a1111(void **state) {
    assert_int_equal(compare("mini-sd1", "a1111", PROMPT_A1111, 1e-5), 7);
    assert_int_equal(compare("mini-sd2", "a1111", PROMPT_A1111, 1e-5), 7);
    assert_int_equal(compare("mini-sdxl", "a1111", PROMPT_A1111, 1e-5), 7);
}

static void test_learnt_words(void **state) {
    static const char *const minis[] = {"mini-sd1", "mini-sd2", "mini-sdxl"};
    for (int i = 0; i < 3; i++) assert_int_equal(compare(minis[i], "word", PROMPT_A1111, 1e-5), 1);
}

static void test_compel(void **state) { assert_true(compare("mini-sd1", "compel", PROMPT_COMPEL, 1e-5) > 20); }

static void test_clip_skip(void **state) {
    assert_int_equal(compare("mini-sd1", "skip", PROMPT_A1111, 1e-5), 2);
    assert_int_equal(compare("mini-sd2", "skip", PROMPT_A1111, 1e-5), 3);
    struct error err;
    struct engine *e = session_open("mini-sd1", session_default());
    struct prompter_params params = {.clip_skip = 3};
    assert_null(prompter_create(e, &params, &err));
    assert_non_null(strstr(err.text, "--clip-skip 3"));
    session_close(&e);
}

/* Prompts of different length come out alike: the shorter one is filled up with the empty prompt. */
static void test_padding(void **state) {
    struct arena *a = arena_create(NULL);
    struct error err;
    struct engine *e = session_open("mini-sd2", session_default());
    struct prompter_params params = {.style = PROMPT_A1111};
    struct prompter *p = prompter_create(e, &params, &err);
    const char *texts[] = {"rain", "fox BREAK cat BREAK dog", ""};
    struct prompt_context c[3], alone;
    if (!prompter_encode(p, texts, 3, NULL, a, c, &err)) fail_msg("%s", err.text);
    assert_true(c[0].tokens == 231 && c[1].tokens == 231 && c[2].tokens == 231);
    size_t window = 77 * (size_t)model_context_dim(e->model);
    assert_memory_equal(c[0].rows + window, c[2].rows, window * sizeof(float));
    assert_memory_equal(c[0].rows + 2 * window, c[2].rows, window * sizeof(float));
    if (!prompter_encode(p, texts, 1, NULL, a, &alone, &err)) fail_msg("%s", err.text);
    assert_true(alone.tokens == 77);
    assert_memory_equal(alone.rows, c[0].rows, window * sizeof(float));
    prompter_destroy(&p);
    session_close(&e);
    arena_destroy(&a);
}

/* The text of each step, and how AND adds up: u + cfg * sum of w (c - u). */
static void test_guide(void **state) {
    struct arena *a = arena_create(NULL);
    struct error err;
    struct engine *e = session_open("mini-sd2", session_default());
    struct prompter_params params = {.style = PROMPT_A1111};
    struct prompter *p = prompter_create(e, &params, &err);
    struct guide_params gp = {.prompt = "a [cat:dog:2] AND rain:0.5", .negative = "blue", .style = PROMPT_A1111, .n_steps = 4,
                              .cfg = 3, .guided = true};
    struct guide g;
    if (!guide_create(p, &gp, a, &g, &err)) fail_msg("%s", err.text);
    assert_true(g.images == 3 && g.tokens == 77 && g.n_contexts == 4);
    assert_true(guide_changes_context(&g, -1, 0) && !guide_changes_context(&g, 0, 1) && guide_changes_context(&g, 1, 2));
    float answers[] = {1, 2, 5, 2, 3, 7}, scratch[2], out[2]; /* u = 1,2; c = 5,2; c' = 3,7 */
    guide_combine(&g, answers, 2, scratch, out);
    assert_true(out[0] == 1 + 3 * (4 + 0.5f * 2) && out[1] == 2 + 3 * (0 + 0.5f * 5));
    /* Rescaled to the spread of goal, 6 and 4.5: |6 - 4.5| beside |out's| 16 - 9.5; then 0.75 of it and 0.25 as it was. */
    g.params.rescale = 0.75f;
    guide_combine(&g, answers, 2, scratch, out);
    assert_float_equal(out[0], 16 * (0.75 * 1.5 / 6.5 + 0.25), 1e-5);
    assert_float_equal(out[1], 9.5 * (0.75 * 1.5 / 6.5 + 0.25), 1e-5);
    /* A weight that is not 1 needs the negative prompt without guidance, too: u + 0.5 (c - u). */
    gp = (struct guide_params){.prompt = "rain:0.5", .negative = "blue", .style = PROMPT_A1111, .n_steps = 4, .cfg = 1};
    if (!guide_create(p, &gp, a, &g, &err)) fail_msg("%s", err.text);
    assert_int_equal(g.images, 2);
    guide_combine(&g, answers, 2, scratch, out);
    assert_true(out[0] == 3 && out[1] == 2);
    prompter_destroy(&p);
    session_close(&e);
    arena_destroy(&a);
}

/* LoRAs of strength 0 take no turn. */
static void test_turns(void **state) {
    static const float strength[] = {0.7f, 0, 0.5f};
    struct arena *a = arena_create(NULL);
    struct error err;
    struct engine *e = session_open("mini-sd1", session_default());
    struct prompter *p = prompter_create(e, &(struct prompter_params){0}, &err);
    struct guide_params gp = {.prompt = "fox", .n_steps = 5, .cfg = 3, .guided = true, .n_adapters = 3, .strength = strength,
                              .compose = GUIDE_SWITCH, .every = 2};
    struct guide g;
    if (!guide_create(p, &gp, a, &g, &err)) fail_msg("%s", err.text);
    assert_int_equal(g.images, 2);
    for (int s = 0; s < 5; s++) {
        const float want[] = {s / 2 == 1 ? 0 : 0.7f, 0, s / 2 == 1 ? 0.5f : 0};
        for (int i = 0; i < 2; i++) assert_memory_equal(guide_strengths(&g, s) + 3 * i, want, sizeof want);
    }
    gp.compose = GUIDE_COMPOSITE;
    if (!guide_create(p, &gp, a, &g, &err)) fail_msg("%s", err.text);
    assert_int_equal(g.images, 4);
    prompter_destroy(&p);
    session_close(&e);
    arena_destroy(&a);
}

static bool all_zero(const float *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (x[i] != 0) return false;
    return true;
}

/* SDXL: an empty negative prompt is none with A1111, which means zeros, and a text of its own with diffusers. With regions the
 * pooled text stays the prompt's. */
static void test_sdxl(void **state) {
    static const float everywhere[] = {1};
    struct arena *a = arena_create(NULL);
    struct error err;
    struct engine *e = session_open("mini-sdxl", session_default());
    for (enum prompt_style style = PROMPT_DIFFUSERS; style <= PROMPT_A1111; style++) {
        struct prompter *p = prompter_create(e, &(struct prompter_params){.style = style}, &err);
        struct guide_region region = {"rain", NULL, everywhere, 1, 1};
        struct guide_params gp = {.prompt = "fox", .negative = "", .style = style, .n_steps = 1, .cfg = 3, .guided = true,
                                  .regions = &region, .n_regions = 1, .w = 8, .h = 8};
        struct guide g;
        if (!guide_create(p, &gp, a, &g, &err)) fail_msg("%s", err.text);
        assert_true(g.images == 2 && g.parts == 2);
        size_t n = (size_t)g.tokens * (size_t)model_context_dim(e->model), n_pooled = (size_t)model_pooled_dim(e->model);
        float *context = arena_alloc_n(a, 2 * n, sizeof *context), *pooled = arena_alloc_n(a, 2 * n_pooled, sizeof *pooled);
        float *own = arena_alloc_n(a, 2 * n_pooled, sizeof *own);
        guide_fill(&g, e->model, 0, 0, context, pooled);
        assert_true(all_zero(context, n) == (style == PROMPT_A1111) && all_zero(pooled, n_pooled) == (style == PROMPT_A1111));
        assert_false(all_zero(context + n, n) || all_zero(pooled + n_pooled, n_pooled));
        memcpy(own, pooled, 2 * n_pooled * sizeof *own);
        guide_fill(&g, e->model, 0, 1, context, pooled);
        assert_memory_equal(pooled, own, 2 * n_pooled * sizeof *own);
        prompter_destroy(&p);
    }
    session_close(&e);
    arena_destroy(&a);
}

/* The text encoders run once, with a LoRA's strength of the first step in which it is on: from the middle on is as much as
 * all the way, and never is not at all. */
static void test_late_lora(void **state) {
    static const struct guide_course courses[] = {{1, 1, 0, 1}, {1, 1, 0.5f, 1}, {0, 0, 0, 1}};
    static const float strength[] = {0.8f};
    struct arena *a = arena_create(NULL);
    struct error err;
    struct engine *e = session_open("mini-sd1", session_default());
    const char *path = golden_path(a, "mini-sd1.lora-te.safetensors");
    struct adapter *ad = adapter_open(e, &path, 1, &err);
    if (!ad) fail_msg("%s", err.text);
    struct prompter *p = prompter_create(e, &(struct prompter_params){.adapter = ad}, &err);
    size_t n = 77 * (size_t)model_context_dim(e->model);
    float *rows[3];
    for (int k = 0; k < 3; k++) {
        struct guide_params gp = {.prompt = "fox", .n_steps = 4, .cfg = 1, .n_adapters = 1, .strength = strength,
                                  .courses = &courses[k]};
        struct guide g;
        if (!guide_create(p, &gp, a, &g, &err)) fail_msg("%s", err.text);
        assert_true(g.n_contexts == 1 && g.tokens == 77);
        rows[k] = memcpy(arena_alloc_n(a, n, sizeof(float)), g.contexts[0].rows, n * sizeof(float));
    }
    assert_memory_equal(rows[1], rows[0], n * sizeof(float));
    assert_memory_not_equal(rows[2], rows[0], n * sizeof(float));
    prompter_destroy(&p);
    adapter_close(&ad);
    session_close(&e);
    arena_destroy(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a1111),     cmocka_unit_test(test_learnt_words), cmocka_unit_test(test_compel),
        cmocka_unit_test(test_clip_skip), cmocka_unit_test(test_padding),      cmocka_unit_test(test_guide),
        cmocka_unit_test(test_turns),     cmocka_unit_test(test_sdxl),         cmocka_unit_test(test_late_lora),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
