/* Sampler trajectories against diffusers (tests/data/samplers.json, made by tests/reference/make_samplers.py). */
#include "base/philox.h"
#include "diffusion/guidance.h"
#include "diffusion/sampler.h"
#include "diffusion/schedule.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { N_IMAGES = 2, IMAGE = 36, N = N_IMAGES * IMAGE };

static double number(json_t *o, const char *key, double otherwise) {
    json_t *v = json_object_get(o, key);
    return v ? json_number_value(v) : otherwise;
}

static bool truth(json_t *o, const char *key, bool otherwise) {
    json_t *v = json_object_get(o, key);
    return v ? json_is_true(v) : otherwise;
}

static void read_config(json_t *c, struct schedule_params *p) {
    struct error e;
    json_t *v;
    p->beta_start = number(c, "beta_start", 0);
    p->beta_end = number(c, "beta_end", 0);
    p->n_train = (int)number(c, "num_train_timesteps", 0);
    p->steps_offset = (int)number(c, "steps_offset", 0);
    p->zero_terminal_snr = truth(c, "rescale_betas_zero_snr", false);
    p->final_alpha_first = !truth(c, "set_alpha_to_one", true);
    p->clip_range = truth(c, "clip_sample", true) ? 1 : 0;
    if ((v = json_object_get(c, "beta_schedule")))
        assert_true(schedule_beta_parse(json_string_value(v), &p->beta, &e));
    if ((v = json_object_get(c, "prediction_type")))
        assert_true(schedule_prediction_parse(json_string_value(v), &p->prediction, &e));
    if ((v = json_object_get(c, "timestep_spacing")))
        assert_true(schedule_spacing_parse(json_string_value(v), &p->spacing, &e));
    if ((v = json_object_get(c, "final_sigmas_type")))
        p->final_sigma_min = strcmp(json_string_value(v), "sigma_min") == 0;
    if (truth(c, "use_karras_sigmas", false)) p->sigmas = SCHEDULE_SIGMAS_KARRAS;
    if (truth(c, "use_exponential_sigmas", false)) p->sigmas = SCHEDULE_SIGMAS_EXPONENTIAL;
    if (truth(c, "use_beta_sigmas", false)) p->sigmas = SCHEDULE_SIGMAS_BETA;
}

static void model(const float *x, float t, float *out) {
    for (int i = 0; i < N; i++) out[i] = 0.9f * tanhf(0.7f * x[i]) + 0.0002f * t;
}

/* Largest difference over the largest value. */
static double distance(const float *x, json_t *want) {
    double worst = 0, largest = 1e-30;
    assert_int_equal(json_array_size(want), N);
    for (size_t i = 0; i < N; i++) {
        double w = json_number_value(json_array_get(want, i));
        worst = fmax(worst, fabs(x[i] - w));
        largest = fmax(largest, fabs(w));
    }
    return worst / largest;
}

/* Starts as the case says; z0 and noise are kept for blending. */
static void start(struct sampler *s, json_t *c, struct noise_stream *noises, float *z0, float *noise) {
    if (!json_object_get(c, "first")) {
        sampler_start(s);
        return;
    }
    noise_stream_draw(noises, z0, N);
    noise_stream_draw(noises, noise, N);
    sampler_start_image(s, z0, noise, (int)number(c, "first", 0));
}

static void compare(json_t *c, int call, const float *x, double *worst) {
    char key[16];
    snprintf(key, sizeof key, "%d", call);
    json_t *want = json_object_get(json_object_get(c, "x"), key);
    if (!want) return;
    /* A start at sigma 4096 (zero terminal SNR) cancels: one unit in the last place of x is 1e-5 of what is left. */
    double tolerance = 1e-5 * fmax(1, number(c, "init_sigma", 1) / 100), d = distance(x, want);
    if (!(d <= tolerance)) {
        json_t *plain = json_copy(c);
        json_object_del(plain, "x"), json_object_del(plain, "times");
        fail_msg("call %d is off by %g: %s", call, d, json_dumps(plain, JSON_COMPACT));
    }
    *worst = fmax(*worst, d);
}

static void run_case(json_t *c, double *worst) {
    struct schedule_params p = {0};
    struct error e = {0};
    read_config(json_object_get(c, "config"), &p);
    json_t *chosen = json_object_get(c, "schedule"), *times = json_object_get(c, "times");
    if (chosen) assert_true(schedule_choose(&p, json_string_value(chosen), &e));
    struct schedule *schedule = schedule_create(&p, &e);
    assert_non_null(schedule);
    struct noise_stream noises;
    noise_stream_seed(&noises, NOISE_TORCH, (uint64_t)number(c, "seed", 0));
    struct sampler_params sp = {.schedule = schedule,
                                .n_steps = (int)number(c, "steps", 0),
                                .n_images = N_IMAGES,
                                .image_floats = IMAGE,
                                .noises = &noises,
                                .n_noises = 1,
                                .has_eta = json_object_get(c, "eta") != NULL,
                                .eta = (float)number(c, "eta", 0)};
    const char *name = json_string_value(json_object_get(c, "sampler"));
    struct sampler *s = sampler_create(name, &sp, &e);
    if (!s) fail_msg("%s: %s", name, e.text);
    float out[N], z0[N], noise[N], mask[N];
    for (int i = 0; i < N; i++) mask[i] = i % 3 != 0;
    start(s, c, &noises, z0, noise);
    size_t calls = 0;
    for (struct sampler_request q; sampler_next(s, &q); calls++) {
        double t = json_number_value(json_array_get(times, calls));
        if (fabs(t - q.t) > 2e-3) fail_msg("%s call %zu: time %g, reference %g", name, calls, q.t, t);
        assert_int_equal(q.call, calls);
        model(q.x, q.t, out);
        sampler_feed(s, out);
        if (truth(c, "blend", false)) sampler_blend(s, z0, noise, mask);
        compare(c, q.call, sampler_x(s), worst);
    }
    assert_int_equal(calls, json_array_size(times));
    if (json_object_get(c, "next_word")) { /* the generator stands where the reference left it */
        float next;
        rng_rand(&noises.torch, &next, 1);
        assert_float_equal(next, number(c, "next_word", -1), 1e-9);
    }
    sampler_destroy(&s);
    assert_null(s);
    schedule_destroy(&schedule);
}

static void test_trajectories(void **state) {
    json_error_t je;
    json_t *all = json_load_file(ATELIER_SOURCE_DIR "/tests/data/samplers.json", 0, &je), *c;
    assert_non_null(all);
    size_t i;
    double worst = 0;
    json_array_foreach(all, i, c) run_case(c, &worst);
    assert_true(i >= 150);
    print_message("%zu trajectories, worst relative difference %.2g\n", i, worst);
    json_decref(all);
}

/* One generator per image gives each image what it would get alone. */
static void test_generator_per_image(void **state) {
    struct schedule_params p = {0};
    struct error e;
    struct schedule *schedule = schedule_create(&p, &e);
    float alone[2][IMAGE];
    struct sampler_params sp = {.schedule = schedule, .n_steps = 4, .n_images = 2, .image_floats = IMAGE, .n_noises = 2};
    struct noise_stream noises[2];
    float out[N];
    for (int k = 0; k < 3; k++) { /* image 0, image 1, both */
        noise_stream_seed(&noises[0], NOISE_TORCH, k == 1 ? 8 : 7);
        noise_stream_seed(&noises[1], NOISE_TORCH, 8);
        sp.noises = noises;
        sp.n_images = sp.n_noises = k == 2 ? 2 : 1;
        struct sampler *s = sampler_create("euler-a", &sp, &e);
        sampler_start(s);
        for (struct sampler_request q; sampler_next(s, &q);) {
            for (size_t i = 0; i < sp.n_images * IMAGE; i++) out[i] = tanhf(q.x[i]);
            sampler_feed(s, out);
        }
        if (k < 2) memcpy(alone[k], sampler_x(s), sizeof alone[k]);
        else assert_memory_equal(alone, sampler_x(s), sizeof alone);
        sampler_destroy(&s);
    }
    schedule_destroy(&schedule);
}

/* Runs a sampler over a schedule; x at the end into out, its times into times, its steps into steps. Returns the calls. */
static int run_plain(const char *name, const struct schedule_params *p, const struct sampler_params *given, float *out,
                     float *times, int *steps) {
    struct error e;
    struct schedule *schedule = schedule_create(p, &e);
    struct noise_stream noise;
    noise_stream_seed(&noise, NOISE_TORCH, 5);
    struct sampler_params sp = *given;
    sp.schedule = schedule, sp.n_images = N_IMAGES, sp.image_floats = IMAGE, sp.noises = &noise, sp.n_noises = 1;
    struct sampler *s = sampler_create(name, &sp, &e);
    if (!s) fail_msg("%s: %s", name, e.text);
    sampler_start(s);
    int calls = 0;
    for (struct sampler_request q; sampler_next(s, &q); calls++) {
        assert_int_equal(q.n_steps, sp.n_steps);
        times[calls] = q.t, steps[calls] = q.step;
        model(q.x, q.t, out);
        sampler_feed(s, out);
    }
    memcpy(out, sampler_x(s), N * sizeof *out);
    sampler_destroy(&s);
    schedule_destroy(&schedule);
    return calls;
}

/* What a step draws with is looked up by its number: every call says which of the n steps it belongs to, in order, also where
 * a step takes two calls. */
static void test_steps_are_counted(void **state) {
    enum { STEPS = 6 };
    struct sampler_params sp = {.n_steps = STEPS};
    float out[N], times[2 * STEPS];
    int steps[2 * STEPS];
    for (size_t k = 0; sampler_name(k); k++) {
        int calls = run_plain(sampler_name(k), &(struct schedule_params){0}, &sp, out, times, steps);
        assert_true(calls >= STEPS && calls < 2 * STEPS);
        assert_int_equal(steps[0], 0);
        assert_int_equal(steps[calls - 1], STEPS - 1);
        for (int i = 1; i < calls; i++) assert_true(steps[i] == steps[i - 1] || steps[i] == steps[i - 1] + 1);
    }
    static const int pndm[] = {0, 1, 1, 2, 3, 4, 5}; /* the second step takes two calls, at one time */
    assert_int_equal(run_plain("pndm", &(struct schedule_params){0}, &sp, out, times, steps), STEPS + 1);
    assert_memory_equal(steps, pndm, sizeof pndm);
    assert_true(times[1] == times[2]);
}

/* A model's config may ask for a list of sigmas; diffusers' classes without that setting do not see it. */
static void test_config_sigmas(void **state) {
    static const char *const deaf[] = {"ddim", "ddpm", "pndm", "euler-a", "lcm", "tcd"};
    struct sampler_params sp = {.n_steps = 6};
    float plain[N], out[N], times[2][12];
    int steps[12];
    for (size_t k = 0; k < sizeof deaf / sizeof *deaf; k++) {
        int calls = run_plain(deaf[k], &(struct schedule_params){0}, &sp, plain, times[0], steps);
        run_plain(deaf[k], &(struct schedule_params){.sigmas = SCHEDULE_SIGMAS_KARRAS}, &sp, out, times[1], steps);
        assert_memory_equal(times[0], times[1], (size_t)calls * sizeof(float));
        assert_memory_equal(plain, out, sizeof out);
    }
}

/* As many steps as times, with the offset of Stable Diffusion's schedulers: the first would lie one past the last time. */
static void test_every_time(void **state) {
    struct sampler_params sp = {.n_steps = 50};
    float out[N], times[100];
    int steps[100];
    run_plain("ddim", &(struct schedule_params){.n_train = 50, .steps_offset = 1}, &sp, out, times, steps);
    assert_true(times[0] == 49 && times[1] == 49 && times[2] == 48 && times[49] == 1);
}

/* Without noise the stochastic 2M is 2M; its last step has an infinite length. */
static void test_sde_without_noise(void **state) {
    struct schedule_params p = {0};
    struct sampler_params sp = {.n_steps = 8}, still = {.n_steps = 8, .has_eta = true, .eta = 0};
    float want[N], out[N], times[16];
    int steps[16];
    run_plain("dpmpp-2m", &p, &sp, want, times, steps);
    run_plain("dpmpp-2m-sde", &p, &still, out, times, steps);
    for (int i = 0; i < N; i++)
        if (!(fabsf(out[i] - want[i]) <= 1e-5f)) fail_msg("%d: %g, not %g", i, (double)out[i], (double)want[i]);
}

static void expect_refusal(struct schedule_params p, const char *name, int n_steps, const char *word) {
    struct error e = {0};
    struct schedule *schedule = schedule_create(&p, &e);
    assert_non_null(schedule);
    struct noise_stream noise;
    noise_stream_seed(&noise, NOISE_TORCH, 0);
    struct sampler_params sp = {.schedule = schedule, .n_steps = n_steps, .n_images = 1, .image_floats = 16,
                                .noises = &noise, .n_noises = 1, .has_eta = strcmp(word, "no eta") == 0};
    assert_null(sampler_create(name, &sp, &e));
    if (!strstr(e.text, word)) fail_msg("'%s' does not mention '%s'", e.text, word);
    schedule_destroy(&schedule);
}

static void test_refusals(void **state) {
    struct schedule_params p = {0};
    expect_refusal(p, "euler-b", 10, "dpmpp-2m");
    expect_refusal(p, "euler", 0, "1 to 1000");
    expect_refusal(p, "dpmpp-2m", 1000, "1 to 999");
    expect_refusal(p, "lcm", 51, "1 to 50");
    expect_refusal((struct schedule_params){.n_train = 20}, "tcd", 4, "50 timesteps");
    expect_refusal((struct schedule_params){.prediction = SCHEDULE_PREDICT_SAMPLE}, "pndm", 4, "use ddim");
    expect_refusal(p, "euler", 10, "no eta");
    struct error e;
    struct schedule_params karras = {0}, trailing = {0};
    assert_true(schedule_choose(&karras, "karras", &e));
    expect_refusal(karras, "ddim", 10, "karras");
    assert_true(schedule_choose(&trailing, "trailing", &e));
    expect_refusal(trailing, "lcm", 4, "own times");
    struct schedule_params zero = {.zero_terminal_snr = true, .spacing = SCHEDULE_SPACING_TRAILING};
    expect_refusal(zero, "ddim", 10, "zero terminal SNR");
}

static void test_names(void **state) {
    size_t n = 0;
    while (sampler_name(n)) assert_non_null(sampler_title(n++));
    assert_true(n >= 4);
    assert_string_equal(sampler_name(0), "ddim");
}

static void test_guidance(void **state) {
    float u[4] = {1, 2, 3, 4}, c[4] = {2, 0, 3, 8}, out[4];
    assert_false(guidance_is_needed(1));
    assert_true(guidance_is_needed(1.5f));
    guidance_combine(out, u, c, 4, 3);
    const float want[4] = {4, -4, 3, 16};
    assert_memory_equal(out, want, sizeof want);
    guidance_rescale(out, c, 1, 4, 0);
    assert_memory_equal(out, want, sizeof want);
    /* std with Bessel: of c 3.4034296, of out 8.3016064; phi 0.7 */
    guidance_rescale(out, c, 1, 4, 0.7f);
    for (int i = 0; i < 4; i++)
        assert_float_equal(out[i], want[i] * (0.7f * 3.4034296f / 8.3016064f + 0.3f), 1e-5);
    const float flat[4] = {2, 2, 2, 2}; /* nothing to bring to the other's spread */
    guidance_rescale(memcpy(out, flat, sizeof out), c, 1, 4, 0.7f);
    assert_memory_equal(out, flat, sizeof flat);
}

/* Every draw of a picture is another one, from whichever generator; only torch's own generators keep a state for it. */
static void test_noise_goes_on(void **state) {
    for (enum noise_source source = NOISE_TORCH; source <= NOISE_PHILOX; source++) {
        struct noise_stream s;
        float first[16], second[16], want[16];
        noise_stream_seed(&s, source, 9);
        noise_stream_draw(&s, first, 16);
        noise_stream_draw(&s, second, 16);
        for (int i = 0; i < 16; i++) assert_true(first[i] != second[i]);
        if (source != NOISE_PHILOX) continue;
        philox_randn(9, 1, want, 16);
        assert_memory_equal(second, want, sizeof want);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trajectories),      cmocka_unit_test(test_generator_per_image),
        cmocka_unit_test(test_steps_are_counted), cmocka_unit_test(test_config_sigmas),
        cmocka_unit_test(test_every_time),        cmocka_unit_test(test_sde_without_noise),
        cmocka_unit_test(test_refusals),          cmocka_unit_test(test_names),
        cmocka_unit_test(test_guidance),          cmocka_unit_test(test_noise_goes_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
