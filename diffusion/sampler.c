#include "diffusion/sampler_priv.h"

#include "base/arena.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define SAMPLER(id) extern const struct sampler_kind sampler_##id;
#include "diffusion/samplers.def"
#undef SAMPLER

static const struct sampler_kind *const kinds[] = {
#define SAMPLER(id) &sampler_##id,
#include "diffusion/samplers.def"
#undef SAMPLER
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

const char *sampler_name(size_t i) { return i < N_KINDS ? kinds[i]->name : NULL; }
const char *sampler_title(size_t i) { return i < N_KINDS ? kinds[i]->title : NULL; }

static const struct sampler_kind *find_kind(const char *name, struct error *e) {
    char known[512] = "";
    size_t used = 0;
    for (size_t i = 0; i < N_KINDS; i++) {
        if (strcmp(kinds[i]->name, name) == 0) return kinds[i];
        size_t length = strlen(kinds[i]->name);
        if (used + length + 3 > sizeof known) continue;
        if (used) memcpy(known + used, ", ", 3), used += 2;
        memcpy(known + used, kinds[i]->name, length + 1), used += length;
    }
    error_set(e, "sampler '%.60s' is not known; it can be %s", name, known);
    return NULL;
}

static bool choose_sigmas(const struct sampler_kind *kind, const struct schedule_params *p,
                          enum schedule_sigmas *out, struct error *e) {
    *out = p->sigmas;
    if (p->sigmas == SCHEDULE_SIGMAS_SPACED) return true;
    if (!p->sigmas_chosen && !kind->sigmas_by_config) *out = SCHEDULE_SIGMAS_SPACED;
    if (p->sigmas_chosen && !kind->follows_sigmas)
        return error_set(e, "the %s sampler visits whole timesteps and has no karras, exponential or sgm_uniform "
                            "schedule; use euler or dpmpp-2m, or the schedule default, leading, trailing or "
                            "linspace", kind->name);
    return true;
}

static void ask_step(struct sampler *s) {
    s->phase = 0;
    s->ask_x = s->x;
    if (s->step >= s->steps->n) return;
    s->ask_t = s->steps->t[s->step];
    s->ask_sigma = s->steps->sigma[s->step];
}

struct sampler *sampler_create(const char *name, const struct sampler_params *p, struct error *e) {
    const struct sampler_kind *kind = find_kind(name, e);
    if (!kind) return NULL;
    assert(p->n_rngs == 1 || p->n_rngs == p->n_images);
    assert(p->n_images > 0 && p->image_floats > 0);
    assert(kind->n_history <= SAMPLER_MAX_HISTORY);
    enum schedule_sigmas sigmas;
    if (!choose_sigmas(kind, &p->schedule->params, &sigmas, e)) return NULL;
    struct schedule_steps *steps = schedule_steps_create(p->schedule, kind->family, sigmas, p->n_steps, e);
    if (!steps) return NULL;
    struct arena *arena = arena_create(NULL);
    struct sampler *s = arena_alloc(arena, sizeof *s);
    s->arena = arena;
    s->kind = kind;
    s->params = *p;
    s->schedule = p->schedule;
    s->steps = steps;
    s->n = p->n_images * p->image_floats;
    float **buffers[] = {&s->x, &s->x0, &s->input, &s->noise};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        *buffers[i] = arena_alloc_n(arena, s->n, sizeof(float));
    for (int i = 0; i < kind->n_history; i++) s->past[i] = arena_alloc_n(arena, s->n, sizeof(float));
    ask_step(s);
    if (kind->check && !kind->check(s, e)) sampler_destroy(&s);
    return s;
}

void sampler_destroy(struct sampler **s) {
    if (!*s) return;
    schedule_steps_destroy(&(*s)->steps);
    struct arena *arena = (*s)->arena;
    arena_destroy(&arena);
    *s = NULL;
}

const float *sampler_noise(struct sampler *s) {
    size_t n_rngs = s->params.n_rngs, each = s->n / n_rngs;
    for (size_t i = 0; i < n_rngs; i++) rng_randn(&s->params.rngs[i], s->noise + i * each, each);
    return s->noise;
}

void sampler_start_noise(struct sampler *s, const float *noise) {
    for (size_t i = 0; i < s->n; i++) s->x[i] = noise[i] * s->steps->init_sigma;
    s->step = s->call = s->n_past = 0;
    s->asked = false;
    s->started = true;
    ask_step(s);
}

void sampler_start(struct sampler *s) { sampler_start_noise(s, sampler_noise(s)); }

bool sampler_next(struct sampler *s, struct sampler_request *q) {
    assert(s->started && !s->asked);
    if (s->step >= s->steps->n) return false;
    float scale = sqrtf(s->ask_sigma * s->ask_sigma + 1.0f);
    for (size_t i = 0; i < s->n; i++) s->input[i] = s->kind->scales_input ? s->ask_x[i] / scale : s->ask_x[i];
    *q = (struct sampler_request){.x = s->input,
                                  .t = s->ask_t,
                                  .sigma = s->ask_sigma,
                                  .step = s->step,
                                  .n_steps = s->steps->n,
                                  .call = s->call};
    s->asked = true;
    return true;
}

void sampler_feed(struct sampler *s, const float *out) {
    assert(s->asked);
    s->asked = false;
    s->call++;
    s->kind->feed(s, out);
}

const float *sampler_x(const struct sampler *s) { return s->x; }
const float *sampler_x0(const struct sampler *s) { return s->x0; }

void sampler_denoise(const struct sampler *s, const float *x, float sigma, const float *out, float *x0) {
    float square = sigma * sigma + 1.0f, c_out = -sigma / sqrtf(square);
    switch (s->schedule->params.prediction) {
    case SCHEDULE_PREDICT_EPSILON:
        for (size_t i = 0; i < s->n; i++) x0[i] = x[i] - sigma * out[i];
        return;
    case SCHEDULE_PREDICT_V:
        for (size_t i = 0; i < s->n; i++) x0[i] = out[i] * c_out + x[i] / square;
        return;
    case SCHEDULE_PREDICT_SAMPLE: memcpy(x0, out, s->n * sizeof *x0); return;
    }
}

void sampler_remember(struct sampler *s) {
    int n = s->kind->n_history;
    float *oldest = s->past[n - 1];
    memmove(s->past + 1, s->past, (size_t)(n - 1) * sizeof *s->past);
    s->past[0] = oldest;
    memcpy(oldest, s->x0, s->n * sizeof *oldest);
    if (s->n_past < n) s->n_past++;
}

void sampler_step_done(struct sampler *s) {
    s->step++;
    ask_step(s);
}
