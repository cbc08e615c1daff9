/* What prompts say, in each style, beside A1111's and compel's own answers. */
#include "tests/support/cm.h"
#include "tests/support/golden.h"

#include <math.h>
#include <string.h>

#include "base/arena.h"
#include "io/json.h"
#include "textenc/prompt.h"
#include "textenc/tokenizer.h"

/* ---- A1111's brackets: answers worked out by its grammar (formats.md c.3) ---- */

struct weighted {
    const char *text;
    struct prompt_run want[6];
    int n;
};
#define B {"BREAK", -1, true}

static const struct weighted brackets[] = {
    {"plain text, with commas", {{"plain text, with commas", 1}}, 1},
    {"", {{"", 1}}, 1},
    {"a (b) c", {{"a ", 1}, {"b", 1.1}, {" c", 1}}, 3},
    {"a [b] c", {{"a ", 1}, {"b", 1 / 1.1}, {" c", 1}}, 3},
    {"(b:1.3)", {{"b", 1.3}}, 1},
    {"(b : 1.3 )", {{"b ", 1.3}}, 1},
    {"((b))", {{"b", 1.1 * 1.1}}, 1},
    {"((b:2) c)", {{"b", 2 * 1.1}, {" c", 1.1}}, 2},
    {"(a (b:0.5):1.5)", {{"a ", 1.5}, {"b", 0.5 * 1.5}}, 2},
    {"[a:1.3]", {{"a:1.3", 1 / 1.1}}, 1},
    {"a:1.3", {{"a:1.3", 1}}, 1},
    {"a:1.3)", {{"a:1.3)", 1}}, 1},
    {"a) b]", {{"a) b]", 1}}, 1},
    {"(a", {{"a", 1.1}}, 1},
    {"[a (b", {{"a ", 1 / 1.1}, {"b", 1.1 * (1 / 1.1)}}, 2},
    {"\\(a\\) \\[b\\] \\\\", {{"(a) [b] \\", 1}}, 1},
    {"a\\b", {{"ab", 1}}, 1},
    {"(a:-0.5)", {{"a", -0.5}}, 1},
    {"(a:.5)(b:0.5)", {{"ab", 0.5}}, 1},
    {"(a:1.2.3)", {{"a:1.2.3", 1.1}}, 1},
    {"a BREAK b", {{"a", 1}, B, {"b", 1}}, 3},
    {"aBREAK BREAKS b", {{"aBREAK BREAKS b", 1}}, 1},
    {"a\nBREAK\tBREAK b", {{"a", 1}, B, {"", 1}, B, {"b", 1}}, 5},
    {"(a BREAK b:2)", {{"a", 2}, {"BREAK", -2}, {"b", 2}}, 3},
    {"a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
     {{"a ", 1}, {"house", 1.3 * 1.1 * 1.1}, {" ", 1.1}, {"on", (1 / 1.1) * 1.1}, {" a ", 1.1}, {"hill", 0.5 * 1.1}}, 9},
};

static void test_brackets(void **state) {
    struct arena *a = arena_create(NULL);
    for (size_t i = 0; i < sizeof brackets / sizeof *brackets; i++) {
        const struct weighted *w = &brackets[i];
        struct prompt_runs got = prompt_parse_a1111(a, w->text);
        if (got.n != w->n) fail_msg("\"%s\": %d runs instead of %d", w->text, got.n, w->n);
        for (int k = 0; k < got.n && k < 6; k++) {
            const struct prompt_run *g = &got.items[k], *r = &w->want[k];
            if (strcmp(g->text, r->text) || g->weight != r->weight || g->is_break != r->is_break)
                fail_msg("\"%s\": run %d is \"%s\" at %.17g, not \"%s\" at %.17g", w->text, k, g->text, g->weight, r->text,
                         r->weight);
        }
    }
    arena_destroy(&a);
}

/* Brackets by the ten thousand neither overflow a stack nor take long. */
static void test_hostile(void **state) {
    struct arena *a = arena_create(NULL);
    enum { N = 30000 };
    const char *const pieces[] = {"(", "[", "[a|", "[a:", "(a:", "\\(", ")", "BREAK ", "[a:b:0.5]", " AND "};
    for (size_t p = 0; p < sizeof pieces / sizeof *pieces; p++) {
        size_t bytes = strlen(pieces[p]);
        char *text = arena_alloc(a, N + bytes + 1);
        for (size_t i = 0; i < N; i += bytes) memcpy(text + i, pieces[p], bytes);
        struct prompt_stage *stages;
        struct prompt_term *terms;
        assert_true(prompt_parse_a1111(a, text).n >= 1);
        assert_true(prompt_schedule(a, text, 20, &stages) >= 1);
        assert_true(prompt_split_and(a, text, &terms) >= 1);
    }
    arena_destroy(&a);
}

/* ---- Schedules over 10 steps: the examples in A1111's prompt_parser.py and more ---- */

struct scheduled {
    const char *text;
    struct prompt_stage want[11];
    int n;
};
static const struct scheduled schedules[] = {
    {"test", {{10, "test"}}, 1},
    {"a [b:3]", {{3, "a "}, {10, "a b"}}, 2},
    {"a [b: 3]", {{3, "a "}, {10, "a b"}}, 2},
    {"a [[[b]]:2]", {{2, "a "}, {10, "a [[b]]"}}, 2},
    {"[(a:2):3]", {{3, ""}, {10, "(a:2)"}}, 2},
    {"a [b : c : 1] d", {{1, "a b  d"}, {10, "a  c  d"}}, 2},
    {"a[b:[c:d:2]:1]e", {{1, "abe"}, {2, "ace"}, {10, "ade"}}, 3},
    {"a [unbalanced", {{10, "a [unbalanced"}}, 1},
    {"a [b:.5] c", {{5, "a  c"}, {10, "a b c"}}, 2},
    {"((a][:b:c [d:3]", {{3, "((a][:b:c "}, {10, "((a][:b:c d"}}, 2},
    {"[a::0.35]b", {{3, "ab"}, {10, "b"}}, 2},
    {"[a:b:99]", {{10, "a"}}, 1},
    {"[a:b:0]", {{10, "b"}}, 1},
    {"[a:b:1.0]", {{10, "a"}}, 1},
    {"[a:1.3] (b:1.2) \\[c:3\\]", {{10, " (b:1.2) \\[c:3\\]"}}, 1},
    {"[a:b:c]", {{10, "[a:b:c]"}}, 1},
    {"a | b [c:3]", {{10, "a | b [c:3]"}}, 1},
    {"[fe|]male", {{1, "female"}, {2, "male"}, {3, "female"}, {4, "male"}, {5, "female"}, {6, "male"}, {7, "female"},
                   {8, "male"}, {9, "female"}, {10, "male"}}, 10},
    {"[a|(b:1.1)|[c:3]]", {{1, "a"}, {2, "(b:1.1)"}, {3, ""}, {4, "a"}, {5, "(b:1.1)"}, {6, "c"}, {7, "a"}, {8, "(b:1.1)"},
                           {9, "c"}, {10, "a"}}, 10},
};

static void test_schedules(void **state) {
    struct arena *a = arena_create(NULL);
    for (size_t i = 0; i < sizeof schedules / sizeof *schedules; i++) {
        const struct scheduled *w = &schedules[i];
        struct prompt_stage *got;
        int n = prompt_schedule(a, w->text, 10, &got);
        if (n != w->n) fail_msg("\"%s\": %d stages instead of %d", w->text, n, w->n);
        for (int k = 0; k < n; k++)
            if (got[k].last != w->want[k].last || strcmp(got[k].text, w->want[k].text))
                fail_msg("\"%s\": stage %d is \"%s\" to %d", w->text, k, got[k].text, got[k].last);
    }
    arena_destroy(&a);
}

static void test_and(void **state) {
    static const struct {
        const char *text;
        struct prompt_term want[3];
        int n;
    } cases[] = {
        {"a cat", {{"a cat", 1}}, 1},
        {"a cat AND a dog :0.5", {{"a cat", 1}, {" a dog", 0.5}}, 2},
        {"x:1.5 AND y : -2 AND z", {{"x", 1.5}, {" y", -2}, {" z", 1}}, 3},
        {"BRAND ANDY", {{"BRAND ANDY", 1}}, 1},
        {"(a:1.2)", {{"(a:1.2)", 1}}, 1},
        {"a 2", {{"a 2", 1}}, 1},
    };
    struct arena *a = arena_create(NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct prompt_term *got;
        int n = prompt_split_and(a, cases[i].text, &got);
        if (n != cases[i].n) fail_msg("\"%s\": %d terms", cases[i].text, n);
        for (int k = 0; k < n; k++)
            if (strcmp(got[k].text, cases[i].want[k].text) || got[k].weight != cases[i].want[k].weight)
                fail_msg("\"%s\": term %d is \"%s\" at %g", cases[i].text, k, got[k].text, got[k].weight);
    }
    arena_destroy(&a);
}

static void test_hint(void **state) {
    assert_true(prompt_looks_a1111("a (cat:1.2)") && prompt_looks_a1111("a BREAK b"));
    assert_false(prompt_looks_a1111("a cat (the black one)") || prompt_looks_a1111("at 10:30, (noon)") ||
                 prompt_looks_a1111("x:1)"));
}

/* ---- compel: tests/data/prompts.json, made by tests/reference/make_prompts.py ---- */

static void check_runs(const char *text, const struct prompt_runs *got, const json_t *want) {
    if ((size_t)got->n != json_array_size(want))
        fail_msg("\"%s\": %d runs instead of %zu", text, got->n, json_array_size(want));
    for (int i = 0; i < got->n; i++) {
        const char *words = json_string_value(json_array_get(json_array_get(want, (size_t)i), 0));
        double weight = json_number_value(json_array_get(json_array_get(want, (size_t)i), 1));
        if (strcmp(got->items[i].text, words) || fabs(got->items[i].weight - weight) > 1e-15 * fabs(weight))
            fail_msg("\"%s\": run %d is \"%s\" at %.17g, not \"%s\" at %.17g", text, i, got->items[i].text,
                     got->items[i].weight, words, weight);
    }
}

static void check_compel(struct arena *a, const char *text, const json_t *parts) {
    struct error e;
    struct prompt got;
    if (!prompt_parse(a, PROMPT_COMPEL, text, &got, &e)) fail_msg("%s", e.text);
    if ((size_t)got.n_parts != json_array_size(parts)) fail_msg("\"%s\": %d parts", text, got.n_parts);
    for (int i = 0; i < got.n_parts; i++) {
        const json_t *part = json_array_get(parts, (size_t)i), *texts = json_object_get(part, "texts");
        assert_true(got.parts[i].weight == json_number_value(json_object_get(part, "weight")));
        assert_int_equal(got.parts[i].n_texts, json_array_size(texts));
        for (int k = 0; k < got.parts[i].n_texts; k++) {
            const json_t *t = json_array_get(texts, (size_t)k);
            assert_true(fabs(got.parts[i].texts[k].weight - json_number_value(json_object_get(t, "weight"))) < 1e-15);
            check_runs(text, &got.parts[i].texts[k].runs, json_object_get(t, "runs"));
        }
    }
}

static void test_compel(void **state) {
    struct arena *a = arena_create(NULL);
    struct error e;
    json_t *file = json_file_load(golden_path(a, "prompts.json"), 0, &e), *all = json_object_get(file, "compel");
    if (!file) fail_msg("%s", e.text);
    assert_true(json_array_size(all) > 20);
    for (size_t i = 0; i < json_array_size(all); i++)
        check_compel(a, json_string_value(json_object_get(json_array_get(all, i), "text")),
                     json_object_get(json_array_get(all, i), "parts"));
    json_decref(file);
    arena_destroy(&a);
}

static void test_compel_refuses(void **state) {
    static const char *const texts[] = {"a cat.swap(dog)", "withLora(x) fox", "(\"a\", \"b\").and(1)",
                                        "(\"a\", \"b\").blend(1, -1)", "(\"a\", \"b\").blend(1, 1) more"};
    struct arena *a = arena_create(NULL);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct error e = {{0}};
        struct prompt p;
        if (prompt_parse(a, PROMPT_COMPEL, texts[i], &p, &e)) fail_msg("\"%s\" was taken", texts[i]);
        assert_true(strlen(e.text) > 20);
    }
    arena_destroy(&a);
}

/* ---- Windows ---- */

static struct tokenizer *mini_tokenizer(struct arena *a) {
    struct error e;
    struct tokenizer *t = tokenizer_load(golden_path(a, "mini-sd2/tokenizer"), &e);
    if (!t) fail_msg("%s", e.text);
    return t;
}

static char *repeat(struct arena *a, const char *word, int n) {
    char *out = arena_alloc(a, (size_t)n * strlen(word) + 1);
    for (int i = 0; i < n; i++) memcpy(out + (size_t)i * strlen(word), word, strlen(word));
    return out;
}

static struct prompt_chunks chunks_of(struct arena *a, const struct tokenizer *t, const char *text, int backtrack) {
    struct prompt_runs runs = prompt_parse_a1111(a, text);
    struct prompt_chunk_params p = {.tokenizer = t, .split = true, .comma_backtrack = backtrack};
    struct prompt_chunks out;
    prompt_chunk(a, &runs, &p, &out);
    return out;
}

/* Text tokens in a window. */
static int filled(const struct prompt_chunk *c) {
    int n = 0;
    for (int i = 0; i < 77; i++) n += c->runs[i] >= 0;
    return n;
}

static void test_windows(void **state) {
    struct arena *a = arena_create(NULL);
    struct tokenizer *t = mini_tokenizer(a);
    int32_t id;
    assert_int_equal(tokenizer_encode(t, "!", &id, 1), 1); /* one token a sign */
    struct prompt_chunks c = chunks_of(a, t, repeat(a, "! ", 75), 0);
    assert_int_equal(c.n, 1);
    assert_true(c.items[0].ids[0] == tokenizer_bos(t) && c.items[0].ids[76] == tokenizer_eos(t) && !c.items[0].weighted);
    c = chunks_of(a, t, repeat(a, "! ", 76), 0);
    assert_true(c.n == 2 && filled(&c.items[1]) == 1 && c.items[1].ids[2] == tokenizer_eos(t) &&
                c.items[1].ids[3] == tokenizer_pad(t));
    /* The comma is token 70 of 75: what follows it moves along. At most 20 tokens do, and never with -1. */
    const char *text = arena_printf(a, "%s, %s", repeat(a, "! ", 70), repeat(a, "! ", 10));
    c = chunks_of(a, t, text, 0);
    assert_true(c.n == 2 && filled(&c.items[0]) == 71 && filled(&c.items[1]) == 10);
    c = chunks_of(a, t, text, 4);
    assert_true(c.n == 2 && filled(&c.items[0]) == 75 && filled(&c.items[1]) == 6);
    c = chunks_of(a, t, text, -1);
    assert_true(filled(&c.items[0]) == 75);
    c = chunks_of(a, t, arena_printf(a, "%s, %s", repeat(a, "! ", 54), repeat(a, "! ", 40)), 0);
    assert_int_equal(filled(&c.items[0]), 75);
    c = chunks_of(a, t, arena_printf(a, "%s, %s", repeat(a, "! ", 55), repeat(a, "! ", 40)), 0);
    assert_int_equal(filled(&c.items[0]), 56);
    c = chunks_of(a, t, "! BREAK (! ! !:1.5)", 0);
    assert_true(c.n == 2 && filled(&c.items[0]) == 1 && filled(&c.items[1]) == 3);
    assert_true(!c.items[0].weighted && c.items[1].weighted && c.items[1].weights[3] == 1.5f && c.items[1].weights[4] == 1);
    tokenizer_destroy(&t);
    arena_destroy(&a);
}

/* A learnt word's name is matched on token ids, the longest first; its vectors stay together. */
static void test_words(void **state) {
    struct arena *a = arena_create(NULL);
    struct tokenizer *t = mini_tokenizer(a);
    struct prompt_word words[] = {{"fox", 2}, {"fox fox", 3}};
    struct prompt_chunk_params p = {.tokenizer = t, .split = true, .words = words, .n_words = 2};
    struct prompt_runs runs = prompt_parse_a1111(a, "a fox fox fox");
    struct prompt_chunks c;
    prompt_chunk(a, &runs, &p, &c);
    assert_true(c.n == 1 && c.items[0].n_splices == 5 && filled(&c.items[0]) == 6);
    assert_true(c.items[0].splices[0].word == 1 && c.items[0].splices[3].word == 0 && c.items[0].splices[4].vector == 1);
    runs = prompt_parse_a1111(a, arena_printf(a, "%s fox fox", repeat(a, "! ", 74)));
    prompt_chunk(a, &runs, &p, &c);
    assert_true(c.n == 2 && filled(&c.items[0]) == 74 && c.items[1].n_splices == 3 && c.items[1].splices[0].at == 1);
    tokenizer_destroy(&t);
    arena_destroy(&a);
}

static void test_one_window(void **state) {
    struct arena *a = arena_create(NULL);
    struct tokenizer *t = mini_tokenizer(a);
    struct prompt_chunk_params p = {.tokenizer = t};
    struct error e;
    struct prompt parsed;
    assert_true(prompt_parse(a, PROMPT_DIFFUSERS, arena_printf(a, "(x:1.2), %s fox", repeat(a, "! ", 80)), &parsed, &e));
    struct prompt_chunks c;
    prompt_chunk(a, &parsed.parts[0].texts[0].runs, &p, &c);
    assert_true(c.n == 1 && filled(&c.items[0]) == 75 && !c.items[0].weighted && c.n_dropped == c.n_tokens - 75);
    size_t n = strlen(c.dropped);
    assert_string_equal(c.dropped + n - 3, "fox");
    /* A comma near the end moves nothing: what it would move would be lost. */
    const char *text = arena_printf(a, "%s, %s", repeat(a, "! ", 70), repeat(a, "! ", 10));
    assert_true(prompt_parse(a, PROMPT_DIFFUSERS, text, &parsed, &e));
    prompt_chunk(a, &parsed.parts[0].texts[0].runs, &p, &c);
    assert_true(c.n == 1 && filled(&c.items[0]) == 75 && c.n_dropped == 6);
    tokenizer_destroy(&t);
    arena_destroy(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_brackets),       cmocka_unit_test(test_hostile), cmocka_unit_test(test_schedules),
        cmocka_unit_test(test_and),            cmocka_unit_test(test_hint),    cmocka_unit_test(test_compel),
        cmocka_unit_test(test_compel_refuses), cmocka_unit_test(test_windows), cmocka_unit_test(test_words),
        cmocka_unit_test(test_one_window),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
