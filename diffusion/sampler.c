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

static void list_kinds(char *text, size_t bytes, bool with_eta) {
    size_t used = 0;
    text[0] = 0;
    for (size_t i = 0; i < N_KINDS; i++) {
        size_t length = strlen(kinds[i]->name);
        if ((with_eta && !kinds[i]->takes_eta) || used + length + 3 > bytes) continue;
        if (used) memcpy(text + used, ", ", 3), used += 2;
        memcpy(text + used, kinds[i]->name, length + 1), used += length;
    }
}

static const struct sampler_kind *find_kind(const char *name, struct error *e) {
    for (size_t i = 0; i < N_KINDS; i++)
        if (strcmp(kinds[i]->name, name) == 0) return kinds[i];
    char known[512];
    list_kinds(known, sizeof known, false);
    error_set(e, "sampler '%.60s' is not known; it can be %s", name, known);
    return NULL;
}

static bool choose_sigmas(const struct sampler_kind *kind, const struct schedule_params *p,
                          enum schedule_sigmas *out, struct error *e) {
    *out = p->sigmas;
    if (p->sigmas_chosen && kind->family == SCHEDULE_FAMILY_LCM)
        return error_set(e, "the %s sampler brings its own times; leave the schedule at default", kind->name);
    if (p->sigmas == SCHEDULE_SIGMAS_SPACED) return true;
    if (!p->sigmas_chosen && !kind->sigmas_by_config) *out = SCHEDULE_SIGMAS_SPACED;
    if (p->sigmas_chosen && !kind->follows_sigmas)
        return error_set(e, "the %s sampler visits whole timesteps and has no karras or other schedule of sigmas; use "
                            "euler or dpmpp-2m, or the schedule default, leading, trailing or linspace", kind->name);
    return true;
}

static bool choose_eta(const struct sampler_kind *kind, const struct sampler_params *p, float *out, struct error *e) {
    *out = p->has_eta ? p->eta : kind->eta;
    if (!p->has_eta || kind->takes_eta) return true;
    char known[512];
    list_kinds(known, sizeof known, true);
    return error_set(e, "the %s sampler has no eta; leave --eta out, or use one that has it: %s", kind->name, known);
}

static void ask_step(struct sampler *s) {
    s->phase = 0;
    s->ask_x = s->x;
    s->ask_sigma = 0;
    if (s->step >= s->steps->n) return;
    s->ask_t = s->steps->t[s->step];
    s->ask_sigma = s->steps->sigma[s->step];
}

struct sampler *sampler_create(const char *name, const struct sampler_params *p, struct error *e) {
    const struct sampler_kind *kind = find_kind(name, e);
    if (!kind) return NULL;
    assert(p->n_noises == 1 || p->n_noises == p->n_images);
    assert(p->n_images > 0 && p->image_floats > 0);
    assert(kind->n_history <= SAMPLER_MAX_HISTORY);
    enum schedule_sigmas sigmas;
    float eta;
    if (!choose_sigmas(kind, &p->schedule->params, &sigmas, e) || !choose_eta(kind, p, &eta, e)) return NULL;
    struct schedule_steps *steps = schedule_steps_create(p->schedule, kind->family, sigmas, p->n_steps, e);
    if (!steps) return NULL;
    struct arena *arena = arena_create(NULL);
    struct sampler *s = arena_alloc(arena, sizeof *s);
    s->arena = arena;
    s->kind = kind;
    s->params = *p;
    s->schedule = p->schedule;
    s->steps = steps;
    s->eta = eta;
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
    size_t n_noises = s->params.n_noises, each = s->n / n_noises;
    for (size_t i = 0; i < n_noises; i++) noise_stream_draw(&s->params.noises[i], s->noise + i * each, each);
    return s->noise;
}

static void start(struct sampler *s, int first) {
    s->step = s->first = first;
    s->call = s->n_past = 0;
    s->asked = false;
    s->started = true;
    ask_step(s);
}

void sampler_start_noise(struct sampler *s, const float *noise) {
    for (size_t i = 0; i < s->n; i++) s->x[i] = noise[i] * s->steps->init_sigma;
    start(s, 0);
}

void sampler_start(struct sampler *s) { sampler_start_noise(s, sampler_noise(s)); }

/* Shares of z0 and noise in latents at the next request. */
static void shares(const struct sampler *s, float *keep, float *fresh) {
    *keep = 1, *fresh = s->ask_sigma;
    if (s->kind->scales_input || s->step >= s->steps->n) return;
    if (s->kind->family == SCHEDULE_FAMILY_MULTISTEP) {
        struct sampler_level at = sampler_level(s->ask_sigma);
        *keep = at.alpha, *fresh = at.s;
        return;
    }
    float alpha = s->schedule->alpha_bar[(int)s->ask_t];
    *keep = sqrtf(alpha), *fresh = sqrtf(1.0f - alpha);
}

void sampler_start_image(struct sampler *s, const float *z0, const float *noise, int first) {
    assert(first >= 0 && first < s->steps->n);
    start(s, first);
    float keep, fresh;
    shares(s, &keep, &fresh);
    for (size_t i = 0; i < s->n; i++) s->x[i] = keep * z0[i] + fresh * noise[i];
}

void sampler_blend(struct sampler *s, const float *z0, const float *noise, const float *mask) {
    assert(s->started && !s->asked);
    float keep, fresh;
    shares(s, &keep, &fresh);
    for (size_t i = 0; i < s->n; i++) {
        float known = keep * z0[i] + fresh * noise[i];
        s->ask_x[i] = (1.0f - mask[i]) * known + mask[i] * s->ask_x[i];
    }
}

int sampler_steps(const struct sampler *s) { return s->steps->n; }

bool sampler_next(struct sampler *s, struct sampler_request *q) {
    assert(s->started && !s->asked);
    if (s->step >= s->steps->n) return false;
    float scale = sqrtf(s->ask_sigma * s->ask_sigma + 1.0f);
    for (size_t i = 0; i < s->n; i++) s->input[i] = s->kind->scales_input ? s->ask_x[i] / scale : s->ask_x[i];
    bool twice = s->kind->family == SCHEDULE_FAMILY_PNDM && s->step > 1; /* its second step takes two calls */
    *q = (struct sampler_request){.x = s->input,
                                  .t = s->ask_t,
                                  .sigma = s->ask_sigma,
                                  .step = s->step - twice,
                                  .n_steps = s->params.n_steps,
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

const float *sampler_x(const struct sampler *s) { return s->ask_x; }
const float *sampler_x0(const struct sampler *s) { return s->x0; }

void sampler_remember(struct sampler *s, const float *values) {
    int n = s->kind->n_history;
    float *oldest = s->past[n - 1];
    memmove(s->past + 1, s->past, (size_t)(n - 1) * sizeof *s->past);
    s->past[0] = oldest;
    memcpy(oldest, values, s->n * sizeof *oldest);
    if (s->n_past < n) s->n_past++;
}

void sampler_ask(struct sampler *s, float *x, float sigma) {
    s->phase++;
    s->ask_x = x;
    s->ask_sigma = sigma;
    s->ask_t = (float)schedule_time_of_sigma(s->schedule, sigma);
}

void sampler_step_done(struct sampler *s) {
    s->step++;
    ask_step(s);
}
