/* The learning rate's course against transformers' (tests/reference/make_lr_schedules.py). */
#include "tests/support/cm.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

#include "train/schedule.h"

static float number(const json_t *o, const char *key) { return (float)json_number_value(json_object_get(o, key)); }

static void test_against_transformers(void **state) {
    json_t *cases = json_load_file(ATELIER_SOURCE_DIR "/tests/data/lr_schedules.json", 0, NULL);
    unsigned seen = 0;
    assert_true(json_array_size(cases) > 10);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *o = json_array_get(cases, i), *factors = json_object_get(o, "factors");
        struct error e = {{0}};
        struct train_schedule_params p = {.warmup = number(o, "warmup"), .cycles = (int)number(o, "cycles"),
                                          .power = number(o, "power"), .end = number(o, "end"), .least = number(o, "least"),
                                          .timescale = number(o, "timescale"),
                                          .decay = number(o, "decay")};
        const char *name = json_string_value(json_object_get(o, "kind"));
        assert_true(train_schedule_parse(name, &p.kind, &e) && train_schedule_check(&p, &e));
        assert_string_equal(train_schedule_name(p.kind), name);
        seen |= 1u << p.kind;
        for (size_t k = 0; k < json_array_size(factors); k++) {
            double want = json_number_value(json_array_get(factors, k));
            double got = (double)train_schedule_factor(&p, (int)k, (int)number(o, "total"), number(o, "lr"));
            if (!(fabs(got - want) < 1e-6)) fail_msg("case %zu, %s, step %zu: %.8f, not %.8f", i, name, k, got, want);
        }
    }
    assert_int_equal(seen, (1u << TRAIN_SCHEDULES) - 1);
    json_decref(cases);
}

/* Without --lr-decay the last tenth falls, here from step 180 on by half a cosine. */
static void test_default_decay(void **state) {
    struct train_schedule_params p = {.kind = TRAIN_STABLE_DECAY, .least = 0.2f};
    static const struct {
        int step;
        double factor;
    } want[] = {{0, 1}, {179, 1}, {180, 1}, {190, 0.6}, {195, 0.2 + 0.4 * (1 - 0.70710678)}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++)
        assert_float_equal(train_schedule_factor(&p, want[i].step, 200, 1e-3f), want[i].factor, 1e-6);
}

static void test_refused(void **state) {
    struct error e = {{0}};
    enum train_schedule kind;
    assert_false(train_schedule_parse("cosinus", &kind, &e));
    assert_non_null(strstr(e.text, "cosine_with_restarts"));
    assert_false(train_schedule_check(&(struct train_schedule_params){.kind = TRAIN_COSINE, .cycles = 2}, &e));
    assert_non_null(strstr(e.text, "--lr-cycles"));
    assert_false(train_schedule_check(&(struct train_schedule_params){.kind = TRAIN_COSINE_MIN, .least = 2}, &e));
    assert_false(train_schedule_check(&(struct train_schedule_params){.kind = TRAIN_COSINE, .warmup = -1}, &e));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_transformers), cmocka_unit_test(test_default_decay),
                                       cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
