/* Which times and sigmas n steps visit. Computed in double and stored in single, like numpy under diffusers. */
#include "diffusion/schedule_priv.h"
#include "diffusion/schedule.h"

#include "base/arena.h"

#include <assert.h>
#include <math.h>

/* numpy.linspace: the last value is exact. */
static double linspace_numpy(double from, double to, int n, int i) {
    if (n == 1) return from;
    return i == n - 1 ? to : i * ((to - from) / (n - 1)) + from;
}

/* Times are indices of the table; there is no sigma list. */
static bool indexes_table(enum schedule_family family) {
    return family == SCHEDULE_FAMILY_DDIM || family == SCHEDULE_FAMILY_PNDM || family == SCHEDULE_FAMILY_LCM;
}

static enum schedule_spacing spacing_of(const struct schedule *s, enum schedule_family family) {
    if (s->params.spacing != SCHEDULE_SPACING_DEFAULT) return s->params.spacing;
    return indexes_table(family) ? SCHEDULE_SPACING_LEADING : SCHEDULE_SPACING_LINSPACE;
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
    return indexes_table(family) ? rint(t) : (double)(float)t;
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

/* Schedules that bring their own times. */
static void fill_by_time(const struct schedule *s, enum schedule_sigmas sigmas, struct schedule_steps *out) {
    int n = out->n, T = s->n_train;
    for (int i = 0; i < n; i++) {
        double t = 0;
        if (sigmas == SCHEDULE_SIGMAS_SGM_UNIFORM) t = linspace_numpy(T - 1, 0, n + 1, i);
        else if (sigmas == SCHEDULE_SIGMAS_NORMAL) t = linspace_numpy(T - 1, 0, n, i);
        else t = T - 1 - (int)(i * ((double)T / n)); /* simple */
        out->t[i] = (float)t;
        out->sigma[i] = (float)exp(log_sigma_at(s, t));
    }
}

static double between(enum schedule_sigmas sigmas, double high, double low, int n, int i) {
    switch (sigmas) {
    case SCHEDULE_SIGMAS_KARRAS: return karras(high, low, n, i);
    case SCHEDULE_SIGMAS_BETA: return low + (high - low) * schedule_beta_quantile(1 - linspace_numpy(0, 1, n, i), 0.6, 0.6);
    default: return exp(linspace_numpy(log(high), log(low), n, i));
    }
}

/* Lists between two ends: of the whole table, or of the spaced times. */
static void fill_by_sigma(const struct schedule *s, enum schedule_family family, enum schedule_sigmas sigmas,
                          struct schedule_steps *out) {
    int n = out->n;
    bool multistep = family == SCHEDULE_FAMILY_MULTISTEP, whole_table = multistep || family == SCHEDULE_FAMILY_KDIFF;
    double high = whole_table ? s->sigma[s->n_train - 1] : sigma_at(s, spaced_time(s, family, n, 0));
    double low = whole_table ? s->sigma[0] : sigma_at(s, spaced_time(s, family, n, n - 1));
    for (int i = 0; i < n; i++) {
        double sigma = between(sigmas, high, low, n, i), t = schedule_time_of_sigma(s, sigma);
        if (multistep) t = whole_time(s, sigmas, t);
        if (family == SCHEDULE_FAMILY_DPM2 && sigmas == SCHEDULE_SIGMAS_KARRAS) t = rint(t);
        out->sigma[i] = (float)sigma;
        out->t[i] = (float)t;
    }
}

static void fill_spaced(const struct schedule *s, enum schedule_family family, struct schedule_steps *out) {
    bool twice = family == SCHEDULE_FAMILY_PNDM && out->n > 1;
    int n = out->n - twice;
    for (int i = 0; i < out->n; i++) {
        double t = spaced_time(s, family, n, twice && i > 1 ? i - 1 : i);
        if (indexes_table(family)) t = fmin(t, s->n_train - 1);
        out->t[i] = (float)t;
        out->sigma[i] = (float)sigma_at(s, t);
    }
}

static void fill_lcm(const struct schedule *s, struct schedule_steps *out) {
    int apart = s->n_train / SCHEDULE_LCM_TIMES;
    for (int i = 0; i < out->n; i++) {
        int index = (int)(i * ((double)SCHEDULE_LCM_TIMES / out->n));
        int t = (SCHEDULE_LCM_TIMES - index) * apart - 1;
        out->t[i] = (float)t;
        out->sigma[i] = s->sigma[t];
    }
}

static float start_sigma(const struct schedule *s, enum schedule_family family, enum schedule_sigmas sigmas,
                         float largest) {
    if (indexes_table(family) || family == SCHEDULE_FAMILY_MULTISTEP) return 1;
    if (family == SCHEDULE_FAMILY_KDIFF || sigmas == SCHEDULE_SIGMAS_NORMAL || sigmas == SCHEDULE_SIGMAS_SIMPLE) return largest;
    bool pure = spacing_of(s, family) != SCHEDULE_SPACING_LEADING && sigmas != SCHEDULE_SIGMAS_SGM_UNIFORM;
    return pure ? largest : sqrtf(largest * largest + 1.0f);
}

static bool check_count(const struct schedule *s, enum schedule_family family, int n, struct error *e) {
    int most = s->n_train - (family == SCHEDULE_FAMILY_MULTISTEP);
    if (family == SCHEDULE_FAMILY_LCM) {
        if (s->n_train < SCHEDULE_LCM_TIMES)
            return error_set(e, "consistency samplers need a model trained on %d timesteps or more, and this one has %d",
                             SCHEDULE_LCM_TIMES, s->n_train);
        most = SCHEDULE_LCM_TIMES;
    }
    if (n >= 1 && n <= most) return true;
    return error_set(e, "%d sampling steps are asked for; this schedule can take 1 to %d", n, most);
}

struct schedule_steps *schedule_steps_create(const struct schedule *s, enum schedule_family family,
                                             enum schedule_sigmas sigmas, int n_steps, struct error *e) {
    if (!check_count(s, family, n_steps, e)) return NULL;
    assert(!indexes_table(family) || sigmas == SCHEDULE_SIGMAS_SPACED);
    if (family == SCHEDULE_FAMILY_PNDM && n_steps > 1) n_steps++;
    struct arena *arena = arena_create(NULL);
    struct schedule_steps *out = arena_alloc(arena, sizeof *out);
    out->arena = arena;
    out->n = n_steps;
    out->t = arena_alloc_n(arena, (size_t)n_steps, sizeof *out->t);
    out->sigma = arena_alloc_n(arena, (size_t)n_steps + 1, sizeof *out->sigma);
    switch (sigmas) {
    case SCHEDULE_SIGMAS_SPACED:
        if (family == SCHEDULE_FAMILY_LCM) fill_lcm(s, out);
        else fill_spaced(s, family, out);
        break;
    case SCHEDULE_SIGMAS_SGM_UNIFORM:
    case SCHEDULE_SIGMAS_NORMAL:
    case SCHEDULE_SIGMAS_SIMPLE: fill_by_time(s, sigmas, out); break;
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
