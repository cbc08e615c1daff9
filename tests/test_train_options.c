/* The trainer's options, each by what it must change: exact formulas where a run shows them, and runs that resume to
 * the same bytes with all of them on. */
#include "tests/support/cm.h"
#include "tests/support/scratch.h"
#include "tests/support/session.h"
#include "tests/support/train_runs.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "io/png.h"
#include "io/prompt_file.h"
#include "io/safetensors.h"
#include "train/trainer_priv.h"

static float *read_all(const struct st_file *f, const char *name, size_t *n) {
    struct error e = {{0}};
    const struct st_tensor *t = st_find(f, name);
    if (!t) fail_msg("%s lacks %s", st_path(f), name);
    *n = st_tensor_elements(t);
    float *x = arena_alloc_n(runs_arena, *n, sizeof *x);
    assert_true(st_read_f32(t, x, *n, &e));
    return x;
}

static struct st_file *open_file(const char *path) {
    struct error e = {{0}};
    struct st_file *f = st_open(path, &e);
    if (!f) fail_msg("%s", e.text);
    return f;
}

/* 60 = 30 + resume + 30, in small: RUNS_STEPS in one go and in halves. */
static void resumes(const char *name, void (*set)(struct train_params *p)) {
    struct train_params whole = runs_params(arena_printf(runs_arena, "%s-whole", name));
    struct train_params halves = runs_params(arena_printf(runs_arena, "%s-halves", name));
    set(&whole), set(&halves);
    runs_well(&whole);
    halves.stop_after = RUNS_STEPS / 2;
    runs_well(&halves);
    halves.stop_after = 0, halves.resume = true;
    runs_well(&halves);
    runs_same_file(halves.out, whole.out);
}

/* The tensors of a run with these settings. */
static const char *outcome(const char *name, void (*set)(struct train_params *p)) {
    struct train_params p = runs_params(name);
    if (set) set(&p);
    runs_well(&p);
    return runs_tensors_hash(p.out);
}

/* --- a plain batch --------------------------------------------------------------------------------------- */

/* The latents of slot b are a sample of that picture's posterior, (mean + deviation z - shift) scale. */
static void check_latent(const struct trainer *t, size_t b, size_t picture, const float *z, double shift) {
    size_t c = (size_t)t->channels, n = (size_t)(t->lw * t->lh) * c;
    const float *moments = t->moments + t->places[picture].latent * 2 * c;
    for (size_t i = 0, k = b * n; i < n; i++, k++) {
        const float *m = moments + i / c * 2 * c + i % c;
        double x0 = ((double)m[0] + exp(0.5 * (double)m[c]) * (double)z[k] - shift) * (double)t->e->model->vae.scaling_factor;
        assert_float_equal(t->latent[k], x0, 1e-5 * fmax(1, fabs(x0)));
    }
}

/* What is made of them with noise, and with the noise that the noised picture gets. */
static void check_noised(const struct trainer *t, size_t b, int time, const float *noise, const float *shown) {
    size_t n = (size_t)(t->lw * t->lh * t->channels);
    double bar = (double)t->schedule->alpha_bar[time], alpha = sqrt(bar), sigma = sqrt(1 - bar);
    for (size_t i = 0, k = b * n; i < n; i++, k++) {
        double x0 = (double)t->latent[k], x = alpha * x0 + sigma * (double)shown[k];
        double v = alpha * (double)noise[k] - sigma * x0;
        assert_float_equal(t->batch_x[k], x, 1e-5 * fmax(1, fabs(x)));
        assert_float_equal(t->batch_target[k], v, 1e-5 * fmax(1, fabs(v)));
    }
}

/* What a step sees, written out: the pictures' samples, noise and times from one generator, in this order; the noised picture
 * and v-prediction's target; how much each counts. Then with noise options: they change the noise by the other generator, and
 * perturbation only what is shown. Then with weights by the ratio of signal to noise. */
static void test_batch(void **state) {
    static const struct noise_params noises[] = {
        {0}, {.offset = 0.1f, .pyramid_iterations = 3, .pyramid_discount = 0.3f}, {.perturbation = 0.2f}, {0}};
    for (int k = 0; k < 4; k++) {
        struct error e = {{0}};
        struct train_params p = runs_params(arena_printf(runs_arena, "batch%d", k));
        p.noise = noises[k];
        if (k == 3) p.weighting = TARGET_WEIGHT_MIN_SNR, p.snr_gamma = 0.5f;
        struct trainer *t = trainer_create(runs_engine, &p, false, &e);
        if (!t) fail_msg("%s", e.text);
        struct vae_config *vae = &runs_engine->model->vae;
        const float shift = vae->shift_factor;
        struct noise_size size = {p.batch, t->lh, t->lw, t->channels};
        size_t all = (size_t)(p.batch * t->lw * t->lh * t->channels);
        float *z = arena_alloc_n(runs_arena, all, sizeof *z), *noise = arena_alloc_n(runs_arena, all, sizeof *noise);
        float *shown = arena_alloc_n(runs_arena, all, sizeof *shown);
        struct rng same = t->rng, dice = t->dice;
        vae->shift_factor = 0.25f;
        if (!train_batch_draw(t, 3, &e)) fail_msg("%s", e.text);
        vae->shift_factor = shift;
        rng_randn(&same, z, all);
        rng_randn(&same, noise, all);
        noise_shape(&p.noise, &dice, noise, t->latent, &size, shown);
        memcpy(shown, noise, all * sizeof *shown);
        if (k == 2) noise_perturb(&p.noise, &dice, shown, noise, all);
        assert_int_equal(t->schedule->params.prediction, SCHEDULE_PREDICT_V);
        for (int b = 0; b < p.batch; b++) {
            int time = (int)rng_randint(&same, 1000);
            assert_true(t->batch_t[b] == (float)time);
            double snr = (double)t->schedule->alpha_bar[time] / (1 - (double)t->schedule->alpha_bar[time]);
            double weight = k == 3 ? fmin(snr, 0.5) / (snr + 1) : 1;
            assert_float_equal(t->batch_seed[b], weight / (p.batch * 3), 1e-6); /* the mean over three batches' pictures */
            check_latent(t, (size_t)b, t->feed->order[b], z, 0.25);
            check_noised(t, (size_t)b, time, noise, shown);
        }
        trainer_destroy(&t);
    }
}

/* --- noise and captions --------------------------------------------------------------------------------- */

static void set_noise(struct train_params *p) {
    p->noise = (struct noise_params){.offset = 0.1f, .offset_random = true, .pyramid_iterations = 4, .pyramid_discount = 0.3f,
                                     .perturbation = 0.1f};
    p->weighting = TARGET_WEIGHT_MIN_SNR;
}

static void test_noise(void **state) {
    resumes("noise", set_noise);
    assert_string_not_equal(outcome("noise2", set_noise), outcome("plain", NULL));
    struct train_params p = runs_params("noise3");
    p.noise.offset_random = true;
    runs_refused(&p, "--noise-offset");
}

static void set_no_captions(struct train_params *p) { p->caption_dropout = 1; }
static void set_half_captions(struct train_params *p) { p->caption_dropout = 0.5f; }

/* All captions dropped: a folder of empty captions. Half of them: neither that nor the whole. */
static void test_caption_dropout(void **state) {
    struct error e = {{0}};
    const char *none = outcome("captions", set_no_captions), *folder = runs_path("wordless");
    assert_true(os_dir_make(folder, &e));
    for (int i = 0; i < 3; i++) {
        struct os_map m;
        assert_true(os_file_map(&m, arena_printf(runs_arena, "%s/%d.png", runs_pictures(), i), &e));
        assert_true(os_file_write_atomic(arena_printf(runs_arena, "%s/%d.png", folder, i), m.data, m.bytes, &e));
        os_file_unmap(&m);
    }
    struct train_params p = runs_params("wordless-run");
    p.data = folder, p.caption = "";
    runs_well(&p);
    assert_string_equal(runs_tensors_hash(p.out), none);
    resumes("half", set_half_captions);
    assert_string_not_equal(outcome("half2", set_half_captions), none);
    p = runs_params("captions2"), p.caption_dropout = 1.5f;
    runs_refused(&p, "--caption-dropout");
}

static void set_tags(struct train_params *p) {
    p->captions = (struct caption_params){.shuffle = true, .keep = 1, .tag_dropout = 0.3f};
    p->data = runs_path("tags");
}
static void set_same_tags(struct train_params *p) {
    p->captions = (struct caption_params){.shuffle = true, .keep = 9};
}

/* The text encoder on the tape says what it said when captions were encoded beforehand. */
static void test_tags(void **state) {
    static const char *const captions[] = {"red fox, sitting, grass, sun", "house, small, white, hill",
                                           "car, blue, road, fast"};
    struct error e = {{0}};
    const char *folder = runs_path("tags");
    assert_true(os_dir_make(folder, &e));
    for (int i = 0; i < 3; i++) {
        struct os_map m;
        assert_true(os_file_map(&m, arena_printf(runs_arena, "%s/%d.png", runs_pictures(), i), &e));
        assert_true(os_file_write_atomic(arena_printf(runs_arena, "%s/%d.png", folder, i), m.data, m.bytes, &e));
        assert_true(os_file_write_atomic(arena_printf(runs_arena, "%s/%d.txt", folder, i), captions[i], strlen(captions[i]),
                                         &e));
        os_file_unmap(&m);
    }
    resumes("tags-run", set_tags);
    struct train_params still = runs_params("tags-still"), plain = runs_params("tags-plain");
    set_same_tags(&still);
    struct runs_outcome a = runs_try(&still), b = runs_try(&plain);
    assert_true(a.ok && b.ok && fabsf(a.last_loss - b.last_loss) < 1e-4f * b.last_loss);
    still = runs_params("tags-bad"), still.captions.keep = 2;
    runs_refused(&still, "--keep-tokens");
}

/* --- times ---------------------------------------------------------------------------------------------- */

/* Every drawn time lies in the range; all of a narrow one occur. */
static void test_times(void **state) {
    struct error e = {{0}};
    struct train_params p = runs_params("times");
    bool seen[4] = {0};
    p.min_timestep = 500, p.max_timestep = 504;
    struct trainer *t = trainer_create(runs_engine, &p, false, &e);
    if (!t) fail_msg("%s", e.text);
    for (int i = 0; i < 40; i++) {
        assert_true(train_batch_draw(t, 1, &e));
        for (int b = 0; b < p.batch; b++) {
            assert_true(t->batch_t[b] >= 500 && t->batch_t[b] < 504);
            seen[(int)t->batch_t[b] - 500] = true;
        }
    }
    trainer_destroy(&t);
    for (int i = 0; i < 4; i++) assert_true(seen[i]);
    p = runs_params("times2"), p.min_timestep = 700, p.max_timestep = 700;
    runs_refused(&p, "--max-timestep");
    p = runs_params("times3"), p.max_timestep = 1001;
    runs_refused(&p, "0 to 999");
}

/* --- pictures ------------------------------------------------------------------------------------------- */

static void set_flip(struct train_params *p) { p->flip = true; }

/* The cache holds what the VAE makes of the mirrored picture; which one is taken is drawn. */
static void test_flip(void **state) {
    struct error e = {{0}};
    struct train_params p = runs_params("flip");
    p.flip = true;
    struct trainer *t = trainer_create(runs_engine, &p, false, &e);
    if (!t) fail_msg("%s", e.text);
    size_t each = (size_t)(t->lw * t->lh * t->channels * 2);
    float *want = arena_alloc_n(runs_arena, each, sizeof *want);
    struct vae_session *vae = vae_session_create(runs_engine, true, 1, RUNS_SIDE, RUNS_SIDE, &e);
    assert_non_null(vae);
    for (size_t i = 0; i < t->data.n; i++) {
        struct image im;
        assert_true(dataset_load(runs_arena, &t->data.samples[i], RUNS_SIDE, RUNS_SIDE, &im, &e));
        im = image_flip_horizontal(runs_arena, &im);
        assert_true(vae_session_encode(vae, im.rgb, want, &e));
        assert_memory_equal(t->moments + (2 * i + 1) * each, want, each * sizeof *want);
        assert_memory_not_equal(t->moments + 2 * i * each, want, each * sizeof *want);
    }
    vae_session_destroy(&vae);
    trainer_destroy(&t);
    resumes("flips", set_flip);
    assert_string_not_equal(outcome("flips2", set_flip), outcome("plain2", NULL));
}

/* --- buckets --------------------------------------------------------------------------------------------- */

/* Five pictures: wide, wide, high, square, square. */
static const char *shapes(void) {
    static const int sizes[][2] = {{150, 75}, {160, 78}, {70, 130}, {64, 64}, {90, 90}};
    struct error e = {{0}};
    const char *folder = runs_path("shapes");
    if (os_path_is_dir(folder)) return folder;
    assert_true(os_dir_make(folder, &e));
    for (int i = 0; i < 5; i++) {
        struct image im = image_create(runs_arena, sizes[i][0], sizes[i][1]);
        for (int p = 0; p < im.w * im.h * 3; p++)
            im.rgb[p] = (uint8_t)(p / 3 % im.w * 2 + p / 3 / im.w * (i + 1) + 40 * (p % 3));
        assert_true(png_write(arena_printf(runs_arena, "%s/%d.png", folder, i), &im, NULL, 0, &e));
    }
    return folder;
}

static void set_buckets(struct train_params *p) {
    p->data = shapes(), p->caption = "shape", p->steps = 7, p->flip = true;
    p->buckets = (struct bucket_params){.on = true, .min = 32, .max = 128, .step = 16};
}
static void set_buckets_remat(struct train_params *p) {
    set_buckets(p);
    p->remat = TRAIN_REMAT_ON, p->accumulate = 1;
}

/* kohya's ss_bucket_info: sizes in order, pictures per epoch, and how far shapes are from their buckets' on average. */
static void check_bucket_info(const char *path) {
    struct error e = {{0}};
    struct st_file *f = st_open(path, &e);
    if (!f) fail_msg("%s", e.text);
    const char *text = st_meta_find(f, "ss_bucket_info");
    if (!text) fail_msg("%s has no ss_bucket_info", path);
    static const char start[] = "{\"buckets\": {\"0\": {\"resolution\": [48, 80], \"count\": 1}, \"1\": {\"resolution\": [64, "
                                "64], \"count\": 2}, \"2\": {\"resolution\": [80, 48], \"count\": 2}}, \"mean_img_ar_error\": ";
    if (strncmp(text, start, strlen(start))) fail_msg("%s", text);
    double want = (fabs(80 / 48.0 - 2) + fabs(80 / 48.0 - 160 / 78.0) + fabs(48 / 80.0 - 70 / 130.0)) / 5;
    assert_true(fabs(strtod(text + strlen(start), NULL) - want) < 1e-9);
    st_close(&f);
}

/* Three sizes, a tape each; the short batch of the high picture counts that one picture alone. */
static void test_buckets(void **state) {
    struct error e = {{0}};
    struct train_params p = runs_params("buckets");
    set_buckets(&p);
    struct trainer *t = trainer_create(runs_engine, &p, false, &e);
    if (!t) fail_msg("%s", e.text);
    struct train_plan plan = trainer_plan(t);
    assert_int_equal(plan.n_buckets, 3);
    assert_true(plan.buckets[0].w == 80 && plan.buckets[0].h == 48 && plan.buckets[0].n_pictures == 2);
    assert_true(plan.buckets[1].w == 48 && plan.buckets[1].h == 80 && plan.buckets[1].n_pictures == 1);
    assert_true(plan.buckets[2].w == 64 && plan.buckets[2].h == 64 && plan.buckets[2].n_pictures == 2);
    unsigned seen = 0;
    t->params.flip = false; /* so that it is known which version is taken */
    for (int i = 0; i < 3; i++) { /* an epoch */
        struct rng same = t->rng;
        float z[2 * 8 * 8 * 4];
        if (!train_batch_draw(t, 1, &e)) fail_msg("%s", e.text);
        const struct bucket_batch *batch = &t->feed->batches[t->feed->order_at - 1];
        assert_true((size_t)(2 * t->lw * t->lh * t->channels) <= sizeof z / sizeof *z);
        rng_randn(&same, z, (size_t)(2 * t->lw * t->lh * t->channels));
        for (int b = 0; b < batch->n; b++)
            check_latent(t, (size_t)b, t->feed->order[batch->first + b], z, (double)t->e->model->vae.shift_factor);
        seen |= 1u << t->bucket;
        assert_true(t->batch_seed[0] == (t->bucket == 1 ? 1.0f : 0.5f) && t->batch_seed[1] == (t->bucket == 1 ? 0 : 0.5f));
        assert_true(t->lw * 8 == t->buckets[t->bucket].size.w && t->tape->prog != NULL);
    }
    assert_int_equal(seen, 7);
    trainer_destroy(&t);
    resumes("buckets", set_buckets);
    assert_string_equal(outcome("buckets2", set_buckets), outcome("buckets3", set_buckets_remat));
    check_bucket_info(runs_params("buckets2").out);
    p = runs_params("buckets4"), p.buckets.min = 64;
    runs_refused(&p, "--buckets");
}

/* --- the LoRA -------------------------------------------------------------------------------------------- */

static void set_dropout(struct train_params *p) { p->dropout = (struct lora_dropout){0.3f, 0.2f, 0.1f}; }
static void set_dropout_remat(struct train_params *p) {
    set_dropout(p);
    p->remat = TRAIN_REMAT_ON;
}

/* Replayed segments drop the same places, so recomputing changes nothing. */
static void test_dropout(void **state) {
    resumes("dropout", set_dropout);
    const char *dropped = outcome("dropout2", set_dropout);
    assert_string_not_equal(dropped, outcome("plain3", NULL));
    assert_string_equal(dropped, outcome("dropout3", set_dropout_remat));
    struct train_params p = runs_params("dropout4");
    p.dropout.rank = 1;
    runs_refused(&p, "below 1");
}

/* A module that is dropped gets no gradient at all: at a rate of nearly 1 every one of them. */
/* Every batch drops other places. */
static void test_dropout_keys(void **state) {
    struct error e = {{0}};
    struct train_params p = runs_params("keys");
    float keys[3][2];
    set_dropout(&p);
    struct trainer *t = trainer_create(runs_engine, &p, false, &e);
    if (!t) fail_msg("%s", e.text);
    for (int i = 0; i < 3; i++) {
        if (!train_batch_draw(t, 1, &e)) fail_msg("%s", e.text);
        memcpy(keys[i], t->dropout_key, sizeof keys[i]);
        for (int j = 0; j < i; j++) assert_true(keys[i][0] != keys[j][0] && keys[i][1] != keys[j][1]);
    }
    trainer_destroy(&t);
}

static void test_module_dropout(void **state) {
    for (int drop = 0; drop < 2; drop++) {
        struct train_params p = runs_params(drop ? "module" : "no-module");
        p.steps = 1, p.optimiser.weight_decay = 0, p.dropout.module = drop ? 0.9999f : 0;
        runs_well(&p);
        struct st_file *f = open_file(p.out);
        float most = 0;
        for (size_t i = 0; i < st_count(f); i++) {
            size_t n;
            if (!strstr(st_at(f, i)->name, "lora_up")) continue;
            const float *x = read_all(f, st_at(f, i)->name, &n);
            for (size_t k = 0; k < n; k++) most = fmaxf(most, fabsf(x[k]));
        }
        st_close(&f);
        assert_true(drop ? most == 0 : most > 0);
    }
}

/* Every step's weights, from copies saved on the way; their average by the formula against the file of a run with
 * --ema. */
static void test_ema(void **state) {
    struct train_params plain = runs_params("ema-plain"), p = runs_params("ema");
    plain.save_every = 1;
    runs_well(&plain);
    p.ema = 0.15f; /* below 2/11: the third decay is capped */
    runs_well(&p);
    struct st_file *got = open_file(p.out);
    for (size_t i = 0; i < st_count(got); i++) {
        const char *name = st_at(got, i)->name;
        size_t n, m;
        float *result = read_all(got, name, &n);
        double *mean = arena_alloc_n(runs_arena, n, sizeof *mean);
        for (int k = 0; k < RUNS_STEPS; k++) {
            const double decay[RUNS_STEPS] = {0, 1.0 / 10, 0.15, 0.15};
            const char *path = k + 1 == RUNS_STEPS ? plain.out : arena_printf(runs_arena, "%s-step%08d.safetensors",
                                                                              runs_path("ema-plain/lora"), k + 1);
            struct st_file *f = open_file(path);
            const float *x = read_all(f, name, &m);
            for (size_t j = 0; j < n; j++) mean[j] = decay[k] * mean[j] + (1 - decay[k]) * (double)x[j];
            st_close(&f);
        }
        for (size_t j = 0; j < n; j++)
            if (fabs((double)result[j] - mean[j]) > 1e-6) fail_msg("%s: %g, not %g", name, (double)result[j], mean[j]);
    }
    st_close(&got);
    assert_true(train_ema_decay(0.999f, 100) == 100.0f / 109);
    p.ema = 1;
    runs_refused(&p, "--ema");
}

static const struct prompt_line samples[] = {{.prompt = "red fox"}};

static void set_everything(struct train_params *p) {
    set_noise(p), set_half_captions(p), set_flip(p), set_dropout(p);
    p->ema = 0.9f, p->accumulate = 2, p->train_text_encoder = true;
}

/* With all options at once; samples and saves on the way show the average and leave training as it was. */
static void test_everything(void **state) {
    resumes("everything", set_everything);
    struct train_params p = runs_params("everything2");
    set_everything(&p);
    p.samples = samples, p.n_samples = 1, p.sample_every = 2, p.sample_steps = 2, p.save_every = 1;
    runs_well(&p);
    runs_same_file(p.out, runs_path("everything-whole/lora.safetensors"));
    struct st_file *f = open_file(p.out);
    static const char *const meta[][2] = {{"ss_noise_offset", "0.1"}, {"ss_multires_noise_iterations", "4"},
                                          {"ss_multires_noise_discount", "0.3"}, {"ss_ip_noise_gamma", "0.1"},
                                          {"ss_min_snr_gamma", "5.0"}, {"ss_debiased_estimation", "False"},
                                          {"ss_flip_aug", "True"}, {"ss_caption_dropout_rate", "0.5"},
                                          {"ss_network_dropout", "0.3"}, {"ss_rank_dropout", "0.2"},
                                          {"ss_module_dropout", "0.1"}, {"ss_ema_decay", "0.9"}};
    for (size_t i = 0; i < sizeof meta / sizeof *meta; i++) {
        const char *v = st_meta_find(f, meta[i][0]);
        if (!v || strcmp(v, meta[i][1])) fail_msg("%s is %s, not %s", meta[i][0], v ? v : "missing", meta[i][1]);
    }
    st_close(&f);
}

/* --- optimisers ------------------------------------------------------------------------------------------- */

static const char *optimiser_name;

static void set_optimiser(struct train_params *p) {
    bool own = !strcmp(optimiser_name, "prodigy"), constant = !strcmp(optimiser_name, "schedule-free");
    p->optimiser.name = optimiser_name, p->lr = own ? 1 : 1e-3f;
    p->lora_plus = own ? 0 : 4, p->schedule.kind = constant ? TRAIN_CONSTANT : TRAIN_COSINE;
}

static void test_optimisers(void **state) {
    static const char *const names[] = {"lion", "adafactor", "prodigy", "schedule-free"};
    for (int i = 0; i < 4; i++) {
        optimiser_name = names[i];
        resumes(names[i], set_optimiser);
        assert_string_not_equal(outcome(arena_printf(runs_arena, "%s-2", names[i]), set_optimiser),
                                outcome(arena_printf(runs_arena, "%s-3", names[i]), NULL));
    }
    struct train_params p = runs_params("optimisers");
    p.optimiser.name = "prodigy", p.lora_plus = 4;
    runs_refused(&p, "--lora-plus");
    p.lora_plus = 0, p.optimiser.name = "schedule-free";
    runs_refused(&p, "--lr-schedule constant");
    p.schedule.kind = TRAIN_CONSTANT, p.ema = 0.9f;
    runs_refused(&p, "--ema");
    p = runs_params("optimisers2"), p.text_lr = 0.1f;
    runs_refused(&p, "--train-text-encoder");
}

/* Adam's first step is as long as its rate, whatever the gradient: up moves from zero by exactly that. */
static void test_rates(void **state) {
    struct train_params p = runs_params("rates");
    p.steps = 1, p.schedule.kind = TRAIN_CONSTANT, p.lr = 1e-3f, p.lora_plus = 16, p.text_lr = 1e-4f,
    p.train_text_encoder = true;
    runs_well(&p);
    struct st_file *f = open_file(p.out);
    float most[2] = {0}; /* UNet, text encoder */
    for (size_t i = 0; i < st_count(f); i++) {
        size_t n;
        if (!strstr(st_at(f, i)->name, "lora_up")) continue;
        const float *x = read_all(f, st_at(f, i)->name, &n);
        float *m = &most[!strncmp(st_at(f, i)->name, "lora_te", 7)];
        for (size_t k = 0; k < n; k++) *m = fmaxf(*m, fabsf(x[k]));
    }
    st_close(&f);
    assert_true(fabsf(most[0] - 16e-3f) < 16e-6f && fabsf(most[1] - 16e-4f) < 16e-6f);
}

/* --- where the LoRA lives ---------------------------------------------------------------------------------- */

/* Each module's rank and alpha by the file, checked by `want` (0: there must be none). */
static void check_ranks(const char *path, int (*want)(const char *name), float (*alpha)(int rank)) {
    struct st_file *f = open_file(path);
    int n = 0;
    for (size_t i = 0; i < st_count(f); i++) {
        const char *name = st_at(f, i)->name, *dot = strstr(name, ".lora_down");
        size_t one;
        if (!dot) continue;
        n++;
        int rank = (int)st_at(f, i)->dims[0];
        if (rank != want(name)) fail_msg("%s has rank %d, not %d", name, rank, want(name));
        const char *key = arena_printf(runs_arena, "%.*s.alpha", (int)(dot - name), name);
        assert_true(fabsf(*read_all(f, key, &one) - alpha(rank)) < 1e-4f);
    }
    st_close(&f);
    assert_true(n > 0);
}

static int want_blocks(const char *name) {
    if (strstr(name, "mid_block")) return 4;
    return strstr(name, "up_blocks_1_attentions_0") ? 8 : strstr(name, "up_blocks_1") ? 4 : 0;
}
static float alpha_is_rank(int rank) { return (float)rank; }
static int want_four(const char *name) { return 4; }
static float alpha_three(int rank) { return 3; }
static float alpha_root(int rank) { return 3 * sqrtf((float)rank); }

static void test_blocks(void **state) {
    struct train_params p = runs_params("blocks");
    p.steps = 1, p.blocks = "M00, up_blocks.1", p.block_ranks = "up_blocks.1.attentions.0=8";
    runs_well(&p);
    check_ranks(p.out, want_blocks, alpha_is_rank);
    struct train_params all = runs_params("blocks2"), names = runs_params("blocks3");
    all.steps = names.steps = 1, names.blocks = "IN,M00,OUT00-OUT99";
    runs_well(&all), runs_well(&names);
    assert_string_equal(runs_tensors_hash(all.out), runs_tensors_hash(names.out));
    p.blocks = "M00,IN77";
    runs_refused(&p, "no layer in \"IN77\"");
    p.blocks = "M00,,";
    runs_refused(&p, "no list of blocks");
    p.blocks = NULL, p.block_ranks = "M00";
    runs_refused(&p, "IN04=8");
    p.block_ranks = "M00=0";
    runs_refused(&p, "IN04=8");
}

static void test_rslora(void **state) {
    struct train_params p = runs_params("rslora");
    p.steps = 1, p.rslora = true, p.alpha = 3;
    runs_well(&p);
    check_ranks(p.out, want_four, alpha_root);
    p = runs_params("alpha"), p.steps = 1, p.alpha = 3;
    runs_well(&p);
    check_ranks(p.out, want_four, alpha_three);
}

static void set_norms(struct train_params *p) { p->max_weight_norm = 0.02f, p->lr = 0.05f; }

/* No module of the file has scale*|up*down| above the limit, and some lie on it. */
static void test_weight_norms(void **state) {
    resumes("norms", set_norms);
    struct st_file *f = open_file(runs_path("norms-whole/lora.safetensors"));
    double most = 0;
    for (size_t m = 0; m < st_count(f); m++) {
        const char *name = st_at(f, m)->name, *dot = strstr(name, ".lora_down");
        size_t nd, nu;
        if (!dot) continue;
        int rank = (int)st_at(f, m)->dims[0];
        const float *d = read_all(f, name, &nd),
                    *u = read_all(f, arena_printf(runs_arena, "%.*s.lora_up.weight", (int)(dot - name), name), &nu);
        size_t in = nd / (size_t)rank, out = nu / (size_t)rank;
        double sum = 0;
        for (size_t o = 0; o < out; o++)
            for (size_t i = 0; i < in; i++) {
                double w = 0;
                for (int r = 0; r < rank; r++) w += (double)u[o * (size_t)rank + (size_t)r] * (double)d[(size_t)r * in + i];
                sum += w * w;
            }
        most = fmax(most, sqrt(sum));
    }
    st_close(&f);
    assert_true(fabs(most - 0.02) < 1e-6);
    struct train_params p = runs_params("norms2");
    p.max_weight_norm = -1;
    runs_refused(&p, "--scale-weight-norms");
}

/* --- masks, plots, event files ------------------------------------------------------------------------------- */

/* A folder with a mask of this grey for every picture; 300: half white, half black; 400: columns of white and black, and the
 * lower half black. */
static const char *mask_folder(int grey) {
    struct error e = {{0}};
    const char *folder = runs_path(arena_printf(runs_arena, "masks%d", grey));
    assert_true(os_dir_make(folder, &e));
    for (int i = 0; i < 3; i++) {
        struct image im = image_create(runs_arena, RUNS_SIDE, RUNS_SIDE);
        for (int p = 0; p < RUNS_SIDE * RUNS_SIDE * 3; p++)
            im.rgb[p] = (uint8_t)(grey < 256 ? grey : p / 3 % RUNS_SIDE < RUNS_SIDE / 2 ? 255 : 0);
        for (int p = 0; grey == 400 && p < RUNS_SIDE * RUNS_SIDE * 3; p++)
            im.rgb[p] = p / 3 % 2 && p / 3 / RUNS_SIDE < RUNS_SIDE / 2 ? 255 : 0;
        assert_true(png_write(arena_printf(runs_arena, "%s/%d.png", folder, i), &im, NULL, 0, &e));
    }
    return folder;
}

static float masked_loss(int grey, const char **hash) {
    struct train_params p = runs_params(arena_printf(runs_arena, "masked%d", grey));
    if (grey >= 0) p.masks = mask_folder(grey);
    struct runs_outcome o = runs_try(&p);
    if (!o.ok) fail_msg("%s", o.e.text);
    *hash = runs_tensors_hash(p.out);
    return o.first_loss;
}

static void set_masks(struct train_params *p) { p->masks = mask_folder(300), p->flip = true; }

/* White changes nothing, grey scales the loss, black leaves nothing to learn, half counts half the pixels. */
static void test_masks(void **state) {
    const char *plain, *white, *grey, *black, *half;
    float loss = masked_loss(-1, &plain);
    assert_true(masked_loss(255, &white) == loss);
    assert_string_equal(white, plain);
    assert_true(fabsf(masked_loss(51, &grey) - loss * 0.2f) < 1e-5f * loss);
    assert_true(masked_loss(0, &black) == 0);
    float left = masked_loss(300, &half);
    assert_true(left > 0 && left < loss);
    resumes("masks", set_masks);
    struct train_params p = runs_params("masks-changed"); /* other masks are another run */
    p.masks = mask_folder(90), p.stop_after = 1;
    runs_well(&p);
    p.masks = mask_folder(91), p.stop_after = 0, p.resume = true;
    runs_refused(&p, "pictures");
    p = runs_params("masks-missing");
    p.masks = runs_path("nowhere");
    runs_refused(&p, "has no mask");
}

/* The mirrored picture has the mirrored mask, and a latent pixel the mean of its pixels. */
static void test_mask_pixels(void **state) {
    struct error e = {{0}};
    struct train_params p = runs_params("mask-pixels");
    set_masks(&p);
    struct trainer *t = trainer_create(runs_engine, &p, false, &e);
    if (!t) fail_msg("%s", e.text);
    for (size_t i = 0; i < t->data.n * 2; i++)
        for (int y = 0; y < t->lh; y++)
            for (int x = 0; x < t->lw; x++) {
                float want = (x < t->lw / 2) == (i % 2 == 0) ? 1 : 0;
                assert_true(t->masks[(i * (size_t)t->lh + (size_t)y) * (size_t)t->lw + (size_t)x] == want);
            }
    trainer_destroy(&t);
    p = runs_params("mask-means"), p.masks = mask_folder(400); /* finer than latent pixels: their means */
    if (!(t = trainer_create(runs_engine, &p, false, &e))) fail_msg("%s", e.text);
    for (int i = 0; i < t->lw * t->lh; i++)
        assert_float_equal(t->masks[i], i / t->lw < t->lh / 2 ? 0.5 : 0, 1e-6);
    trainer_destroy(&t);
}

static void set_plot(struct train_params *p) {
    p->plot = arena_printf(runs_arena, "%s.png", p->out);
    p->tensorboard = arena_printf(runs_arena, "%s.board", p->out);
}

/* A run in two halves draws the same picture, as the state keeps what was. */
static void test_plot(void **state) {
    struct error e = {{0}};
    int w, h;
    resumes("plot", set_plot);
    const char *whole = runs_path("plot-whole/lora.safetensors.png");
    runs_same_file(whole, runs_path("plot-halves/lora.safetensors.png"));
    assert_true(image_probe(whole, &w, &h, &e) && w == 960 && h == 600);
    struct os_entry *entries;
    size_t n;
    assert_true(os_dir_list(runs_arena, runs_path("plot-halves/lora.safetensors.board"), &entries, &n, &e));
    assert_int_equal(n, 2);
}

/* Another setting is another run. */
static void test_resume_refused(void **state) {
    struct train_params p = runs_params("refused");
    p.stop_after = 1;
    runs_well(&p);
    p.stop_after = 0, p.resume = true;
    struct train_params other = p;
    other.flip = true;
    runs_refused(&other, "other settings");
    other = p, other.noise.offset = 0.01f;
    runs_refused(&other, "other settings");
    other = p, other.ema = 0.5f;
    runs_refused(&other, "other settings");
    runs_well(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_batch),          cmocka_unit_test(test_dropout_keys),
        cmocka_unit_test(test_noise),          cmocka_unit_test(test_caption_dropout), cmocka_unit_test(test_flip),
        cmocka_unit_test(test_times),          cmocka_unit_test(test_buckets),         cmocka_unit_test(test_tags),
        cmocka_unit_test(test_dropout),        cmocka_unit_test(test_module_dropout),  cmocka_unit_test(test_ema),
        cmocka_unit_test(test_everything),     cmocka_unit_test(test_optimisers),      cmocka_unit_test(test_rates),
        cmocka_unit_test(test_blocks),         cmocka_unit_test(test_rslora),          cmocka_unit_test(test_weight_norms),
        cmocka_unit_test(test_masks),          cmocka_unit_test(test_mask_pixels),     cmocka_unit_test(test_plot),
        cmocka_unit_test(test_resume_refused),
    };
    return cmocka_run_group_tests(tests, runs_setup, runs_teardown);
}
