#include "tests/support/cm.h"
#include "tests/support/scratch.h"

#include "io/json.h"

#include <string.h>

static json_t *load(const char *text, struct error *e) {
    return json_file_load(scratch_write("c.json", text, strlen(text)), 0, e);
}

static void bad_files_are_named(void **s) {
    struct error e = {0};
    const char *bad[] = {"", "[]", "3", "{", "{\"a\":1,\"a\":2}", "{\"a\":\"\xff\"}", "{} x", "{\"a\":1e999}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_null(load(bad[i], &e));
        assert_non_null(strstr(e.text, "c.json"));
    }
    assert_null(json_file_load(scratch_path("absent.json"), 0, &e));
    assert_null(json_file_load(scratch_write("big.json", "{        }", 10), 5, &e));
    assert_non_null(strstr(e.text, "10 bytes"));
}

static void values_and_defaults(void **s) {
    struct error e = {0};
    json_t *o = load("{\"i\":3,\"r\":2.0,\"f\":0.5,\"b\":true,\"s\":\"x\",\"n\":null,\"l\":[1,2,3],\"t\":[\"p\",\"q\"],"
                     "\"o\":{}}", &e);
    assert_non_null(o);
    struct json_reader r = {.file = "c.json", .e = &e};
    int64_t list[4];
    const char *texts[2];
    assert_int_equal(json_read_int(&r, o, "i", 9, 0, 10), 3);
    assert_int_equal(json_read_int(&r, o, "r", 9, 0, 10), 2);
    assert_int_equal(json_read_int(&r, o, "n", 9, 0, 10), 9);
    assert_int_equal(json_read_int(&r, o, "absent", 9, 0, 10), 9);
    assert_true(json_read_number(&r, o, "f", 0) == 0.5 && json_read_number(&r, o, "i", 0) == 3);
    assert_true(json_read_bool(&r, o, "b", false));
    assert_string_equal(json_read_string(&r, o, "s", ""), "x");
    assert_int_equal(json_read_ints(&r, o, "l", list, 4, 0, 9), 3);
    assert_int_equal(json_read_ints(&r, o, "i", list, 4, 0, 9), 1);
    assert_int_equal(json_read_strings(&r, o, "t", texts, 2), 2);
    assert_string_equal(texts[1], "q");
    assert_non_null(json_read_object(&r, o, "o"));
    assert_null(json_read_array(&r, o, "absent"));
    assert_true(json_require(&r, o, "i") && !r.failed && !json_has(o, "n"));
    json_decref(o);
}

static void wrong_values_fail_once(void **s) {
    struct error e = {0};
    json_t *o = load("{\"i\":\"3\",\"f\":0.5,\"l\":[1,\"x\"],\"long\":[1,2,3]}", &e);
    struct json_reader r = {.file = "c.json", .e = &e};
    int64_t list[2];
    assert_int_equal(json_read_int(&r, o, "i", 9, 0, 10), 9);
    assert_true(r.failed);
    assert_string_equal(e.text, "c.json: \"i\" is a text, an integer was expected");
    json_require(&r, o, "absent");
    assert_non_null(strstr(e.text, "\"i\"")); /* the first failure stays */
    struct json_reader r2 = {.file = "c.json", .e = &e};
    json_read_int(&r2, o, "f", 0, 0, 1);
    assert_true(r2.failed);
    struct json_reader r3 = {.file = "c.json", .e = &e};
    assert_int_equal(json_read_ints(&r3, o, "l", list, 2, 0, 9), 0);
    assert_true(r3.failed);
    struct json_reader r4 = {.file = "c.json", .e = &e};
    assert_int_equal(json_read_ints(&r4, o, "long", list, 2, 0, 9), 0);
    assert_non_null(strstr(e.text, "at most 2"));
    struct json_reader r5 = {.file = "c.json"};
    assert_null(json_read_string(&r5, o, "f", NULL));
    assert_true(r5.failed);
    json_decref(o);
}

static void saved_files_read_back(void **s) {
    struct error e = {0};
    json_t *o = json_pack("{s:i, s:[f]}", "a", 1, "b", 0.25);
    assert_true(json_file_save(scratch_path("out.json"), o, 2, &e));
    json_t *back = json_file_load(scratch_path("out.json"), 0, &e);
    assert_true(json_equal(o, back));
    assert_false(json_file_save(scratch_path("no/such/out.json"), o, 0, &e));
    json_decref(o);
    json_decref(back);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_files_are_named),
        cmocka_unit_test(values_and_defaults),
        cmocka_unit_test(wrong_values_fail_once),
        cmocka_unit_test(saved_files_read_back),
    };
    return cmocka_run_group_tests(tests, scratch_make, scratch_drop);
}
