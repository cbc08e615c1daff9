#include "diffusion/schedule.h"

#include "base/arena.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { MAX_TRAIN_STEPS = 100000 };

/* torch.linspace in single precision: from both ends toward the middle, one rounding per value. */
static void linspace_torch(float *dst, int n, double from, double to) {
    float start = (float)from, end = (float)to;
    float step = n > 1 ? (end - start) / (float)(n - 1) : 0;
    for (int i = 0; i < n; i++)
        dst[i] = i < n / 2 ? fmaf(step, (float)i, start) : fmaf(-step, (float)(n - 1 - i), end);
}

static double cosine_alpha_bar(double t) {
    double c = cos((t + 0.008) / 1.008 * M_PI / 2);
    return c * c;
}

static void fill_betas(const struct schedule_params *p, float *beta) {
    int n = p->n_train;
    if (p->trained_betas) {
        memcpy(beta, p->trained_betas, (size_t)n * sizeof *beta);
        return;
    }
    switch (p->beta) {
    case SCHEDULE_BETA_LINEAR: linspace_torch(beta, n, p->beta_start, p->beta_end); return;
    case SCHEDULE_BETA_SCALED_LINEAR:
        linspace_torch(beta, n, sqrt(p->beta_start), sqrt(p->beta_end));
        for (int i = 0; i < n; i++) beta[i] *= beta[i];
        return;
    case SCHEDULE_BETA_SQUAREDCOS:
        for (int i = 0; i < n; i++) {
            double ratio = cosine_alpha_bar((double)(i + 1) / n) / cosine_alpha_bar((double)i / n);
            beta[i] = (float)fmin(1 - ratio, 0.999);
        }
        return;
    }
    assert(!"unknown beta schedule");
}

/* Products accumulate in double and are stored in single, as torch.cumprod does on the CPU. */
static void accumulate(const float *beta, float *alpha_bar, int n) {
    double product = 1;
    for (int i = 0; i < n; i++) {
        product *= (double)(1.0f - beta[i]);
        alpha_bar[i] = (float)product;
    }
}

/* Shifts and stretches sqrt(alpha_bar) so that the last time is pure noise, then goes back to betas: the
 * detour over betas is diffusers', and decides the last digits. */
static void rescale_zero_terminal(float *beta, float *alpha_bar, int n) {
    accumulate(beta, alpha_bar, n);
    float first = sqrtf(alpha_bar[0]), last = sqrtf(alpha_bar[n - 1]);
    float before = 0;
    for (int i = 0; i < n; i++) {
        float root = (sqrtf(alpha_bar[i]) - last) * (first / (first - last));
        float bar = root * root;
        beta[i] = 1.0f - (i ? bar / before : bar);
        before = bar;
    }
}

static bool check(const struct schedule_params *p, struct error *e) {
    if (p->n_train < 2 || p->n_train > MAX_TRAIN_STEPS)
        return error_set(e, "the scheduler has %d training timesteps; between 2 and %d are possible", p->n_train,
                         MAX_TRAIN_STEPS);
    if (!(p->beta_start > 0 && p->beta_start <= p->beta_end && p->beta_end < 1))
        return error_set(e, "the scheduler's betas run from %g to %g; they must rise and lie between 0 and 1",
                         p->beta_start, p->beta_end);
    if (p->steps_offset < 0 || p->steps_offset >= p->n_train)
        return error_set(e, "the scheduler's steps_offset is %d; it must lie between 0 and %d", p->steps_offset,
                         p->n_train - 1);
    if (!(p->clip_range >= 0))
        return error_set(e, "the scheduler's clip range is %g; it must not be negative", (double)p->clip_range);
    for (int i = 0; p->trained_betas && i < p->n_train; i++)
        if (!(p->trained_betas[i] > 0 && p->trained_betas[i] < 1))
            return error_set(e, "the scheduler's trained beta %d is %g; it must lie between 0 and 1", i,
                             (double)p->trained_betas[i]);
    return true;
}

struct schedule *schedule_create(const struct schedule_params *given, struct error *e) {
    struct schedule_params p = *given;
    if (p.n_train == 0) p.n_train = 1000;
    if (p.beta_start == 0) p.beta_start = 0.0001;
    if (p.beta_end == 0) p.beta_end = 0.02;
    if (!check(&p, e)) return NULL;
    struct arena *arena = arena_create(NULL);
    struct schedule *s = arena_alloc(arena, sizeof *s);
    int n = p.n_train;
    s->arena = arena;
    s->n_train = n;
    s->alpha_bar = arena_alloc_n(arena, (size_t)n, sizeof *s->alpha_bar);
    s->sigma = arena_alloc_n(arena, (size_t)n, sizeof *s->sigma);
    float *beta = arena_alloc_n(arena, (size_t)n, sizeof *beta);
    fill_betas(&p, beta);
    if (p.zero_terminal_snr) rescale_zero_terminal(beta, s->alpha_bar, n);
    accumulate(beta, s->alpha_bar, n);
    for (int i = 0; i < n; i++) {
        float a = s->alpha_bar[i];
        if (p.zero_terminal_snr && i == n - 1) a = 0x1p-24f; /* sigma 4096 stands for infinity */
        s->sigma[i] = sqrtf((1.0f - a) / a);
    }
    p.trained_betas = NULL; /* borrowed only while creating */
    s->params = p;
    return s;
}

void schedule_destroy(struct schedule **s) {
    if (!*s) return;
    struct arena *arena = (*s)->arena;
    arena_destroy(&arena);
    *s = NULL;
}

/* ---- Names ---- */

struct named {
    const char *name;
    int value;
};

static bool parse(const char *what, const struct named *table, size_t n, const char *name, int *out,
                  struct error *e) {
    char known[256] = "";
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        if (strcmp(table[i].name, name) == 0) {
            *out = table[i].value;
            return true;
        }
        size_t length = strlen(table[i].name);
        if (used + length + 3 > sizeof known) continue;
        if (used) memcpy(known + used, ", ", 3), used += 2;
        memcpy(known + used, table[i].name, length + 1), used += length;
    }
    return error_set(e, "%s '%.60s' is not known; it can be %s", what, name, known);
}

#define PARSE(what, table, name, out, e) parse(what, table, sizeof table / sizeof *table, name, out, e)

bool schedule_beta_parse(const char *name, enum schedule_beta *out, struct error *e) {
    static const struct named table[] = {{"linear", SCHEDULE_BETA_LINEAR},
                                         {"scaled_linear", SCHEDULE_BETA_SCALED_LINEAR},
                                         {"squaredcos_cap_v2", SCHEDULE_BETA_SQUAREDCOS}};
    int value;
    if (!PARSE("the scheduler's beta_schedule", table, name, &value, e)) return false;
    *out = (enum schedule_beta)value;
    return true;
}

bool schedule_prediction_parse(const char *name, enum schedule_prediction *out, struct error *e) {
    static const struct named table[] = {{"epsilon", SCHEDULE_PREDICT_EPSILON},
                                         {"v_prediction", SCHEDULE_PREDICT_V},
                                         {"sample", SCHEDULE_PREDICT_SAMPLE}};
    int value;
    if (!PARSE("the scheduler's prediction_type", table, name, &value, e)) return false;
    *out = (enum schedule_prediction)value;
    return true;
}

bool schedule_spacing_parse(const char *name, enum schedule_spacing *out, struct error *e) {
    static const struct named table[] = {{"linspace", SCHEDULE_SPACING_LINSPACE},
                                         {"leading", SCHEDULE_SPACING_LEADING},
                                         {"trailing", SCHEDULE_SPACING_TRAILING}};
    int value;
    if (!PARSE("the scheduler's timestep_spacing", table, name, &value, e)) return false;
    *out = (enum schedule_spacing)value;
    return true;
}

bool schedule_choose(struct schedule_params *p, const char *name, struct error *e) {
    enum { SIGMAS = 16, KEEP = 32, FULL = 64 }; /* FULL: over all times, as linspace has them */
    static const struct named table[] = {
        {"default", KEEP},
        {"karras", SIGMAS | SCHEDULE_SIGMAS_KARRAS},
        {"exponential", SIGMAS | SCHEDULE_SIGMAS_EXPONENTIAL},
        {"karras_full", FULL | SIGMAS | SCHEDULE_SIGMAS_KARRAS},
        {"exponential_full", FULL | SIGMAS | SCHEDULE_SIGMAS_EXPONENTIAL},
        {"beta", SIGMAS | SCHEDULE_SIGMAS_BETA},
        {"normal", SIGMAS | SCHEDULE_SIGMAS_NORMAL},
        {"simple", SIGMAS | SCHEDULE_SIGMAS_SIMPLE},
        {"sgm_uniform", SIGMAS | SCHEDULE_SIGMAS_SGM_UNIFORM},
        {"trailing", SCHEDULE_SPACING_TRAILING},
        {"leading", SCHEDULE_SPACING_LEADING},
        {"linspace", SCHEDULE_SPACING_LINSPACE},
    };
    int value;
    if (!PARSE("schedule", table, name, &value, e)) return false;
    if (value & KEEP) return true;
    if (value & SIGMAS) {
        p->sigmas = (enum schedule_sigmas)(value & (SIGMAS - 1));
        if (value & FULL) p->spacing = SCHEDULE_SPACING_LINSPACE;
        p->sigmas_chosen = true;
        return true;
    }
    p->spacing = (enum schedule_spacing)value;
    p->sigmas = SCHEDULE_SIGMAS_SPACED;
    p->sigmas_chosen = true;
    return true;
}
