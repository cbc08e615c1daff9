#include "tests/support/cm.h"
#include "tests/support/scratch.h"

#include "base/arena.h"
#include "base/os.h"
#include "io/jsonl.h"
#include "io/recipe.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct arena *a;

static int setup(void **s) {
    a = arena_create(NULL);
    return 0;
}

static int teardown(void **s) {
    arena_destroy(&a);
    return 0;
}

static void full_recipe_round_trips(void **s) {
    struct recipe_lora loras[] = {{"ink", 0.8, "0123456789ab"}, {"out-line v2", -1, NULL}};
    struct recipe_field extra[] = {{"Clip skip", "2"}, {"Note", "a, \"b\": c\\d\nnext"}};
    struct recipe in = {
        .prompt = "a fox,\nin the (snow:1.2)", .negative = "blurry, bad\nworse", .loras = loras, .n_loras = 2, .steps = 20,
        .w = 128, .h = 192, .has_cfg = true, .cfg = 7.5, .has_seed = true, .seed = UINT64_MAX, .sampler = "DPM++ 2M",
        .schedule = "Karras", .model = "demo", .model_hash = "abcdef0123", .version = "atelier 1.0", .extra = extra,
        .n_extra = 2};
    char *text = recipe_format(a, &in);
    assert_string_equal(text, "a fox,\nin the (snow:1.2) <lora:ink:0.8> <lora:out-line v2:-1>\n"
                              "Negative prompt: blurry, bad\nworse\n"
                              "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, "
                              "Seed: 18446744073709551615, Size: 128x192, Model hash: abcdef0123, Model: demo, "
                              "Lora hashes: \"ink: 0123456789ab\", Clip skip: 2, Note: \"a, \\\"b\\\": c\\\\d\\nnext\", "
                              "Version: atelier 1.0");
    struct recipe r;
    struct error e = {0};
    assert_true(recipe_parse(a, text, &r, &e));
    assert_string_equal(r.prompt, in.prompt);
    assert_string_equal(r.negative, in.negative);
    assert_int_equal(r.n_loras, 2);
    assert_string_equal(r.loras[0].name, "ink");
    assert_string_equal(r.loras[0].hash, "0123456789ab");
    assert_true(r.loras[0].strength == 0.8 && r.loras[1].strength == -1);
    assert_true(r.steps == 20 && r.w == 128 && r.h == 192 && r.cfg == 7.5 && r.seed == UINT64_MAX && r.has_seed);
    assert_string_equal(r.sampler, "DPM++ 2M");
    assert_string_equal(r.schedule, "Karras");
    assert_string_equal(r.model, "demo");
    assert_string_equal(r.model_hash, "abcdef0123");
    assert_string_equal(r.version, "atelier 1.0");
    assert_string_equal(recipe_extra(&r, "Note"), extra[1].value);
    assert_null(recipe_extra(&r, "none"));
    assert_string_equal(recipe_format(a, &r), text);
    /* What no few digits say comes back to the last bit. */
    loras[0].strength = 1 / 3.0, in.cfg = 7.0 / 1.1;
    assert_true(recipe_parse(a, recipe_format(a, &in), &r, &e));
    assert_true(r.loras[0].strength == 1 / 3.0 && r.cfg == 7.0 / 1.1);
}

static void others_texts_are_read(void **s) {
    struct recipe r;
    struct error e = {0};
    assert_true(recipe_parse(a, "cat\nSteps: 30, Sampler: Euler a, CFG scale: 7, Seed: 42, Size: 512x768, Model hash: "
                                "6ce0161689, Model: v1-5, Denoising strength: 0.7, Hires resize: \"1024x0\"\r\n", &r, &e));
    assert_string_equal(r.prompt, "cat");
    assert_string_equal(r.negative, "");
    assert_true(r.steps == 30 && r.seed == 42 && r.h == 768);
    assert_string_equal(recipe_extra(&r, "Denoising strength"), "0.7");
    assert_string_equal(recipe_extra(&r, "Hires resize"), "1024x0");
    assert_true(recipe_parse(a, "Steps: 5", &r, &e));
    assert_string_equal(r.prompt, "");
    assert_true(r.steps == 5 && !r.has_seed && !r.has_cfg && r.w == 0);
    assert_true(recipe_parse(a, "Negative prompt: bad\nSteps: 5, Seed: 1", &r, &e));
    assert_string_equal(r.prompt, "");
    assert_string_equal(r.negative, "bad");
    assert_true(recipe_parse(a, "p\nSteps: -3, Seed: -1, Size: 0x99999999999, CFG scale: nan, Sampler: ", &r, &e));
    assert_true(r.steps == 0 && !r.has_seed && r.w == 0 && !r.has_cfg);
    const char *none[] = {"", "\n", "a cat", "a cat: with a colon", "Steps", "\"", "Negative prompt: x", "Steps\n:"};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) assert_false(recipe_parse(a, none[i], &r, &e));
}

static void loras_are_cut_out(void **s) {
    static const struct {
        const char *in, *out;
        int n;
        double strength;
    } rows[] = {
        {"a <lora:x:0.5> b", "a b", 1, 0.5},
        {"<lora:x>", "", 1, 1},
        {"a, <lora:x:1.5>", "a,", 1, 1.5},
        {"a<lora:x:-0.25>b", "ab", 1, -0.25},
        {"<lora:x:0.3:0.6>q", "q", 1, 0.6},
        {"<lora:x:te=0.3:unet=0.7:dyn=8>", "", 1, 0.7},
        {"<lora:x:unet=0.7:te=0.3>", "", 1, 0.7},
        {"<lora:x:te=0.3>", "", 1, 0.3},
        {"<lyco:x:2>", "", 1, 2},
        {"<lora:a:1> <lora:b:2> c", "c", 2, 1},
        {"<lora:x:abc>", "<lora:x:abc>", 0, 0},
        {"<lora:x:1", "<lora:x:1", 0, 0},
        {"<lora:>", "<lora:>", 0, 0},
        {"<lora::1>", "<lora::1>", 0, 0},
        {"<lora:x:inf>", "<lora:x:inf>", 0, 0},
        {"a < b <3", "a < b <3", 0, 0},
        {"<<lora:x:1>>", "<>", 1, 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct recipe_lora *l;
        size_t n;
        assert_string_equal(recipe_cut_loras(a, rows[i].in, &l, &n), rows[i].out);
        assert_int_equal(n, rows[i].n);
        if (n) assert_true(fabs(l[0].strength - rows[i].strength) < 1e-12);
    }
    char many[70 * 12 + 1] = "";
    for (int i = 0; i < 70; i++) strcat(many, "<lora:x:1> ");
    struct recipe_lora *l;
    size_t n;
    recipe_cut_loras(a, many, &l, &n);
    assert_int_equal(n, 64);
}

/* Any text may be under "parameters"; cut and mixed ones must not harm. */
static void hostile_texts_are_harmless(void **s) {
    const char *base =
        "x <lora:a:1>\nNegative prompt: \"n\\\nSteps: 2, Sampler: \"a\\\"b, Seed: 3, Size: 4x5, Lora hashes: \"a: 1, b";
    struct recipe r;
    struct error e;
    for (size_t n = 0; n <= strlen(base); n++) {
        char *cut = arena_strndup(a, base, n);
        if (recipe_parse(a, cut, &r, &e)) recipe_format(a, &r);
    }
    uint32_t x = 7;
    static const char letters[] = "\n\\\":,<>lora=aSteps 19x.\xff-";
    for (int round = 0; round < 3000; round++) {
        char text[64];
        for (int i = 0; i < 63; i++) {
            x = x * 1664525 + 1013904223;
            text[i] = letters[(x >> 16) % (sizeof letters - 1)];
        }
        text[63] = 0;
        if (recipe_parse(a, text, &r, &e)) recipe_format(a, &r);
    }
}

static void log_lines_survive(void **s) {
    struct error e = {0};
    const char *path = scratch_path("log.jsonl");
    struct jsonl *j = jsonl_open(path, false, &e);
    for (int i = 1; i <= 5; i++) assert_true(jsonl_write(j, json_pack("{s:i, s:f}", "step", i, "loss", 0.5), &e));
    assert_false(jsonl_write(j, NULL, &e));
    jsonl_close(&j);
    assert_true(jsonl_cut_after(path, "step", 3, &e));
    j = jsonl_open(path, false, &e);
    assert_true(jsonl_write(j, json_pack("{s:i}", "step", 4), &e));
    jsonl_close(&j);
    struct os_map m;
    assert_true(os_file_map(&m, path, &e));
    const char *want = "{\"step\":1,\"loss\":0.5}\n{\"step\":2,\"loss\":0.5}\n{\"step\":3,\"loss\":0.5}\n{\"step\":4}\n";
    assert_int_equal(m.bytes, strlen(want));
    assert_memory_equal(m.data, want, m.bytes);
    os_file_unmap(&m);
    assert_true(jsonl_cut_after(scratch_path("absent.jsonl"), "step", 3, &e));
    const char *odd = "{\"step\":1}\nbroken\n[]\n{\"other\":9}\n{\"step\":1";
    path = scratch_write("odd.jsonl", odd, strlen(odd));
    assert_true(jsonl_cut_after(path, "step", 3, &e));
    assert_true(os_file_map(&m, path, &e));
    assert_int_equal(m.bytes, strlen("{\"step\":1}\n{\"other\":9}\n"));
    os_file_unmap(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        TEST(full_recipe_round_trips),    TEST(others_texts_are_read), TEST(loras_are_cut_out),
        TEST(hostile_texts_are_harmless), TEST(log_lines_survive),
    };
    return cmocka_run_group_tests(tests, scratch_make, scratch_drop);
}
