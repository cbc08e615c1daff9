/* Noise schedule tables, spacings and training targets against published values and diffusers. */
#include "diffusion/schedule.h"
#include "diffusion/target.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

static const struct schedule_params sd = {
    .beta = SCHEDULE_BETA_SCALED_LINEAR, .beta_start = 0.00085, .beta_end = 0.012, .final_alpha_first = true};

static struct schedule *make(struct schedule_params p) {
    struct error e;
    struct schedule *s = schedule_create(&p, &e);
    if (!s) fail_msg("%s", e.text);
    return s;
}

static void expect_near(double got, double want, double relative) {
    if (!(fabs(got - want) <= relative * fabs(want))) fail_msg("%.9g, expected %.9g", got, want);
}

static void test_tables(void **state) {
    static const struct { int t; double alpha_bar; } rows[] = {
        {0, 0.999149978},   {1, 0.998296022},   {10, 0.990431309},   {100, 0.894223154},  {250, 0.673792303},
        {500, 0.276332498}, {750, 0.0561698116}, {981, 0.00577549683}, {999, 0.00466009602}};
    struct schedule *s = make(sd);
    assert_int_equal(s->n_train, 1000);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        expect_near(s->alpha_bar[rows[i].t], rows[i].alpha_bar, 1e-6);
    expect_near(s->sigma[0], 0.0291675329, 1e-6);
    expect_near(s->sigma[500], 1.61827958, 1e-6);
    expect_near(s->sigma[999], 14.614645, 1e-6);
    expect_near(target_snr(s, 0), 1175.4, 1e-4);
    expect_near(target_snr(s, 500), 0.38185, 1e-4);
    expect_near(target_snr(s, 999), 0.0046819, 1e-4);
    schedule_destroy(&s);
    assert_null(s);
}

/* All 1000 values of alpha_bar, as torch 2.13 computes them. */
static void test_bits(void **state) {
    static const struct { struct schedule_params p; uint32_t hash; } rows[] = {
        {{.beta = SCHEDULE_BETA_SCALED_LINEAR, .beta_start = 0.00085, .beta_end = 0.012}, 0xdbef26a2},
        {{.beta = SCHEDULE_BETA_LINEAR}, 0x5c60226c},
        {{.beta = SCHEDULE_BETA_SQUAREDCOS}, 0xb249c01e},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct schedule *s = make(rows[i].p);
        const uint8_t *bytes = (const uint8_t *)s->alpha_bar;
        uint32_t hash = 2166136261u;
        for (size_t k = 0; k < 1000 * sizeof(float); k++) hash = (hash ^ bytes[k]) * 16777619u;
        assert_int_equal(hash, rows[i].hash);
        schedule_destroy(&s);
    }
}

static void test_zero_terminal_snr(void **state) {
    struct schedule_params p = sd;
    p.zero_terminal_snr = true;
    struct schedule *s = make(p);
    expect_near(s->alpha_bar[500], 0.241018593, 2e-6);
    expect_near(s->alpha_bar[998], 1.9679e-7, 1e-2);
    assert_true(s->alpha_bar[999] == 0);
    expect_near(s->sigma[999], 4096, 1e-6);
    assert_true(target_snr(s, 999) == 0);
    schedule_destroy(&s);
}

static void expect_times(enum schedule_family family, enum schedule_spacing spacing, int n, const float *want) {
    struct schedule_params p = sd;
    struct error e;
    p.spacing = spacing;
    p.steps_offset = spacing == SCHEDULE_SPACING_LEADING;
    struct schedule *s = make(p);
    struct schedule_steps *steps = schedule_steps_create(s, family, SCHEDULE_SIGMAS_SPACED, n, &e);
    assert_non_null(steps);
    for (int i = 0; i < n; i++) assert_float_equal(steps->t[i], want[i], 0);
    schedule_steps_destroy(&steps);
    schedule_destroy(&s);
}

static void test_spacing(void **state) {
    static const float linspace[20] = {999, 946, 894, 841, 789, 736, 684, 631, 578, 526,
                                       473, 421, 368, 315, 263, 210, 158, 105, 53,  0};
    static const float multistep[20] = {999, 949, 899, 849, 799, 749, 699, 649, 599, 549,
                                        500, 450, 400, 350, 300, 250, 200, 150, 100, 50};
    static const float leading[5] = {801, 601, 401, 201, 1};
    static const float trailing[4] = {999, 749, 499, 249};
    expect_times(SCHEDULE_FAMILY_DDIM, SCHEDULE_SPACING_LINSPACE, 20, linspace);
    expect_times(SCHEDULE_FAMILY_MULTISTEP, SCHEDULE_SPACING_LINSPACE, 20, multistep);
    expect_times(SCHEDULE_FAMILY_EULER, SCHEDULE_SPACING_LEADING, 5, leading);
    expect_times(SCHEDULE_FAMILY_DDIM, SCHEDULE_SPACING_TRAILING, 4, trailing);
}

static void test_karras(void **state) {
    static const double sigmas[20] = {14.614645, 11.725371, 9.340211, 7.383626, 5.789420, 4.499843, 3.464755,
                                      2.640847,  1.990922,  1.483217, 1.090790, 0.790949, 0.564724, 0.396392,
                                      0.273040,  0.184169,  0.121342, 0.077861, 0.048482, 0.029168};
    static const float times[20] = {999, 962, 921, 876, 827, 772, 710, 640, 561, 474,
                                    380, 285, 197, 123, 69,  35,  15,  6,   2,   0};
    struct schedule *s = make(sd);
    struct error e;
    struct schedule_steps *steps =
        schedule_steps_create(s, SCHEDULE_FAMILY_MULTISTEP, SCHEDULE_SIGMAS_KARRAS, 20, &e);
    for (int i = 0; i < 20; i++) {
        assert_float_equal(steps->sigma[i], sigmas[i], 2e-6);
        assert_float_equal(steps->t[i], times[i], 0);
    }
    assert_true(steps->sigma[20] == 0);
    schedule_steps_destroy(&steps);
    for (int t = 0; t < 1000; t += 37) assert_float_equal(schedule_time_of_sigma(s, s->sigma[t]), t, 0.02);
    assert_float_equal(schedule_time_of_sigma(s, 1e9), 999, 0);
    assert_float_equal(schedule_time_of_sigma(s, 0), 0, 0);
    schedule_destroy(&s);
}

static void test_sgm_uniform(void **state) {
    struct schedule *s = make(sd);
    struct error e;
    struct schedule_steps *steps =
        schedule_steps_create(s, SCHEDULE_FAMILY_EULER, SCHEDULE_SIGMAS_SGM_UNIFORM, 4, &e);
    static const float times[4] = {999, 749.25f, 499.5f, 249.75f};
    for (int i = 0; i < 4; i++) assert_float_equal(steps->t[i], times[i], 1e-4);
    expect_near(steps->sigma[2], sqrt(s->sigma[499] * s->sigma[500]), 1e-6); /* halfway in log sigma */
    expect_near(steps->init_sigma, sqrt(14.614645 * 14.614645 + 1), 1e-6);
    schedule_steps_destroy(&steps);
    schedule_destroy(&s);
}

/* Every 250th sigma of the table from the top; even times with log sigma between. Beta is in the trajectories. */
static void test_simple_normal(void **state) {
    struct schedule *s = make(sd);
    struct error e;
    struct schedule_steps *simple = schedule_steps_create(s, SCHEDULE_FAMILY_EULER, SCHEDULE_SIGMAS_SIMPLE, 4, &e);
    struct schedule_steps *normal = schedule_steps_create(s, SCHEDULE_FAMILY_EULER, SCHEDULE_SIGMAS_NORMAL, 4, &e);
    for (int i = 0; i < 4; i++) {
        assert_float_equal(simple->t[i], 999 - 250 * i, 0);
        expect_near(simple->sigma[i], s->sigma[999 - 250 * i], 1e-6);
        assert_float_equal(normal->t[i], 999 - 333 * i, 0);
        expect_near(normal->sigma[i], s->sigma[999 - 333 * i], 1e-6);
    }
    expect_near(simple->init_sigma, 14.614645, 1e-6);
    schedule_steps_destroy(&simple);
    schedule_steps_destroy(&normal);
    schedule_destroy(&s);
    struct schedule_params p = {0};
    assert_true(schedule_choose(&p, "karras_full", &e));
    assert_true(p.spacing == SCHEDULE_SPACING_LINSPACE && p.sigmas == SCHEDULE_SIGMAS_KARRAS && p.sigmas_chosen);
}

/* Any number of steps gives falling sigmas within the table. */
static void test_all_lengths(void **state) {
    struct schedule_params p = sd;
    struct error e;
    for (int spacing = 0; spacing <= SCHEDULE_SPACING_TRAILING; spacing++)
        for (int family = 0; family <= SCHEDULE_FAMILY_MULTISTEP; family++) {
            p.spacing = (enum schedule_spacing)spacing;
            p.steps_offset = 1;
            struct schedule *s = make(p);
            for (int n = 1; n <= (family == SCHEDULE_FAMILY_LCM ? 50 : 999); n++) {
                struct schedule_steps *steps =
                    schedule_steps_create(s, (enum schedule_family)family, SCHEDULE_SIGMAS_SPACED, n, &e);
                for (int i = 0; i < n; i++) {
                    assert_true(steps->t[i] >= 0 && steps->t[i] <= 1000);
                    assert_true(steps->sigma[i + 1] <= steps->sigma[i]);
                }
                schedule_steps_destroy(&steps);
            }
            schedule_destroy(&s);
        }
}

static void test_targets(void **state) {
    struct schedule_params p = sd;
    const float x0[3] = {1, -2, 0.5f}, noise[3] = {0.3f, 0.1f, -1};
    float noised[3], target[3];
    for (int prediction = 0; prediction <= SCHEDULE_PREDICT_SAMPLE; prediction++) {
        p.prediction = (enum schedule_prediction)prediction;
        struct schedule *s = make(p);
        double a = sqrt(s->alpha_bar[500]), b = sqrt(1 - (double)s->alpha_bar[500]), snr = a * a / (b * b);
        target_add_noise(s, 500, noised, x0, noise, 3);
        target_make(s, 500, target, x0, noise, 3);
        for (int i = 0; i < 3; i++) {
            double want[] = {noise[i], a * noise[i] - b * x0[i], x0[i]};
            assert_float_equal(noised[i], a * x0[i] + b * noise[i], 1e-6);
            assert_float_equal(target[i], want[prediction], 1e-6);
        }
        double min_snr[] = {1, snr / (snr + 1), snr}, capped[] = {0.1 / snr, 0.1 / (snr + 1), 0.1};
        double debiased[] = {1 / sqrt(snr), 1 / (snr + 1), 1 / sqrt(snr)};
        expect_near(target_weight(s, TARGET_WEIGHT_NONE, 500, 5), 1, 0);
        expect_near(target_weight(s, TARGET_WEIGHT_MIN_SNR, 500, 5), min_snr[prediction], 1e-5);
        expect_near(target_weight(s, TARGET_WEIGHT_MIN_SNR, 500, 0.1f), capped[prediction], 1e-5);
        expect_near(target_weight(s, TARGET_WEIGHT_DEBIASED, 500, 5), debiased[prediction], 1e-5);
        /* At time 0 the ratio is 0.99915/0.00085 = 1175; kohya counts at most 1000. */
        double first = prediction == SCHEDULE_PREDICT_V ? 0.00085 : 1 / sqrt(1000);
        expect_near(target_weight(s, TARGET_WEIGHT_DEBIASED, 0, 5), first, 1e-4);
        schedule_destroy(&s);
    }
    enum target_weighting kind;
    struct error e;
    assert_true(target_weighting_parse("min-snr", &kind, &e));
    assert_int_equal(kind, TARGET_WEIGHT_MIN_SNR);
    assert_false(target_weighting_parse("p3", &kind, &e));
}

static void expect_refusal(struct schedule_params p, const char *word) {
    struct error e = {0};
    assert_null(schedule_create(&p, &e));
    if (!strstr(e.text, word)) fail_msg("'%s' does not mention '%s'", e.text, word);
}

static void test_refusals(void **state) {
    expect_refusal((struct schedule_params){.n_train = -5}, "timesteps");
    expect_refusal((struct schedule_params){.n_train = 1 << 30}, "timesteps");
    expect_refusal((struct schedule_params){.beta_start = NAN}, "betas");
    expect_refusal((struct schedule_params){.beta_start = 0.5, .beta_end = 0.1}, "betas");
    expect_refusal((struct schedule_params){.steps_offset = 1000}, "steps_offset");
    expect_refusal((struct schedule_params){.clip_range = -1}, "clip");
    const float betas[2] = {0.1f, 2};
    expect_refusal((struct schedule_params){.n_train = 2, .trained_betas = betas}, "beta 1");
    struct error e = {0};
    struct schedule_params p = {0};
    assert_false(schedule_choose(&p, "karas", &e));
    assert_non_null(strstr(e.text, "sgm_uniform"));
    assert_true(schedule_choose(&p, "trailing", &e));
    assert_int_equal(p.spacing, SCHEDULE_SPACING_TRAILING);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tables),      cmocka_unit_test(test_bits),
        cmocka_unit_test(test_zero_terminal_snr),
        cmocka_unit_test(test_spacing),     cmocka_unit_test(test_karras),
        cmocka_unit_test(test_sgm_uniform), cmocka_unit_test(test_simple_normal), cmocka_unit_test(test_all_lengths),
        cmocka_unit_test(test_targets),     cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
