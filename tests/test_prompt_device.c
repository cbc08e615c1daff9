/* Contexts of prompts with weights and of long ones, on the device, beside compel's and A1111's
 * (tests/reference/make_prompts.py). */
#include "tests/support/cm.h"
#include "tests/support/golden.h"
#include "tests/support/session.h"

#include <string.h>

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
    prompter_destroy(&p);
    session_close(&e);
    arena_destroy(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a1111),     cmocka_unit_test(test_learnt_words), cmocka_unit_test(test_compel),
        cmocka_unit_test(test_clip_skip), cmocka_unit_test(test_padding),      cmocka_unit_test(test_guide),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
