/* The teacher's stage of a distilling step: what the student's tape is given to hit.
 *
 * The consistency loss compares c_skip x + c_out x0 with a target; that is linear in the UNet's answer, so the student's tape
 * is the trainer's own: the target is brought to the answer's side, and the loss is told how far errors stretch on the way
 * back. The teacher is a forward program over the same weights in which the LoRA's strength is an input: 0 for the teacher,
 * 1 for the target, whose LoRA may be the moving average's bank. */
#include <string.h>

#include "train/trainer_priv.h"

enum { EVALUATIONS_LCM = 3, EVALUATIONS_CFG = 2 };

static struct denoiser_params teacher_params(const struct trainer *t) {
    return (struct denoiser_params){.n = t->params.batch, .w = t->lw, .h = t->lh, .tokens = t->tokens,
                                    .adapter = t->adapter, .adapter_data = t->ema};
}

static bool check_options(const struct train_params *p, struct error *err) {
    const struct {
        bool given;
        const char *option;
    } rows[] = {{p->train_text_encoder, "--train-text-encoder"},
                {caption_varies(&p->captions), "--shuffle-captions or --tag-dropout"}, {p->masks != NULL, "--masks"},
                {p->recolour > 0, "--recolour"},
                {p->n_words > 0 || p->kind != TRAIN_LORA, "new words"}, {p->buckets.on, "--buckets"},
                {p->weighting != TARGET_WEIGHT_NONE, "--weighting"},
                {p->recipe != NULL, "--recipe"}, {train_prior_on(p), "--class-prompt"},
                {p->distill.method == DISTILL_LCM && (p->min_timestep || p->max_timestep), "--min-timestep or --max-timestep"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].given) return error_set(err, "Distilling does not go with %s.", rows[i].option);
    return true;
}

bool train_distill_plan(struct trainer *t, struct error *err) {
    const struct distill_params *d = &t->params.distill;
    if (!d->method) return true;
    if (!check_options(&t->params, err) || !distill_params_check(d, t->schedule, err)) return false;
    struct denoiser_params dp = teacher_params(t);
    struct memory_choice c;
    if (!denoiser_plan(t->e, &dp, &c, err)) return false;
    t->plan.teacher_bytes = c.activation_bytes + c.io_bytes;
    t->distill.prepared_bytes = c.prepared_bytes;
    t->plan.teacher_flops = denoiser_flops(t->e, &dp) * (d->method == DISTILL_LCM ? EVALUATIONS_LCM : EVALUATIONS_CFG);
    return true;
}

static void allocate(struct trainer *t) {
    struct train_distill *d = &t->distill;
    const struct model *m = t->e->model;
    size_t b = (size_t)t->params.batch, n = b * (size_t)(t->lw * t->lh * t->channels);
    size_t context = (size_t)t->tokens * (size_t)t->width, added = (size_t)m->unet.added_dim + 1;
    d->with = arena_alloc_n(t->arena, n, sizeof(float)), d->without = arena_alloc_n(t->arena, n, sizeof(float));
    d->guidance = arena_alloc_n(t->arena, b, sizeof(float)), d->t_to = arena_alloc_n(t->arena, b, sizeof(float));
    d->empty = arena_alloc_n(t->arena, b, context * sizeof(float));
    d->empty_pooled = arena_alloc_n(t->arena, (size_t)model_pooled_dim(m) + 1, sizeof(float));
    d->added = arena_alloc_n(t->arena, b, added * sizeof(float));
    d->ones = arena_alloc_n(t->arena, b, sizeof(float)), d->zeros = arena_alloc_n(t->arena, b, sizeof(float));
    for (size_t i = 0; i < b; i++) d->ones[i] = 1;
}

void train_distill_empty(struct trainer *t, const float *context, const float *pooled) {
    struct train_distill *d = &t->distill;
    size_t each = (size_t)t->tokens * (size_t)t->width;
    for (int b = 0; b < t->params.batch; b++) memcpy(d->empty + (size_t)b * each, context, each * sizeof *context);
    if (pooled) memcpy(d->empty_pooled, pooled, (size_t)model_pooled_dim(t->e->model) * sizeof *pooled);
}

bool train_distill_open(struct trainer *t, struct error *err) {
    if (!t->params.distill.method) return true;
    const struct model *m = t->e->model;
    struct denoiser_params dp = teacher_params(t);
    allocate(t);
    size_t text = (size_t)(t->empty_text < 0 ? 0 : t->empty_text);
    bool zeros = m->zeros_for_empty; /* as where pictures are drawn without a negative prompt */
    if (t->contexts && !zeros)
        train_distill_empty(t, t->contexts + text * (size_t)t->tokens * (size_t)t->width,
                            t->pooled + text * (size_t)model_pooled_dim(m));
    if (!(t->distill.teacher = denoiser_create(t->e, &dp, err))) return false;
    if (t->extra) {
        size_t each = (size_t)(t->lw * t->lh * model_extra_channels(m));
        float *all = arena_alloc_n(t->arena, (size_t)dp.n * each, sizeof *all);
        for (size_t b = 0; b < (size_t)dp.n; b++) memcpy(all + b * each, t->extra, each * sizeof *all);
        denoiser_set_extra(t->distill.teacher, all);
    }
    return true;
}

void train_distill_close(struct trainer *t) { denoiser_destroy(&t->distill.teacher); }

int train_distill_time(struct trainer *t, int b, int n) {
    const struct distill_params *d = &t->params.distill;
    uint64_t part = 1 << 24, in_part = rng_randint(&t->rng, (uint32_t)part), size = (uint64_t)distill_grid_size(d, t->schedule);
    return distill_grid_time(d, (int)(((uint64_t)(b % n) * part + in_part) * size / ((uint64_t)n * part)));
}

void train_distill_draw(struct trainer *t) {
    const struct distill_params *d = &t->params.distill;
    rng_rand(&t->rng, t->distill.guidance, (size_t)t->params.batch);
    for (int b = 0; b < t->params.batch; b++)
        t->distill.guidance[b] = d->guidance_min + (d->guidance_max - d->guidance_min) * t->distill.guidance[b];
}

/* What the batch is told beside latents and times: its captions, or nothing. */
static void tell(struct trainer *t, bool captions) {
    struct train_distill *d = &t->distill;
    const struct model *m = t->e->model;
    size_t width = (size_t)m->unet.added_dim, pooled = (size_t)model_pooled_dim(m);
    denoiser_set_context(d->teacher, captions ? t->condition.context : d->empty);
    if (!width) return;
    memcpy(d->added, t->condition.added, (size_t)t->params.batch * width * sizeof(float));
    for (int b = 0; !captions && b < t->params.batch; b++)
        memcpy(d->added + (size_t)b * width, d->empty_pooled, pooled * sizeof(float));
    denoiser_write_added(d->teacher, d->added);
}

/* The teacher's guided answers into `with`. */
static bool ask_teacher(struct trainer *t, struct error *err) {
    struct train_distill *d = &t->distill;
    size_t n = (size_t)(t->lw * t->lh * t->channels);
    denoiser_set_strength(d->teacher, d->zeros);
    tell(t, false);
    if (!denoiser_run(d->teacher, t->batch_x, t->batch_t, d->without, err)) return false;
    tell(t, true);
    if (!denoiser_run(d->teacher, t->batch_x, t->batch_t, d->with, err)) return false;
    for (size_t b = 0; b < (size_t)t->params.batch; b++)
        distill_guide(d->with + b * n, d->with + b * n, d->without + b * n, d->guidance[b], n);
    return true;
}

/* c and factor, or the squared error's weight, of a loss whose errors are stretched. */
static void stretch_loss(struct trainer *t, size_t b, double stretch) {
    if (t->params.loss.kind == LOSS_L2) {
        t->batch_seed[b] *= (float)(stretch * stretch);
        return;
    }
    t->batch_hyper[2 * b] = (float)((double)t->batch_hyper[2 * b] / stretch);
    t->batch_hyper[2 * b + 1] = (float)((double)t->batch_hyper[2 * b + 1] * stretch);
}

/* The average is asked before the first step, when it is what trains. */
static bool begin_average(struct trainer *t, struct error *err) {
    float keep = 0;
    if (!t->ema || t->step) return true;
    gpu_program_write(t->banks.ema_prog, t->banks.ema_hyper, &keep);
    return gpu_program_run(t->banks.ema_prog, err);
}

bool train_distill_place(struct trainer *t, struct error *err) {
    const struct distill_params *p = &t->params.distill;
    struct train_distill *d = &t->distill;
    size_t batch = (size_t)t->params.batch, n = (size_t)(t->lw * t->lh * t->channels);
    if (!ask_teacher(t, err)) return false;
    if (p->method == DISTILL_CFG) {
        memcpy(t->batch_target, d->with, batch * n * sizeof(float));
        return true;
    }
    float *x_to = d->without;
    for (size_t b = 0; b < batch; b++) {
        int time = (int)t->batch_t[b], to = distill_time_before(p, time);
        d->t_to[b] = (float)to;
        distill_solve(t->schedule, time, to, x_to + b * n, t->batch_x + b * n, d->with + b * n, n);
    }
    denoiser_set_strength(d->teacher, d->ones);
    if (!begin_average(t, err) || !denoiser_run(d->teacher, x_to, d->t_to, d->with, err)) return false;
    for (size_t b = 0; b < batch; b++) {
        int time = (int)t->batch_t[b], to = (int)d->t_to[b];
        float *target = t->batch_target + b * n;
        distill_consistent(t->schedule, to, target, x_to + b * n, d->with + b * n, n);
        stretch_loss(t, b, distill_answer_for(t->schedule, time, target, t->batch_x + b * n, target, n));
    }
    return true;
}
