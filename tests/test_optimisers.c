/* Every optimiser against its published package, step by step, on the device (tests/reference/make_optimisers.py). */
#include "tests/support/cm.h"
#include "tests/support/golden.h"
#include "tests/support/session.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

#include "train/optimiser_priv.h"

enum { RANK = 6, COLUMNS = 8, IN = 21, OUT = 26 };

/* The two factors as a stack lays them: padded to 8 ranks, where the padding has no gradient. */
struct pair {
    struct arena *a;
    struct st_file *golden;
    struct tensor_set *set;
    struct gpu_set *data, *grad;
    int down, up;
};

static float *tensor(struct pair *p, const char *name, const char *part) {
    struct error e = {{0}};
    const struct st_tensor *t = st_find(p->golden, arena_printf(p->a, "%s.%s", name, part));
    if (!t) fail_msg("the golden lacks %s.%s", name, part);
    size_t n = st_tensor_elements(t);
    float *x = arena_alloc_n(p->a, n, sizeof *x);
    assert_true(st_read_f32(t, x, n, &e));
    return x;
}

static void put(struct pair *p, struct gpu_set *to, const char *name, float factor) {
    struct error e = {{0}};
    const float *down = tensor(p, name, "down"), *up = tensor(p, name, "up");
    float d[COLUMNS * IN] = {0}, u[OUT * COLUMNS] = {0};
    for (int i = 0; i < RANK * IN; i++) d[i] = down[i] * factor;
    for (int i = 0; i < OUT * RANK; i++) u[i / RANK * COLUMNS + i % RANK] = up[i] * factor;
    assert_true(gpu_set_write(to, p->down, d, &e) && gpu_set_write(to, p->up, u, &e));
}

/* Within 1e-5 of the largest weight, and the padding still zero. */
static void expect(struct pair *p, const char *name) {
    struct error e = {{0}};
    const float *down = tensor(p, name, "down"), *up = tensor(p, name, "up");
    float d[COLUMNS * IN], u[OUT * COLUMNS], got[RANK * IN + OUT * RANK], want[RANK * IN + OUT * RANK];
    assert_true(gpu_set_read(p->data, p->down, d, &e) && gpu_set_read(p->data, p->up, u, &e));
    for (int i = 0; i < RANK * IN; i++) got[i] = d[i], want[i] = down[i];
    for (int i = 0; i < OUT * RANK; i++) got[RANK * IN + i] = u[i / RANK * COLUMNS + i % RANK], want[RANK * IN + i] = up[i];
    golden_near_peak(name, got, want, RANK * IN, 1e-5);
    golden_near_peak(name, got + RANK * IN, want + RANK * IN, OUT * RANK, 1e-5);
    for (int i = RANK * IN; i < COLUMNS * IN; i++) assert_true(d[i] == 0);
    for (int i = 0; i < OUT * COLUMNS; i++) assert_true(i % COLUMNS < RANK || u[i] == 0);
}

static double number(const json_t *o, const char *key) { return json_number_value(json_object_get(o, key)); }
static bool yes(const json_t *o, const char *key) { return json_is_true(json_object_get(o, key)); }

static struct optimiser *open_case(struct pair *p, struct engine *e, const json_t *o, float loss_scale) {
    struct error err = {{0}};
    struct optimiser_params op = {.name = json_string_value(json_object_get(o, "name")),
                                  .weight_decay = (float)number(o, "weight_decay"), .max_grad_norm = (float)number(o, "clip"),
                                  .d_coef = (float)number(o, "d_coef"),
                                  .growth = (float)number(o, "growth"), .bias_correction = yes(o, "bias_correction"),
                                  .safeguard = yes(o, "safeguard"), .relative_step = yes(o, "relative"),
                                  .scale_by_param = yes(o, "scale")};
    struct optimiser_slot slots[2];
    slots[p->down] = (struct optimiser_slot){1, COLUMNS, RANK, IN};
    slots[p->up] = (struct optimiser_slot){(float)number(o, "ratio"), OUT, OUT, RANK};
    struct optimiser_setup setup = {p->set, SET_GRAD, slots, loss_scale};
    struct optimiser *opt = optimiser_create(p->a, &op, &setup, &err);
    if (!opt || !optimiser_open(opt, e, p->data, p->grad, &err)) fail_msg("%s", err.text);
    return opt;
}

/* Goes on in another optimiser with the state of this one, as --resume does. */
static void hand_over(struct arena *a, struct optimiser *from, struct optimiser *to) {
    struct error e = {{0}};
    struct optimiser_bank b[OPTIMISER_MAX_BANKS], c[OPTIMISER_MAX_BANKS];
    int n = optimiser_banks(from, b);
    assert_int_equal(optimiser_banks(to, c), n);
    memcpy(optimiser_numbers(to), optimiser_numbers(from), OPTIMISER_NUMBERS * sizeof(double));
    for (int i = 0; i < n; i++)
        for (int k = 0; k < b[i].n_chunks; k++) {
            void *bytes = arena_alloc(a, (size_t)gpu_set_chunk_bytes(b[i].set, k));
            assert_true(gpu_set_read_raw(b[i].set, k, bytes, &e) && gpu_set_write_raw(c[i].set, k, bytes, &e));
        }
}

static void check_judged(struct pair *p, struct optimiser *opt, const char *name) {
    struct error e = {{0}};
    bool has;
    float *bytes = arena_alloc(p->a, (size_t)gpu_set_chunk_bytes(p->data, 0));
    assert_true(optimiser_judged(opt, 0, bytes, &has, &e));
    if (has) assert_true(gpu_set_write_raw(p->data, 0, bytes, &e));
    assert_int_equal(has, !strcmp(name, "schedule_free"));
    if (has) expect(p, arena_printf(p->a, "%s.judged", name));
}

static void check_case(struct pair *p, struct engine *e, const char *name, float loss_scale) {
    struct error err = {{0}};
    json_t *o = json_loads(golden_text(p->golden, name), 0, NULL);
    assert_non_null(o);
    struct optimiser *opt = open_case(p, e, o, loss_scale), *next;
    put(p, p->data, "start", 1);
    int steps = (int)golden_number(p->golden, "steps");
    for (int k = 0; k < steps; k++) {
        float lr = (float)(number(o, "lr") * json_number_value(json_array_get(json_object_get(o, "rates"), (size_t)k))), norm;
        bool applied;
        if (k == steps / 2) {
            next = open_case(p, e, o, loss_scale);
            hand_over(p->a, opt, next);
            optimiser_destroy(&opt);
            opt = next;
        }
        put(p, p->grad, arena_printf(p->a, "grad.%d", k), loss_scale);
        assert_true(optimiser_step(opt, lr, &norm, &applied, &err) && applied);
        expect(p, arena_printf(p->a, "%s.%d", name, k));
    }
    /* A gradient that is not finite changes nothing. */
    float norm, bad[COLUMNS * IN] = {INFINITY};
    bool applied;
    assert_true(gpu_set_write(p->grad, p->down, bad, &err));
    assert_true(optimiser_step(opt, 1, &norm, &applied, &err) && !applied);
    expect(p, arena_printf(p->a, "%s.%d", name, steps - 1));
    check_judged(p, opt, name);
    optimiser_destroy(&opt);
    json_decref(o);
}

static struct pair pair_open(struct engine *e) {
    struct error err = {{0}};
    struct pair p = {.a = arena_create(NULL), .golden = golden_open("optimisers")};
    p.set = tensor_set_create(p.a, "pair", TENSOR_F32, true, 0);
    p.down = tensor_set_add(p.set, "down", (struct shape){1, 1, COLUMNS, IN});
    p.up = tensor_set_add(p.set, "up", (struct shape){1, 1, OUT, COLUMNS});
    p.data = gpu_set_create(e->dev, p.set, SET_DATA, &err);
    p.grad = gpu_set_create(e->dev, p.set, SET_GRAD, &err);
    assert_true(p.data && p.grad);
    return p;
}

static void pair_close(struct pair *p) {
    gpu_set_destroy(&p->data);
    gpu_set_destroy(&p->grad);
    st_close(&p->golden);
    arena_destroy(&p->a);
}

static void run_rig(int rig, float loss_scale) {
    static const char *const names[] = {"adamw",   "adamw_plus",    "lion",      "schedule_free",
                                        "prodigy", "prodigy_usual", "adafactor", "adafactor_relative"};
    struct engine *e = session_open("mini-odd", rig);
    struct pair p = pair_open(e);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) check_case(&p, e, names[i], loss_scale);
    pair_close(&p);
    session_close(&e);
}

/* Steps of a named case with one gradient over and over, at these rates. */
static struct optimiser *steps(struct pair *p, struct engine *e, const char *name, double growth, const float *lr, int n,
                               void (*each)(const struct optimiser *o, int k, double *out), double *out) {
    struct error err = {{0}};
    json_t *o = json_loads(golden_text(p->golden, name), 0, NULL);
    json_object_set_new(o, "growth", json_real(growth));
    struct optimiser *opt = open_case(p, e, o, 1);
    put(p, p->data, "start", 1);
    put(p, p->grad, "grad.0", 1);
    for (int k = 0; k < n; k++) {
        float norm;
        bool applied;
        assert_true(optimiser_step(opt, lr[k], &norm, &applied, &err) && applied);
        each(opt, k, out);
    }
    json_decref(o);
    return opt;
}

static void note_rate(const struct optimiser *o, int k, double *out) { out[k] = (double)optimiser_rate(o, 1); }
static void note_share(const struct optimiser *o, int k, double *out) { out[k] = (double)o->hyper_values[7]; }

/* Prodigy's estimate rises as fast as it likes, or by no more than --prodigy-growth a step after its first leap. */
static void test_growth(void **state) {
    enum { N = 12 };
    double free_rates[N], rates[N], most = 0;
    float lr[N];
    for (int k = 0; k < N; k++) lr[k] = 1;
    struct engine *e = session_open("mini-odd", SESSION_CPU);
    struct pair p = pair_open(e);
    struct optimiser *o = steps(&p, e, "prodigy", 0, lr, N, note_rate, free_rates);
    optimiser_destroy(&o);
    o = steps(&p, e, "prodigy", 1.02, lr, N, note_rate, rates);
    optimiser_destroy(&o);
    for (int k = 2; k < N; k++) {
        most = fmax(most, free_rates[k] / free_rates[k - 1]);
        assert_true(rates[k] <= rates[k - 1] * 1.02 * (1 + 1e-6));
    }
    assert_true(most > 1.1 && rates[N - 1] < free_rates[N - 1]);
    pair_close(&p);
    session_close(&e);
}

/* The average gives a step the share of the square of the largest rate so far: of 1, 4 and again 4 that is 1, 4/5, 4/9. */
static void test_warmup_counts_little(void **state) {
    static const float lr[] = {0.5e-3f, 1e-3f, 0.25e-3f};
    double shares[3];
    struct engine *e = session_open("mini-odd", SESSION_CPU);
    struct pair p = pair_open(e);
    struct optimiser *o = steps(&p, e, "schedule_free", 0, lr, 3, note_share, shares);
    assert_true(fabs(shares[0] - 1) < 1e-6 && fabs(shares[1] - 0.8) < 1e-6 && fabs(shares[2] - 4 / 9.0) < 1e-6);
    optimiser_destroy(&o);
    pair_close(&p);
    session_close(&e);
}

static void test_cpu_class(void **state) { run_rig(SESSION_CPU, 1); }
static void test_gpu_class(void **state) { run_rig(SESSION_GPU_F32, 64); } /* the scale of f16 gradients */

static void test_refused(void **state) {
    struct error e = {{0}};
    assert_false(optimiser_params_check(&(struct optimiser_params){.name = "sgd"}, &e));
    assert_non_null(strstr(e.text, "adamw, lion"));
    assert_false(optimiser_params_check(&(struct optimiser_params){.d_coef = 2}, &e));
    assert_non_null(strstr(e.text, "--optimizer prodigy"));
    assert_false(optimiser_params_check(&(struct optimiser_params){.name = "lion", .relative_step = true}, &e));
    assert_non_null(strstr(e.text, "--optimizer adafactor"));
    assert_false(optimiser_params_check(&(struct optimiser_params){.name = "prodigy", .growth = 0.5f}, &e));
    assert_non_null(strstr(e.text, "--prodigy-growth"));
    assert_false(optimiser_params_check(&(struct optimiser_params){.beta1 = 1}, &e));
    assert_true(optimiser_params_check(&(struct optimiser_params){0}, &e));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cpu_class),
        cmocka_unit_test(test_gpu_class),
        cmocka_unit_test(test_growth),
        cmocka_unit_test(test_warmup_counts_little),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
