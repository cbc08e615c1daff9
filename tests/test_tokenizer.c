/* The tokenizer against Hugging Face's ids (tests/data/tokenizer.json, made by tests/reference/make_tokenizer.py). */
#include "base/arena.h"
#include "base/os.h"
#include "textenc/tokenizer.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define VOCAB_DIR ATELIER_SOURCE_DIR "/assets/model/tokenizer"

static char folder[] = "/tmp/atelier-tokenizer-XXXXXX";

static void put(const char *name, const char *text) {
    char path[256];
    struct error e;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (!text) assert_true(os_file_remove(path, &e));
    else assert_true(os_file_write_atomic(path, text, strlen(text), &e));
}

static void put_vocabulary(void) {
    char path[256];
    static const char *const names[] = {"vocab.json", "merges.txt"};
    for (int i = 0; i < 2; i++) {
        char target[512];
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        snprintf(target, sizeof target, "%s/%s", VOCAB_DIR, names[i]);
        unlink(path);
        assert_int_equal(symlink(target, path), 0);
    }
}

static struct tokenizer *load(const char *dir) {
    struct error e;
    struct tokenizer *t = tokenizer_load(dir, &e);
    if (!t) fail_msg("%s", e.text);
    return t;
}

static void expect_ids(const struct tokenizer *t, const char *text, const int32_t *want, size_t n) {
    int32_t got[512];
    size_t n_got = tokenizer_encode(t, text, got, 512);
    for (size_t i = 0; i < n && i < n_got; i++)
        if (got[i] != want[i]) fail_msg("'%s': token %zu is %d, expected %d", text, i, got[i], want[i]);
    if (n_got != n) fail_msg("'%s': %zu tokens, expected %zu", text, n_got, n);
}

#define EXPECT(t, text, ...) \
    expect_ids(t, text, (const int32_t[]){__VA_ARGS__}, sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t))

static void test_published(void **state) {
    struct tokenizer *t = load(VOCAB_DIR);
    EXPECT(t, "a photo of an astronaut riding a horse on mars", 320, 1125, 539, 550, 18376, 6765, 320, 4558, 525, 7496);
    EXPECT(t, "A photo of a cat", 320, 1125, 539, 320, 2368);
    EXPECT(t, "a photo of sks dog", 320, 1125, 539, 48136, 1929);
    EXPECT(t, "Hello, World! 2024", 3306, 267, 1002, 256, 273, 271, 273, 275);
    EXPECT(t, "it's  a dog's life", 585, 568, 320, 1929, 568, 970);
    EXPECT(t, "isn't DON'T", 2923, 713, 847, 713);
    EXPECT(t, "A [v1]", 320, 314, 341, 272, 316);
    EXPECT(t, "masterpiece, (best quality:1.2)", 12066, 267, 263, 949, 3027, 281, 272, 269, 273, 264);
    EXPECT(t, "supercalifragilisticexpialidocious", 1642, 2857, 13093, 2076, 5868, 26850, 835, 639, 38466);
    EXPECT(t, "h\xc3\xa9llo \xe6\x97\xa5\xe6\x9c\xac \xf0\x9f\x98\x80", 71, 3459, 19293, 39121, 19277, 361, 7334);
    EXPECT(t, "!", 256);
    assert_int_equal(tokenizer_find(t, "cat</w>"), 2368);
    assert_int_equal(tokenizer_find(t, "no such token"), -1);
    assert_int_equal(tokenizer_max_id(t), 49407);
    tokenizer_destroy(&t);
    assert_null(t);
}

static void test_variants(void **state) {
    json_error_t je;
    json_t *all = json_load_file(ATELIER_SOURCE_DIR "/tests/data/tokenizer.json", 0, &je), *variant, *row;
    assert_non_null(all);
    put_vocabulary();
    size_t v, r, i;
    json_t *id;
    json_array_foreach(all, v, variant) {
        char *config = json_dumps(json_object_get(variant, "config"), 0);
        char *special = json_dumps(json_object_get(variant, "special"), 0);
        put("tokenizer_config.json", config);
        put("special_tokens_map.json", special);
        free(config);
        free(special);
        struct tokenizer *t = load(folder);
        json_array_foreach(json_object_get(variant, "texts"), r, row) {
            int32_t want[512];
            json_array_foreach(json_array_get(row, 1), i, id) want[i] = (int32_t)json_integer_value(id);
            expect_ids(t, json_string_value(json_array_get(row, 0)), want, json_array_size(json_array_get(row, 1)));
        }
        int32_t window[77];
        assert_int_equal(tokenizer_window(t), 77);
        tokenizer_encode_window(t, "a photo!", window, NULL);
        json_array_foreach(json_object_get(variant, "window"), i, id)
            assert_int_equal(window[i], json_integer_value(id));
        tokenizer_destroy(&t);
    }
    json_decref(all);
}

static void test_window(void **state) {
    struct tokenizer *t = load(VOCAB_DIR);
    char text[2048] = "";
    int32_t ids[77];
    struct tokenizer_cut cut;
    for (int i = 0; i < 75; i++) strcat(text, "cat ");
    tokenizer_encode_window(t, text, ids, &cut);
    assert_int_equal(cut.n_tokens, 75);
    assert_int_equal(cut.n_dropped, 0);
    assert_string_equal(cut.text, "");
    assert_int_equal(ids[0], 49406);
    assert_int_equal(ids[75], 2368);
    assert_int_equal(ids[76], 49407);
    strcat(text, "sitting on a caf\xc3\xa9 chair");
    tokenizer_encode_window(t, text, ids, &cut);
    assert_int_equal(cut.n_tokens, 80);
    assert_int_equal(cut.n_dropped, 5);
    assert_string_equal(cut.text, "sitting on a caf\xc3\xa9 chair");
    assert_int_equal(ids[76], 49407);
    tokenizer_encode_window(t, "", ids, &cut);
    assert_int_equal(cut.n_tokens, 0);
    for (int i = 1; i < 77; i++) assert_int_equal(ids[i], 49407);
    tokenizer_destroy(&t);
}

/* Nothing a prompt holds may crash; what is no UTF-8 counts as U+FFFD. */
static void test_odd_text(void **state) {
    struct tokenizer *t = load(VOCAB_DIR);
    int32_t a[64], b[64];
    size_t n = tokenizer_encode(t, "x\xff\xc3(\xed\xa0\x80 y", a, 64);
    assert_int_equal(n, tokenizer_encode(t, "x\xef\xbf\xbd\xef\xbf\xbd(\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd y", b, 64));
    assert_memory_equal(a, b, n * sizeof *a);
    size_t bytes = 1 << 20;
    char *huge = malloc(bytes + 1);
    memset(huge, 'a', bytes);
    huge[bytes] = 0;
    assert_true(tokenizer_encode(t, huge, a, 64) > 1000);
    memset(huge, '!', bytes);
    assert_true(tokenizer_encode(t, huge, a, 64) > 1000);
    struct tokenizer_cut cut;
    int32_t window[77];
    tokenizer_encode_window(t, huge, window, &cut);
    assert_true(strlen(cut.text) == sizeof cut.text - 1);
    free(huge);
    tokenizer_destroy(&t);
}

static void expect_refusal(const char *word) {
    struct error e = {0};
    assert_null(tokenizer_load(folder, &e));
    if (!strstr(e.text, word)) fail_msg("'%s' does not mention '%s'", e.text, word);
}

static void test_refusals(void **state) {
    static const char small[] = "{\"a\":0,\"b</w>\":1,\"ab</w>\":2,\"<|startoftext|>\":3,\"<|endoftext|>\":4}";
    put("vocab.json", NULL);
    put("merges.txt", NULL);
    put("tokenizer_config.json", "{}");
    put("special_tokens_map.json", "{}");
    expect_refusal("vocab.json");
    put("vocab.json", "{\"a\": -1}");
    expect_refusal("'a'");
    put("vocab.json", "{\"a\": 99999999999}");
    expect_refusal("'a'");
    put("vocab.json", "{\"a\": 1.5}");
    expect_refusal("'a'");
    put("vocab.json", "{}");
    expect_refusal("empty");
    put("vocab.json", "[1]");
    expect_refusal("vocab.json");
    put("vocab.json", small);
    expect_refusal("merges.txt");
    put("merges.txt", "#version: 0.2\n");
    expect_refusal("no merges");
    put("merges.txt", "#version: 0.2\na\n");
    expect_refusal("line 2");
    put("merges.txt", "#version: 0.2\na c</w>\n");
    expect_refusal("belong together");
    put("merges.txt", "#version: 0.2\r\na b</w>\r\n");
    put("tokenizer_config.json", "{\"model_max_length\": 2}");
    expect_refusal("model_max_length");
    put("tokenizer_config.json", "{\"pad_token\": \"zz\"}");
    expect_refusal("zz");
    put("tokenizer_config.json", "{\"added_tokens_decoder\": {\"9\": {\"content\": \"<new>\"}}}");
    expect_refusal("<new>");
    put("tokenizer_config.json", "{\"model_max_length\": 1e30}");
    struct tokenizer *t = load(folder);
    EXPECT(t, "AB a", 2, 4); /* "a" at the end of a word is not in this vocabulary: unknown */
    assert_int_equal(tokenizer_window(t), 77);
    tokenizer_destroy(&t);
}

/* The program's own vocabulary is the folder's, id for id, and encodes alike. */
static void test_built_in(void **state) {
    static const char *const texts[] = {"A photo of an astronaut, riding a horse!", "isn't DON'T \xe6\x97\xa5 <|endoftext|> x",
                                        "", "!!! 12345"};
    struct tokenizer *folder = load(VOCAB_DIR), *own = tokenizer_clip(false), *zero = tokenizer_clip(true);
    struct arena *a = arena_create(NULL);
    assert_int_equal(tokenizer_max_id(own), 49407);
    for (int32_t id = 0; id <= 49407; id++)
        assert_string_equal(tokenizer_decode(own, &id, 1, a), tokenizer_decode(folder, &id, 1, a));
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        int32_t x[77], y[77];
        tokenizer_encode_window(folder, texts[i], x, NULL);
        tokenizer_encode_window(own, texts[i], y, NULL);
        assert_memory_equal(x, y, sizeof x);
    }
    assert_int_equal(tokenizer_pad(own), 49407);
    assert_int_equal(tokenizer_pad(zero), 0);
    EXPECT(own, "a!", 320, 256);
    EXPECT(zero, "a!", 320, 0);
    arena_destroy(&a);
    tokenizer_destroy(&folder);
    tokenizer_destroy(&own);
    tokenizer_destroy(&zero);
}

static void test_load_time(void **state) {
    double best = 1e9;
    for (int i = 0; i < 3; i++) {
        double start = os_now_seconds();
        struct tokenizer *t = load(VOCAB_DIR);
        double seconds = os_now_seconds() - start;
        if (seconds < best) best = seconds;
        tokenizer_destroy(&t);
    }
    print_message("loads in %.1f ms\n", best * 1e3);
}

static int make_folder(void **state) { return mkdtemp(folder) ? 0 : 1; }

static int remove_folder(void **state) {
    static const char *const names[] = {"vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"};
    for (int i = 0; i < 4; i++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    return rmdir(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published), cmocka_unit_test(test_variants), cmocka_unit_test(test_window),
        cmocka_unit_test(test_odd_text),  cmocka_unit_test(test_refusals), cmocka_unit_test(test_load_time),
        cmocka_unit_test(test_built_in),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
