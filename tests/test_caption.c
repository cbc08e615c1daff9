/* Shuffled and thinned captions. */
#include "tests/support/cm.h"

#include <string.h>

#include "train/caption.h"

static const char *vary(const struct caption_params *p, uint64_t seed, const char *caption) {
    static char out[CAPTION_MAX_BYTES];
    struct rng dice;
    rng_seed(&dice, seed);
    caption_vary(p, &dice, caption, out);
    return out;
}

/* The order is the generator's permutation of what is not kept; kept tags stay in front. */
static void test_shuffle(void **state) {
    static const char *const tags[] = {"two", "three", "four", "five"};
    struct caption_params p = {.shuffle = true, .keep = 1};
    unsigned orders = 0;
    for (uint64_t seed = 1; seed < 20; seed++) {
        struct rng dice;
        uint32_t order[4];
        char want[64] = "one";
        rng_seed(&dice, seed);
        rng_randperm(&dice, order, 4);
        for (int i = 0; i < 4; i++) strcat(strcat(want, ", "), tags[order[i]]);
        assert_string_equal(vary(&p, seed, " one,two ,three, four,five"), want);
        orders |= 1u << order[0];
    }
    assert_int_equal(orders, 15);
    p.keep = 9;
    assert_string_equal(vary(&p, 1, "one, two"), "one, two");
    assert_string_equal(vary(&p, 1, ""), "");
}

static void test_dropout(void **state) {
    struct caption_params p = {.tag_dropout = 1, .keep = 2};
    assert_string_equal(vary(&p, 1, "one, two, three, four"), "one, two");
    p.keep = 0;
    assert_string_equal(vary(&p, 1, "one, two, three, four"), "");
    p.tag_dropout = 0.5f;
    int kept = 0;
    for (uint64_t seed = 0; seed < 1000; seed++) kept += strstr(vary(&p, seed, "one, two, three"), "two") != NULL;
    assert_true(kept > 430 && kept < 570);
}

static void test_checks(void **state) {
    struct error e = {{0}};
    assert_true(caption_params_check(&(struct caption_params){.shuffle = true, .keep = 2}, &e));
    assert_false(caption_params_check(&(struct caption_params){.keep = 2}, &e));
    assert_false(caption_params_check(&(struct caption_params){.tag_dropout = 2}, &e));
    assert_false(caption_varies(&(struct caption_params){0}));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shuffle), cmocka_unit_test(test_dropout),
                                       cmocka_unit_test(test_checks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
