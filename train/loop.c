/* The steps themselves. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/os.h"
#include "train/trainer_priv.h"

enum { MAX_OVERFLOWS = 8 };

static bool run_tape(struct trainer *t, float *losses, struct error *err) {
    struct train_tape *tape = t->tape;
    float seed[64];
    for (int b = 0; b < t->params.batch; b++) seed[b] = t->batch_seed[b] * t->loss_scale;
    gpu_program_write(tape->prog, tape->sample, train_condition_sample(t));
    gpu_program_write(tape->prog, tape->timestep, t->batch_t);
    gpu_program_write(tape->prog, tape->target, t->batch_target);
    gpu_program_write(tape->prog, tape->seed, seed);
    train_condition_write(t);
    if (tape->hyper >= 0) gpu_program_write(tape->prog, tape->hyper, t->batch_hyper);
    if (tape->mask >= 0) gpu_program_write(tape->prog, tape->mask, t->batch_mask);
    if (tape->dropout_key >= 0) gpu_program_write(tape->prog, tape->dropout_key, t->dropout_key);
    if (!gpu_program_run(tape->prog, err)) return false;
    gpu_program_read(tape->prog, tape->loss, losses);
    return true;
}

/* A loss or gradient that is not a number: run the same step again node by node to name where it began. */
static bool find_nan(struct trainer *t, const char *what, struct error *err) {
    struct error where = {{0}};
    bool found = !gpu_program_trace_nan(t->tape->prog, &where);
    return error_set(err, "The %s is no longer a number at step %d%s%s Lower --lr, or check the pictures.", what, t->step + 1,
                     found ? ": " : ".", found ? where.text : "");
}

static bool accumulate(struct trainer *t, int micro, struct error *err) {
    if (!t->banks.sum_prog) return true;
    float keep = micro ? 1.0f : 0.0f;
    gpu_program_write(t->banks.sum_prog, t->banks.sum_hyper, &keep);
    return gpu_program_run(t->banks.sum_prog, err);
}

/* What follows an update: weights cut back, then their average. */
static bool finish_step(struct trainer *t, struct error *err) {
    if (t->banks.norm_prog && !gpu_program_run(t->banks.norm_prog, err)) return false;
    if (!t->banks.ema_prog) return true;
    float keep = train_ema_decay(t->params.ema, t->step);
    gpu_program_write(t->banks.ema_prog, t->banks.ema_hyper, &keep);
    return gpu_program_run(t->banks.ema_prog, err);
}

static bool update(struct trainer *t, struct train_report *r, struct error *err) {
    const struct train_params *p = &t->params;
    bool applied;
    float lr = p->lr * train_schedule_factor(&p->schedule, t->step, p->steps, p->lr);
    if (!optimiser_step(t->optimiser, lr, &r->grad_norm, &applied, err)) return false;
    r->lr = optimiser_rate(t->optimiser, lr);
    if (applied) return t->overflows = 0, finish_step(t, err);
    /* The optimiser left everything as it was. In f16 a rare picture may go too far; only a row of them is wrong. */
    if (t->loss_scale == 1 || ++t->overflows == MAX_OVERFLOWS) return find_nan(t, "gradient", err);
    log_info("step %d is left out: a gradient went past what half floats hold", t->step + 1);
    return true;
}

static bool train_step(struct trainer *t, struct train_report *r, struct error *err) {
    float losses[64];
    r->loss = 0;
    for (int m = 0; m < train_batches_per_step(t); m++) {
        t->feed = &t->feeds[m % t->n_feeds];
        if (!train_batch_draw(t, t->params.accumulate, err)) return false;
        if (!run_tape(t, losses, err)) return false;
        for (int b = 0; b < t->params.batch; b++) r->loss += losses[b] * t->batch_seed[b];
        if (!isfinite(r->loss)) return find_nan(t, "loss", err);
        if (!accumulate(t, m, err)) return false;
    }
    if (!update(t, r, err)) return false;
    t->step++;
    t->loss_mean = t->step == 1 ? r->loss : t->loss_mean + (r->loss - t->loss_mean) * fmaxf(0.02f, 1.0f / (float)t->step);
    r->step = t->step, r->steps = t->params.steps, r->loss_mean = t->loss_mean;
    return true;
}

static bool log_step(struct trainer *t, const struct train_report *r, struct error *err) {
    float *h = t->history + (size_t)(r->step - 1) * 3;
    h[0] = r->loss, h[1] = r->loss_mean, h[2] = r->lr;
    const struct tfevents_scalar scalars[] = {{"loss/current", r->loss}, {"loss/average", r->loss_mean}, {"lr", r->lr},
                                              {"grad_norm", r->grad_norm}};
    if (t->events && !tfevents_write(t->events, os_wall_seconds(), r->step, scalars, 4, err)) return false;
    if (!t->log) return true;
    return jsonl_write(t->log, json_pack("{s:i,s:f,s:f,s:f,s:f}", "step", r->step, "loss", (double)r->loss, "loss_mean",
                                         (double)r->loss_mean, "lr", (double)r->lr, "grad_norm", (double)r->grad_norm), err);
}

static bool periodic(struct trainer *t, struct error *err) {
    const struct train_params *p = &t->params;
    if (p->save_every && t->step % p->save_every == 0 && t->step < p->steps) {
        struct arena *a = arena_create(NULL);
        const char *dot = strrchr(p->out, '.'), *slash = strrchr(p->out, '/');
        int stem = dot && (!slash || dot > slash) ? (int)(dot - p->out) : (int)strlen(p->out);
        bool ok = train_lora_save(t, arena_printf(a, "%.*s-step%08d.safetensors", stem, p->out, t->step), err) &&
                  train_state_save(t, err);
        arena_destroy(&a);
        if (!ok) return false;
    }
    return true;
}

/* The sheet of the last step comes after the LoRA is saved. */
static bool sheet_due(const struct trainer *t) {
    const struct train_params *p = &t->params;
    return p->n_samples && p->sample_every && t->step && t->step % p->sample_every == 0 && t->step < p->steps;
}

/* Ctrl-C while a sheet is drawn costs the sheet, not the run: --resume draws it first. */
static bool draw_sheet(struct trainer *t, bool *stopped, struct error *err) {
    *stopped = false;
    return train_samples_draw(t, err) || (*stopped = os_interrupted());
}

static void measure_rate(struct trainer *t, struct train_report *r, double start, int first) {
    double seconds = os_now_seconds() - start;
    r->steps_per_second = seconds > 0 ? (t->step - first) / seconds : 0;
    r->eta_seconds = r->steps_per_second > 0 ? (t->params.steps - t->step) / r->steps_per_second : 0;
    r->device_bytes = gpu_device_memory_peak(t->e->dev);
}

/* Something could not be written, perhaps for want of space: what was learned must not go with it. False, as `err` says. */
static bool keep_run(struct trainer *t, struct error *err) {
    struct error why = *err, other;
    if (os_interrupted() || !train_state_save(t, &other)) return false;
    return error_set(err, "%s The run is kept up to step %d: --resume goes on from there.", why.text, t->step);
}

bool trainer_run(struct trainer *t, const struct train_callbacks *cb, bool *finished, struct error *err) {
    double start = os_now_seconds();
    int first = t->step, stop = t->params.stop_after ? first + t->params.stop_after : t->params.steps;
    bool stopped = false;
    *finished = false;
    if (t->params.resume && sheet_due(t) && !train_samples_drawn(t) && !draw_sheet(t, &stopped, err)) return false;
    while (t->step < t->params.steps) {
        if (stopped || os_interrupted() || t->step >= stop) return train_state_save(t, err);
        struct train_report r = {0};
        if (!train_step(t, &r, err)) return false;
        measure_rate(t, &r, start, first);
        if (!log_step(t, &r, err)) return keep_run(t, err);
        if (cb && cb->report) cb->report(cb->ctx, &r);
        if (!periodic(t, err) || (sheet_due(t) && !draw_sheet(t, &stopped, err))) return keep_run(t, err);
    }
    if (!train_lora_save(t, t->params.out, err)) return keep_run(t, err);
    if (!train_plot_draw(t, err)) return false;
    *finished = true;
    struct arena *a = arena_create(NULL);
    struct error ignored;
    os_file_remove(trainer_state_path(a, t->params.out), &ignored); /* the run is over: nothing to resume */
    arena_destroy(&a);
    if (t->params.n_samples && !draw_sheet(t, &stopped, err)) return false;
    if (stopped) log_warn("stopped before the last sample sheet was drawn");
    return true;
}

static bool place_given(struct trainer *t, const struct train_given *given, size_t at, struct error *err) {
    size_t n = (size_t)(t->lw * t->lh * t->channels);
    for (size_t b = 0; b < (size_t)t->params.batch; b++) {
        const float *latent = given->latents + (at + b) * n, *noise = given->noise + (at + b) * n;
        int time = given->t[at + b];
        train_loss_place(t, (int)b, time, t->params.batch * t->params.accumulate);
        target_add_noise(t->schedule, time, t->batch_x + b * n, latent, noise, n);
        target_make(t->schedule, time, t->batch_target + b * n, latent, noise, n);
        train_mask_place(t, (int)b, -1);
    }
    train_condition_given(t, given, at);
    if (!t->params.distill.method) return true;
    memcpy(t->distill.guidance, given->guidance + at, (size_t)t->params.batch * sizeof(float));
    train_distill_empty(t, given->empty, NULL);
    return train_distill_place(t, err);
}

bool trainer_step_given(struct trainer *t, const struct train_given *given, bool do_update, float *losses, struct error *err) {
    for (int m = 0; m < train_batches_per_step(t); m++) {
        t->feed = &t->feeds[m % t->n_feeds];
        size_t at = (size_t)m * (size_t)t->params.batch;
        if (!place_given(t, given, at, err)) return false;
        if (!run_tape(t, losses + at, err) || !accumulate(t, m, err)) return false;
    }
    struct train_report r;
    if (!do_update) return true;
    if (!update(t, &r, err)) return false;
    t->step++;
    return true;
}
