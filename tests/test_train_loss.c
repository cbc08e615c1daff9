/* Losses other than the squared error: kohya's formulas, and what they make of a training run. */
#include "tests/support/cm.h"
#include "tests/support/scratch.h"
#include "tests/support/session.h"
#include "tests/support/train_runs.h"

#include <math.h>

#include "base/os.h"
#include "io/png.h"
#include "train/trainer_priv.h"

/* c by kohya's get_huber_threshold for Stable Diffusion's schedule, computed with numpy. */
static void test_formulas(void **state) {
    static const struct {
        int t;
        float c;
        double snr, exponential;
    } rows[] = {{0, 0.1f, 0.9497092680127857, 1.0},
                {1, 0.1f, 0.9300011522238423, 0.9977000638225533},
                {500, 0.1f, 0.23128362272507003, 0.3162277660168379},
                {999, 0.1f, 0.10369128600161832, 0.10023052380779002},
                {500, 0.02f, 0.16295327807840956, 0.1414213562373095}};
    struct error e = {{0}};
    struct schedule_params sp = {.beta = SCHEDULE_BETA_SCALED_LINEAR, .beta_start = 0.00085, .beta_end = 0.012};
    struct schedule *s = schedule_create(&sp, &e);
    assert_non_null(s);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct loss_params p = {LOSS_HUBER, LOSS_C_SNR, rows[i].c};
        struct loss_terms snr = loss_terms_at(&p, s, rows[i].t);
        p.kind = LOSS_SMOOTH_L1, p.c_schedule = LOSS_C_EXPONENTIAL;
        struct loss_terms exponential = loss_terms_at(&p, s, rows[i].t);
        p.c_schedule = LOSS_C_CONSTANT;
        struct loss_terms constant = loss_terms_at(&p, s, rows[i].t);
        assert_true(fabs((double)snr.c - rows[i].snr) < 2e-6 && snr.factor == 2 * snr.c);
        assert_true(fabs((double)exponential.c - rows[i].exponential) < 1e-6 && exponential.factor == 2);
        assert_true(constant.c == rows[i].c && constant.factor == 2);
    }
    struct loss_terms usual = loss_terms_at(&(struct loss_params){LOSS_HUBER, LOSS_C_CONSTANT, 0}, s, 7);
    struct loss_terms l1 = loss_terms_at(&(struct loss_params){.kind = LOSS_L1}, s, 7);
    assert_true(usual.c == 0.1f && l1.c == 0 && l1.factor == 1);
    schedule_destroy(&s);
}

static float first_loss(const char *name, struct loss_params loss, const char *masks) {
    struct train_params p = runs_params(name);
    p.loss = loss, p.masks = masks, p.steps = 1;
    struct runs_outcome o = runs_try(&p);
    if (!o.ok) fail_msg("%s", o.e.text);
    return o.first_loss;
}

static const char *half_masks(void) {
    struct error e = {{0}};
    const char *folder = runs_path("half-masks");
    assert_true(os_dir_make(folder, &e));
    for (int i = 0; i < 3; i++) {
        struct image im = image_create(runs_arena, RUNS_SIDE, RUNS_SIDE);
        for (int p = 0; p < RUNS_SIDE * RUNS_SIDE * 3; p++) im.rgb[p] = p / 3 % RUNS_SIDE < RUNS_SIDE / 2 ? 102 : 0;
        assert_true(png_write(arena_printf(runs_arena, "%s/%d.png", folder, i), &im, NULL, 0, &e));
    }
    return folder;
}

static bool near(float have, float want) { return fabsf(have - want) < 2e-5f * want; }

/* Far below c a Huber loss is the squared error, far above it the absolute one; masks count alike. */
static void test_limits(void **state) {
    const char *masks[2] = {NULL, half_masks()};
    for (int m = 0; m < 2; m++) {
        float l2 = first_loss(m ? "m-l2" : "l2", (struct loss_params){0}, masks[m]);
        float l1 = first_loss(m ? "m-l1" : "l1", (struct loss_params){.kind = LOSS_L1}, masks[m]);
        float wide = first_loss(m ? "m-wide" : "wide", (struct loss_params){LOSS_HUBER, LOSS_C_CONSTANT, 1000}, masks[m]);
        float narrow =
            first_loss(m ? "m-narrow" : "narrow", (struct loss_params){LOSS_SMOOTH_L1, LOSS_C_CONSTANT, 1e-6f}, masks[m]);
        if (!near(wide, l2) || !near(narrow, 2 * l1) || near(l1, l2))
            fail_msg("l2 %g, wide %g; l1 %g, narrow %g", (double)l2, (double)wide, (double)l1, (double)narrow);
    }
}

/* Every picture has the c of its own time. */
static void test_c_of_a_batch(void **state) {
    struct error e = {{0}};
    struct train_params p = runs_params("batch");
    p.loss = (struct loss_params){.kind = LOSS_HUBER};
    struct trainer *t = trainer_create(runs_engine, &p, false, &e);
    if (!t) fail_msg("%s", e.text);
    for (int k = 0; k < 4; k++) {
        if (!train_batch_draw(t, 1, &e)) fail_msg("%s", e.text);
        for (int b = 0; b < p.batch; b++) {
            struct loss_terms l = loss_terms_at(&p.loss, t->schedule, (int)t->batch_t[b]);
            assert_true(t->batch_hyper[2 * b] == l.c && t->batch_hyper[2 * b + 1] == l.factor);
        }
    }
    trainer_destroy(&t);
}

/* In halves, and with recomputed activations, to the same bytes. */
static void test_resume(void **state) {
    struct train_params whole = runs_params("whole"), halves = runs_params("halves"), remat = runs_params("remat");
    whole.loss = halves.loss = remat.loss = (struct loss_params){.kind = LOSS_SMOOTH_L1};
    whole.masks = halves.masks = remat.masks = half_masks();
    remat.remat = TRAIN_REMAT_ON;
    runs_well(&whole);
    halves.stop_after = RUNS_STEPS / 2;
    runs_well(&halves);
    halves.stop_after = 0, halves.resume = true;
    struct train_params other = halves;
    other.loss.c = 0.2f;
    runs_refused(&other, "other settings");
    runs_well(&halves);
    runs_well(&remat);
    runs_same_file(halves.out, whole.out);
    assert_string_equal(runs_tensors_hash(remat.out), runs_tensors_hash(whole.out));
}

static void test_refused(void **state) {
    struct train_params p = runs_params("refused");
    p.loss.c = 0.2f;
    runs_refused(&p, "--loss huber");
    p.loss = (struct loss_params){.kind = LOSS_HUBER, .c = -1};
    runs_refused(&p, "--huber-c");
    struct error e = {{0}};
    enum loss_kind kind;
    enum loss_c_schedule c;
    assert_false(loss_kind_parse("l3", &kind, &e) || loss_c_schedule_parse("never", &c, &e));
    assert_true(loss_kind_parse("smooth-l1", &kind, &e) && kind == LOSS_SMOOTH_L1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_formulas), cmocka_unit_test(test_limits),
                                       cmocka_unit_test(test_c_of_a_batch), cmocka_unit_test(test_resume),
                                       cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, runs_setup, runs_teardown);
}
