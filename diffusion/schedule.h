/* The noise schedule of a model: its tables, and the times and sigmas that a sampler visits.
 * T = n_train. alpha_bar falls from nearly 1 (t = 0, clean) to nearly 0 (t = T-1, noise):
 *   x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) noise,   sigma = sqrt((1 - alpha_bar) / alpha_bar).
 * alpha_bar is torch's in single precision, bit for bit; after the rescaling to zero terminal SNR to 4e-6, as torch's
 * square root depends on the processor. Immutable after creation; any thread may read. */
#ifndef ATELIER_DIFFUSION_SCHEDULE_H
#define ATELIER_DIFFUSION_SCHEDULE_H

#include "base/error.h"

#include <stddef.h>

enum schedule_beta { SCHEDULE_BETA_LINEAR, SCHEDULE_BETA_SCALED_LINEAR, SCHEDULE_BETA_SQUAREDCOS };

/* What the model predicts. */
enum schedule_prediction { SCHEDULE_PREDICT_EPSILON, SCHEDULE_PREDICT_V, SCHEDULE_PREDICT_SAMPLE };

/* DEFAULT = what the sampler's class takes when the model's configuration is silent. */
enum schedule_spacing {
    SCHEDULE_SPACING_DEFAULT,
    SCHEDULE_SPACING_LINSPACE,
    SCHEDULE_SPACING_LEADING,
    SCHEDULE_SPACING_TRAILING,
};

/* How sigmas lie between the ends. The last three replace the spacing too. */
enum schedule_sigmas {
    SCHEDULE_SIGMAS_SPACED, /* the table's values at the spaced times */
    SCHEDULE_SIGMAS_KARRAS,
    SCHEDULE_SIGMAS_EXPONENTIAL,
    SCHEDULE_SIGMAS_BETA, /* quantiles of Beta(0.6, 0.6) between the ends (Lee et al., arXiv 2407.12173) */
    SCHEDULE_SIGMAS_SGM_UNIFORM,
    SCHEDULE_SIGMAS_NORMAL, /* even times, log sigma interpolated: k-diffusion's own, A1111's Automatic and Uniform */
    SCHEDULE_SIGMAS_SIMPLE, /* every (n_train / n)-th sigma of the table from the top (ComfyUI) */
};

/* Mirrors scheduler_config.json; {0} is what diffusers assumes of an empty one, except that nothing is
 * clipped: DDIM's default there is clip_range 1. */
struct schedule_params {
    enum schedule_beta beta;
    double beta_start, beta_end; /* 0 = 0.0001, 0.02 */
    int n_train;                 /* 0 = 1000 */
    const float *trained_betas;  /* n_train values instead of a formula; NULL = none; read only in create */
    enum schedule_prediction prediction;
    bool zero_terminal_snr; /* rescale_betas_zero_snr */
    enum schedule_spacing spacing;
    int steps_offset; /* added to leading times; 0..n_train-1 */
    enum schedule_sigmas sigmas;
    bool sigmas_chosen; /* a person asked for them: a sampler that cannot follow refuses instead of ignoring */
    bool final_alpha_first; /* set_alpha_to_one = false: DDIM ends on alpha_bar[0] instead of 1 */
    bool final_sigma_min;   /* sigma lists end on sigma[0] instead of 0 */
    float clip_range;       /* DDIM clamps x0 to +-clip_range; 0 = no clamping */
};

struct arena;
struct schedule {
    struct arena *arena;
    struct schedule_params params; /* defaults filled in */
    int n_train;
    float *alpha_bar; /* [n_train]; the last is 0 with zero_terminal_snr */
    float *sigma;     /* [n_train]; finite: with zero_terminal_snr the last is 4096 */
};

/* NULL and a sentence when the parameters make no schedule (they may come from a hostile file). */
struct schedule *schedule_create(const struct schedule_params *p, struct error *e);
void schedule_destroy(struct schedule **s);

/* Names as in scheduler_config.json ("scaled_linear", "v_prediction", "trailing"). False and a sentence that
 * lists the known names for anything else. */
bool schedule_beta_parse(const char *name, enum schedule_beta *out, struct error *e);
bool schedule_prediction_parse(const char *name, enum schedule_prediction *out, struct error *e);
bool schedule_spacing_parse(const char *name, enum schedule_spacing *out, struct error *e);

/* Names of --schedule: default, karras, exponential, beta, normal, simple, sgm_uniform, trailing, leading, linspace.
 * Changes spacing or sigmas of p; "default" leaves what the model's configuration said. karras_full and
 * exponential_full span the whole table with every sampler, as k-diffusion's users have it; without _full, diffusers'
 * Euler and its kin span the spaced times. */
bool schedule_choose(struct schedule_params *p, const char *name, struct error *e);

/* Which spacing rules a sampler follows: diffusers', or k-diffusion's where diffusers lacks the sampler. */
enum schedule_family {
    SCHEDULE_FAMILY_DDIM,      /* whole times, no sigma list */
    SCHEDULE_FAMILY_PNDM,      /* likewise, the second time twice: n + 1 steps */
    SCHEDULE_FAMILY_LCM,       /* n of the 50 times that consistency models were distilled on */
    SCHEDULE_FAMILY_EULER,     /* fractional times; sigma lists begin and end at the spaced times */
    SCHEDULE_FAMILY_DPM2,      /* likewise, but whole times with karras */
    SCHEDULE_FAMILY_KDIFF,     /* fractional times; sigma lists span the whole table; starts at noise * sigma */
    SCHEDULE_FAMILY_MULTISTEP, /* whole times, spaced as if one more step followed; lists span the whole table */
};
enum { SCHEDULE_LCM_TIMES = 50 };

struct schedule_steps {
    struct arena *arena;
    int n;
    float *t;         /* [n], not rising; what the model is told */
    float *sigma;     /* [n + 1], not rising, the end appended; also filled for families without, which ignore it */
    float init_sigma; /* start = standard normal noise times this (1 for samplers on x itself) */
};
struct schedule_steps *schedule_steps_create(const struct schedule *s, enum schedule_family family,
                                             enum schedule_sigmas sigmas, int n_steps, struct error *e);
void schedule_steps_destroy(struct schedule_steps **s);

/* The time whose sigma this is, by interpolation of log sigma; fractional, within 0..n_train-1. */
double schedule_time_of_sigma(const struct schedule *s, double sigma);

#endif
