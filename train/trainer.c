/* Setting a run up, and its loop. */
#include "train/trainer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/os.h"
#include "base/text.h"
#include "train/recipe.h"
#include "train/trainer_priv.h"

struct train_params train_params_default(void) {
    return (struct train_params){.steps = 400, .rank = 16, .batch = 4, .accumulate = 1,
                                 .optimiser = {.weight_decay = 1e-2f, .max_grad_norm = 1}, .schedule = {.kind = TRAIN_COSINE},
                                 .targets = LORA_SELECT_ATTN_MLP, .weighting = TARGET_WEIGHT_NONE,
                                 .snr_gamma = 5, .noise = {.pyramid_discount = 0.3f}, .seed = 1, .class_count = 100,
                                 .prior_weight = 1, .sample_steps = 20, .sample_cfg = 4, .half = true};
}

static bool check_params(const struct train_params *p, struct error *err) {
    if (p->steps < 1 || p->batch < 1 || p->batch > 64 || p->accumulate < 1 || p->rank < 1 || p->rank > 1024)
        return error_set(err, "Training needs at least one step, a batch of 1 to 64 and a rank of 1 to 1024.");
    const struct optimiser_traits *o = optimiser_find(p->optimiser.name);
    if (!optimiser_params_check(&p->optimiser, err)) return false;
    if (o->one_rate && (p->lora_plus || p->text_lr || p->word_lr))
        return error_set(err, "%s finds one rate for all parameters: --lora-plus, --text-lr and --token-lr do not go with it.",
                         o->title);
    if (o->constant_schedule && p->schedule.kind != TRAIN_CONSTANT)
        return error_set(err, "%s does without a schedule: give --lr-schedule constant.", o->title);
    if (o->constant_schedule && p->ema > 0) return error_set(err, "%s averages by itself: leave --ema away.", o->title);
    if (!(p->lora_plus >= 0) || !(p->text_lr >= 0)) return error_set(err, "--lora-plus and --text-lr must not be negative.");
    if (p->text_lr && !p->train_text_encoder) return error_set(err, "--text-lr needs --train-text-encoder.");
    if (!(p->word_lr >= 0)) return error_set(err, "--token-lr must not be negative.");
    if (p->word_lr && !p->n_words) return error_set(err, "--token-lr is the rate of new words: name them with --token.");
    bool factors = p->lora_plus > 0 || p->max_weight_norm > 0 || p->rslora || p->block_ranks || p->dropout.network > 0 ||
                   p->dropout.rank > 0 || p->dropout.module > 0;
    if (p->kind != TRAIN_LORA && factors)
        return error_set(err,
                         "--lora-plus, --rslora, --block-rank, --scale-weight-norms and the LoRA's dropouts need --kind lora.");
    if (p->kind == TRAIN_NONE && !p->n_words)
        return error_set(err, "--kind none learns new words and nothing else: name one with --token.");
    if (p->targets == LORA_SELECT_CROSS_KV && p->train_text_encoder)
        return error_set(err, "--targets cross-kv names no layer of a text encoder: leave --train-text-encoder away.");
    if (p->kind == TRAIN_NONE && p->train_text_encoder)
        return error_set(err,
                         "--kind none leaves the text encoder as it is: without --train-text-encoder, or with --kind lora.");
    if (!(p->lr >= 0)) return error_set(err, "The learning rate must not be negative.");
    if (p->weighting == TARGET_WEIGHT_MIN_SNR && !(p->snr_gamma > 0))
        return error_set(err, "--snr-gamma 0 leaves nothing of the loss: 5 is usual, 1 or 2 weigh fine detail less.");
    if (!train_schedule_check(&p->schedule, err)) return false;
    if (train_schedule_warmup(&p->schedule, p->steps) > p->steps)
        return error_set(err, "--warmup is longer than the run of %d steps.", p->steps);
    const struct lora_dropout *d = &p->dropout;
    if (!(d->network >= 0 && d->network < 1 && d->rank >= 0 && d->rank < 1 && d->module >= 0 && d->module < 1))
        return error_set(err, "Dropout rates must lie from 0 to below 1: at 1 nothing would be learned.");
    if (!(p->caption_dropout >= 0 && p->caption_dropout <= 1)) return error_set(err, "--caption-dropout must lie from 0 to 1.");
    if (!(p->prior_weight >= 0 && p->prior_weight <= 1e6f))
        return error_set(err, "--prior-weight must lie from 0 to 1000000; 1 is usual.");
    if (train_prior_on(p) && p->class_prompt && (p->class_count < 1 || p->class_count > 100000))
        return error_set(err, "--class-count must lie from 1 to 100000; 100 is usual.");
    if (!(p->max_weight_norm >= 0)) return error_set(err, "--scale-weight-norms must not be negative; 1 is usual.");
    if (p->max_weight_norm > 0 && o->constant_schedule)
        return error_set(err, "--scale-weight-norms does not go with %s, which saves other weights than it trains.", o->title);
    if (!(p->ema >= 0 && p->ema < 1))
        return error_set(err, "--ema must lie from 0 to below 1: at 1 the average would never move.");
    if (!noise_params_check(&p->noise, err) || !loss_params_check(&p->loss, err) || !caption_params_check(&p->captions, err))
        return false;
    if (p->sample_every && !p->n_samples)
        return error_set(err, "--sample-every needs at least one --sample-prompt.");
    return true;
}

static bool check_times(const struct trainer *t, struct error *err) {
    int first = t->params.min_timestep, end = t->params.max_timestep, n = t->schedule->n_train;
    if (first >= 0 && end <= n && first < (end ? end : n)) return true;
    return error_set(err, "--min-timestep %d and --max-timestep %d leave no times: this model has 0 to %d, and the first must "
                          "be below the second.", first, end ? end : n, n - 1);
}

static bool choose_size(struct trainer *t, struct error *err) {
    const struct model *m = t->e->model;
    int f = vae_config_factor(&m->vae);
    int size = t->params.resolution ? t->params.resolution : (m->unet.sample_w ? m->unet.sample_w * f : 512);
    if (size % f || size < f)
        return error_set(err, "--resolution %d is not a multiple of %d, which this model's VAE needs.", size, f);
    t->plan.resolution = size;
    t->channels = m->vae.latent_channels;
    t->tokens = model_window(m);
    t->width = model_context_dim(m);
    return true;
}

/* The gradient of the mean falls with the size of picture and batch; in f16 it is kept near 1/8 of the error. */
static void choose_loss_scale(struct trainer *t) {
    t->loss_scale = 1;
    if (gpu_device_storage(t->e->dev) != TENSOR_F16) return;
    double n = (double)t->lw * t->lh * t->channels * t->params.batch * t->params.accumulate;
    while (t->loss_scale * 2 <= n / 16) t->loss_scale *= 2;
}

static bool scan(struct trainer *t, struct error *err) {
    struct dataset_params dp = {t->params.data, t->params.instance_prompt, t->params.caption};
    struct dataset *own = &t->feeds[TRAIN_OWN].data, *class = &t->feeds[TRAIN_CLASS].data;
    if (!dataset_scan(t->arena, &dp, own, err) || !dataset_probe(own, err) ||
        (t->n_feeds > 1 && !train_prior_scan(t, class, err)))
        return false;
    t->data = dataset_join(t->arena, own, class);
    own->samples = t->data.samples, class->samples = t->data.samples + own->n;
    t->feeds[TRAIN_CLASS].first = own->n;
    t->plan.n_pictures = own->n;
    t->plan.n_per_epoch = own->n_per_epoch;
    memcpy(t->plan.n_from, own->n_from, sizeof t->plan.n_from);
    return true;
}

static void allocate(struct trainer *t) {
    size_t b = (size_t)t->params.batch, n = b * (size_t)(t->lw * t->lh * t->channels);
    t->batch_x = arena_alloc_n(t->arena, n, sizeof(float));
    t->batch_target = arena_alloc_n(t->arena, n, sizeof(float));
    t->noise = arena_alloc_n(t->arena, n, sizeof(float));
    t->latent = arena_alloc_n(t->arena, n, sizeof(float));
    if (t->params.masks) t->batch_mask = arena_alloc_n(t->arena, n, sizeof(float));
    t->history = arena_alloc_n(t->arena, (size_t)t->params.steps, 3 * sizeof(float));
    t->perturbed = arena_alloc_n(t->arena, n, sizeof(float));
    train_condition_allocate(t);
    train_words_allocate(t);
    t->batch_t = arena_alloc_n(t->arena, b, sizeof(float));
    t->batch_seed = arena_alloc_n(t->arena, b, sizeof(float));
    t->batch_hyper = arena_alloc_n(t->arena, b, 2 * sizeof(float));
}

static bool open_log(struct trainer *t, struct error *err) {
    if (t->params.tensorboard &&
        !(t->events = tfevents_open(t->params.tensorboard, os_wall_seconds(), t->step ? t->step + 1 : 0, err)))
        return false;
    if (!t->params.log) return true;
    if (t->params.resume && !jsonl_cut_after(t->params.log, "step", t->step, err)) return false;
    t->log = jsonl_open(t->params.log, !t->params.resume, err);
    return t->log != NULL;
}

/* Hours of work end in this file: it must be possible to write it. */
static bool can_write(const char *out, struct error *err) {
    if (os_path_is_dir(out)) return error_set(err, "%s is a folder; --out names the LoRA file to write.", out);
    struct os_writer *w = os_writer_open(out, err);
    if (!w) return false;
    os_writer_abort(&w);
    return true;
}

/* Whoever forgets --resume should know before hours of work are replaced. */
static void warn_of_state(const struct train_params *p) {
    struct arena *a = arena_create(NULL);
    const char *path = p->out && !p->resume ? trainer_state_path(a, p->out) : NULL;
    if (path && os_path_is_file(path))
        log_warn("%s is there, of a run that was stopped; with --resume it would go on, this one replaces it", TEXT_SHOW(path));
    arena_destroy(&a);
}

/* Before pictures are read for nothing. */
static bool can_resume(const struct trainer *t, struct error *err) {
    struct arena *a = arena_create(NULL);
    const char *path = t->params.resume ? trainer_state_path(a, t->params.out) : NULL;
    bool ok = !path || os_path_is_file(path) ||
              error_set(err, "There is nothing to resume: %s does not exist.", TEXT_SHOW(path));
    arena_destroy(&a);
    return ok;
}

static bool prepare_recipe(struct trainer *t, struct error *err) {
    const struct recipe *r = t->params.recipe ? recipe_find(t->params.recipe, err) : NULL;
    if (t->params.recipe && !r) return false;
    return !r || !r->prepare || r->prepare(&t->params, t->e->model, err);
}

/* Everything that can be known before the device works: folders, sizes, tapes, memory. */
static struct trainer *plan_run(struct engine *e, const struct train_params *given, struct error *err) {
    struct arena *a = arena_create(e->arena);
    struct trainer *t = arena_alloc(a, sizeof *t);
    const struct train_params *p = &t->params;
    t->arena = a, t->e = e, t->params = *given;
    t->feeds[TRAIN_OWN].weight = 1, t->feeds[TRAIN_CLASS].weight = p->prior_weight;
    t->feed = &t->feeds[TRAIN_OWN];
    t->n_feeds = train_prior_on(p) ? 2 : 1;
    if (!prepare_recipe(t, err)) goto fail;
    t->plan.rank = p->kind == TRAIN_LORA ? p->rank : 0;
    t->text_on_tape = p->train_text_encoder || caption_varies(&p->captions) || p->n_words > 0;
    t->alpha_is_rank = !t->params.alpha;
    if (t->alpha_is_rank) t->params.alpha = (float)t->params.rank;
    const struct optimiser_traits *o = optimiser_find(p->optimiser.name);
    if (!p->lr && o) t->params.lr = o->lr;
    t->params.schedule.early = o && o->constant_schedule;
    rng_seed(&t->rng, p->seed);
    rng_seed(&t->dice, p->seed ^ 0x80000000u);
    if (!check_params(p, err) || !choose_size(t, err) || (p->data && !scan(t, err)) || !train_masks_find(t, err) ||
        !can_resume(t, err) || !train_buckets_plan(t, err))
        goto fail;
    if (!(t->schedule = schedule_create(&e->model->schedule, err)) || !check_times(t, err)) goto fail;
    choose_loss_scale(t);
    if (!train_adapter_create(t, err) || !train_distill_plan(t, err) || !train_tapes_build(t, err) ||
        !train_samples_plan(t, err))
        goto fail;
    t->plan.flops_per_step = (gpu_graph_flops(t->tape->g) + t->plan.teacher_flops) * train_batches_per_step(t);
    t->plan.text_stays = t->text_on_tape;
    return t;
fail:
    trainer_destroy(&t);
    return NULL;
}

static bool open_run(struct trainer *t, struct error *err) {
    allocate(t);
    for (int i = 0; t->params.data && i < t->n_feeds; i++) train_epoch_shuffle(t, &t->feeds[i]);
    return (!t->params.data || train_cache_build(t, err)) && train_tapes_open(t, err) &&
           (!t->params.resume || train_state_load(t, err)) && train_distill_open(t, err) && open_log(t, err);
}

struct trainer *trainer_create(struct engine *e, const struct train_params *p, bool plan_only, struct error *err) {
    struct trainer *t = plan_run(e, p, err);
    if (!t) return NULL;
    if (plan_only) {
        t->plan.step_seconds = engine_estimate_seconds(e, t->plan.flops_per_step);
        return t;
    }
    warn_of_state(p);
    bool ok = !p->out || can_write(p->out, err), draws = t->class_drawn.n > 0;
    ok = ok && train_prior_draw(t, err);
    if (ok && draws) { /* the folder is another one now */
        trainer_destroy(&t);
        t = plan_run(e, p, err);
        ok = t != NULL;
    }
    if (ok && open_run(t, err)) return t;
    trainer_destroy(&t);
    return NULL;
}

void trainer_destroy(struct trainer **p) {
    struct trainer *t = *p;
    if (!t) return;
    *p = NULL;
    generator_destroy(&t->samples);
    train_distill_close(t);
    train_tapes_close(t);
    optimiser_destroy(&t->optimiser);
    gpu_program_destroy(&t->banks.sum_prog);
    gpu_program_destroy(&t->banks.ema_prog);
    gpu_program_destroy(&t->banks.norm_prog);
    gpu_set_destroy(&t->grad);
    gpu_set_destroy(&t->grad_sum);
    gpu_set_destroy(&t->ema);
    adapter_close(&t->adapter);
    schedule_destroy(&t->schedule);
    jsonl_close(&t->log);
    tfevents_close(&t->events);
    struct arena *a = t->arena;
    arena_destroy(&a);
}

struct train_plan trainer_plan(const struct trainer *t) { return t->plan; }
struct adapter *trainer_adapter(struct trainer *t) { return t->adapter; }
struct gpu_set *trainer_gradients(struct trainer *t) { return t->grad_sum ? t->grad_sum : t->grad; }
float trainer_loss_scale(const struct trainer *t) { return t->loss_scale; }
struct gpu_program *trainer_program(struct trainer *t) { return t->tape->prog; }
