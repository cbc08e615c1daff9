/* Distillation into a LoRA: pictures in fewer evaluations of the same model. The model itself, without the LoRA, is the
 * teacher; the trainer is train/trainer.h's, only that times and targets come from here.
 *
 * lcm: the LoRA learns to go from any point of the teacher's guided path straight to its end (consistency distillation:
 *   Luo et al. 2023, arXiv 2310.04378, and for LoRAs 2311.05556; peer: diffusers' train_lcm_distill_lora_sd_wds.py). A step
 *   draws a time t of a grid, takes one DDIM step of the guided teacher to t - skip, and asks there once more, with the
 *   LoRA's average or the LoRA as it is: what that answer says of the clean picture is the target. Drawn with the samplers
 *   lcm and tcd in 1 to 8 steps with cfg 1 to 2.
 * cfg: the LoRA learns to answer at once what the teacher answers with guidance (Meng et al. 2023, arXiv 2210.03142, first
 *   stage, without an embedding of the guidance): any sampler, cfg 1, half the work.
 *
 * Guidance is counted as --cfg counts it: 1 is none. (The papers' w is one less.) */
#ifndef ATELIER_TRAIN_DISTILL_H
#define ATELIER_TRAIN_DISTILL_H

#include "diffusion/loss.h"

#include <stddef.h>

enum distill_method { DISTILL_NONE, DISTILL_LCM, DISTILL_CFG };

/* {0}: no distillation. */
struct distill_params {
    enum distill_method method;
    float guidance_min, guidance_max; /* drawn between them for every picture */
    int skip;                         /* lcm: times between a point and its target, also between two points of the grid */
};
bool distill_method_parse(const char *name, enum distill_method *out, struct error *e); /* "lcm", "cfg" */
const char *distill_method_name(enum distill_method m);
/* False with a sentence. */
bool distill_params_check(const struct distill_params *p, const struct schedule *s, struct error *e);

/* Points of the grid, its k-th time, and where the solver goes from there. */
int distill_grid_size(const struct distill_params *p, const struct schedule *s);
static inline int distill_grid_time(const struct distill_params *p, int k) { return (k + 1) * p->skip - 1; }
static inline int distill_time_before(const struct distill_params *p, int t) { return t > p->skip ? t - p->skip : 0; }

/* A consistency function is c_skip x + c_out x0(x, answer): x itself at t 0. sigma_data 0.5, times counted tenfold. */
struct distill_boundary {
    double c_skip, c_out;
};
struct distill_boundary distill_boundary_at(int t);

/* answer = without + guidance (with - without); dst may be an input. */
void distill_guide(float *dst, const float *with, const float *without, float guidance, size_t n);
/* One DDIM step without noise from x at t to `to`, along the model's answer. */
void distill_solve(const struct schedule *s, int t, int to, float *dst, const float *x, const float *answer, size_t n);
/* The consistency function's value at x and t. */
void distill_consistent(const struct schedule *s, int t, float *dst, const float *x, const float *answer, size_t n);
/* The answer at x and t whose consistency function is `target`; dst may be target. An error d of the answer is an error
 * stretch * d of the function, with the stretch returned (> 0 but at t 0, which no grid has). */
double distill_answer_for(const struct schedule *s, int t, float *dst, const float *x, const float *target, size_t n);

#endif
