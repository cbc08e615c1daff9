/* Which times and sigmas n steps visit. Computed in double and stored in single, like numpy under diffusers. */
#include "diffusion/schedule.h"

#include "base/arena.h"

#include <assert.h>
#include <math.h>

/* numpy.linspace: the last value is exact. */
static double linspace_numpy(double from, double to, int n, int i) {
    if (n == 1) return from;
    return i == n - 1 ? to : i * ((to - from) / (n - 1)) + from;
}

static enum schedule_spacing spacing_of(const struct schedule *s, enum schedule_family family) {
    if (s->params.spacing != SCHEDULE_SPACING_DEFAULT) return s->params.spacing;
    return family == SCHEDULE_FAMILY_DDIM ? SCHEDULE_SPACING_LEADING : SCHEDULE_SPACING_LINSPACE;
}

/* numpy.arange(T, 0, -T/n)[i]: the increment is what is left after rounding the second value. */
static double trailing_at(int n_train, int n, int i) {
    double second = (double)n_train - (double)n_train / n;
    return rint(n_train + i * (second - n_train)) - 1;
}

static double spaced_time(const struct schedule *s, enum schedule_family family, int n, int i) {
    int T = s->n_train;
    bool multistep = family == SCHEDULE_FAMILY_MULTISTEP;
    switch (spacing_of(s, family)) {
    case SCHEDULE_SPACING_TRAILING: return trailing_at(T, n, i);
    case SCHEDULE_SPACING_LEADING: {
        int ratio = T / (multistep ? n + 1 : n);
        return (double)((multistep ? n - i : n - 1 - i) * ratio + s->params.steps_offset);
    }
    default: break;
    }
    if (multistep) return rint(linspace_numpy(0, T - 1, n + 1, n - i));
    double t = linspace_numpy(0, T - 1, n, n - 1 - i);
    return family == SCHEDULE_FAMILY_EULER ? (double)(float)t : rint(t);
}

/* Linear interpolation of the table, held at the ends. */
static double sigma_at(const struct schedule *s, double t) {
    if (t <= 0) return s->sigma[0];
    if (t >= s->n_train - 1) return s->sigma[s->n_train - 1];
    int low = (int)t;
    double a = s->sigma[low], b = s->sigma[low + 1];
    return (b - a) * (t - low) + a;
}

static double log_sigma_at(const struct schedule *s, double t) {
    int low = (int)fmin(t, s->n_train - 2);
    double w = t - low;
    return (1 - w) * log(s->sigma[low]) + w * log(s->sigma[low + 1]);
}

double schedule_time_of_sigma(const struct schedule *s, double sigma) {
    float at = 0;
    double wanted = log(fmax(sigma, 1e-10));
    int low = 0, high = s->n_train - 1;
    while (low < high) { /* last index whose log sigma does not exceed the wanted one */
        int middle = (low + high + 1) / 2;
        at = logf(s->sigma[middle]);
        if (wanted >= at) low = middle;
        else high = middle - 1;
    }
    if (low > s->n_train - 2) low = s->n_train - 2;
    double a = logf(s->sigma[low]), b = logf(s->sigma[low + 1]);
    double w = fmin(fmax((a - wanted) / (a - b), 0), 1);
    return (1 - w) * low + w * (low + 1);
}

static double karras(double high, double low, int n, int i) {
    const double rho = 7;
    double from = pow(high, 1 / rho), to = pow(low, 1 / rho);
    return pow(from + linspace_numpy(0, 1, n, i) * (to - from), rho);
}

/* Multistep samplers feed whole times: rounded after Karras (except on cosine betas), cut otherwise. */
static double whole_time(const struct schedule *s, enum schedule_sigmas sigmas, double t) {
    bool rounded = sigmas == SCHEDULE_SIGMAS_KARRAS && s->params.beta != SCHEDULE_BETA_SQUAREDCOS;
    return rounded ? rint(t) : trunc(t);
}

static void fill_sgm_uniform(const struct schedule *s, struct schedule_steps *out) {
    for (int i = 0; i < out->n; i++) {
        double t = linspace_numpy(s->n_train - 1, 0, out->n + 1, i);
        out->t[i] = (float)t;
        out->sigma[i] = (float)exp(log_sigma_at(s, t));
    }
}

/* Karras and exponential lists: multistep samplers span the whole table, others the spaced times. */
static void fill_by_sigma(const struct schedule *s, enum schedule_family family, enum schedule_sigmas sigmas,
                          struct schedule_steps *out) {
    int n = out->n;
    bool multistep = family == SCHEDULE_FAMILY_MULTISTEP;
    double high = multistep ? s->sigma[s->n_train - 1] : sigma_at(s, spaced_time(s, family, n, 0));
    double low = multistep ? s->sigma[0] : sigma_at(s, spaced_time(s, family, n, n - 1));
    for (int i = 0; i < n; i++) {
        double sigma = sigmas == SCHEDULE_SIGMAS_KARRAS ? karras(high, low, n, i)
                                                        : exp(linspace_numpy(log(high), log(low), n, i));
        double t = schedule_time_of_sigma(s, sigma);
        out->sigma[i] = (float)sigma;
        out->t[i] = (float)(multistep ? whole_time(s, sigmas, t) : t);
    }
}

static void fill_spaced(const struct schedule *s, enum schedule_family family, struct schedule_steps *out) {
    for (int i = 0; i < out->n; i++) {
        double t = spaced_time(s, family, out->n, i);
        if (family == SCHEDULE_FAMILY_DDIM) t = fmin(t, s->n_train - 1); /* it indexes the table */
        out->t[i] = (float)t;
        out->sigma[i] = (float)sigma_at(s, t);
    }
}

static float start_sigma(const struct schedule *s, enum schedule_family family, enum schedule_sigmas sigmas,
                         float largest) {
    if (family != SCHEDULE_FAMILY_EULER) return 1;
    bool pure = spacing_of(s, family) != SCHEDULE_SPACING_LEADING && sigmas != SCHEDULE_SIGMAS_SGM_UNIFORM;
    return pure ? largest : sqrtf(largest * largest + 1.0f);
}

struct schedule_steps *schedule_steps_create(const struct schedule *s, enum schedule_family family,
                                             enum schedule_sigmas sigmas, int n_steps, struct error *e) {
    int most = s->n_train - (family == SCHEDULE_FAMILY_MULTISTEP);
    if (n_steps < 1 || n_steps > most) {
        error_set(e, "%d sampling steps are asked for; this schedule can take 1 to %d", n_steps, most);
        return NULL;
    }
    assert(family != SCHEDULE_FAMILY_DDIM || sigmas == SCHEDULE_SIGMAS_SPACED);
    struct arena *arena = arena_create(NULL);
    struct schedule_steps *out = arena_alloc(arena, sizeof *out);
    out->arena = arena;
    out->n = n_steps;
    out->t = arena_alloc_n(arena, (size_t)n_steps, sizeof *out->t);
    out->sigma = arena_alloc_n(arena, (size_t)n_steps + 1, sizeof *out->sigma);
    switch (sigmas) {
    case SCHEDULE_SIGMAS_SPACED: fill_spaced(s, family, out); break;
    case SCHEDULE_SIGMAS_SGM_UNIFORM: fill_sgm_uniform(s, out); break;
    default: fill_by_sigma(s, family, sigmas, out); break;
    }
    out->sigma[n_steps] = s->params.final_sigma_min ? s->sigma[0] : 0;
    out->init_sigma = start_sigma(s, family, sigmas, out->sigma[0]);
    return out;
}

void schedule_steps_destroy(struct schedule_steps **s) {
    if (!*s) return;
    struct arena *arena = (*s)->arena;
    arena_destroy(&arena);
    *s = NULL;
}
