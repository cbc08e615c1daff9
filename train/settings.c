/* A run's settings as kohya's metadata: for whoever opens the file, and for --resume, which must see the same ones. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "train/metadata.h"
#include "train/trainer_priv.h"

enum { MAX_SETTINGS = 64 };

struct list {
    struct arena *a;
    struct metadata_pair *items;
    int n;
};

static void add(struct list *l, const char *key, const char *value) {
    assert(l->n < MAX_SETTINGS);
    l->items[l->n++] = (struct metadata_pair){key, value};
}

/* "None" for what is off, as kohya writes it. */
static void real(struct list *l, const char *key, double v) {
    add(l, key, v == 0 ? "None" : metadata_float_text(arena_alloc(l->a, METADATA_FLOAT_BYTES), v));
}

static void flag(struct list *l, const char *key, bool v) { add(l, key, v ? "True" : "False"); }

/* Floats as the user wrote them: 0.1f is "0.1". */
static double tidy(float v) {
    char text[32];
    snprintf(text, sizeof text, "%.7g", (double)v);
    double short_one = strtod(text, NULL);
    return (float)short_one == v ? short_one : (double)v;
}

static void add_noise(struct list *l, const struct train_params *p) {
    const struct noise_params *n = &p->noise;
    real(l, "ss_noise_offset", tidy(n->offset));
    real(l, "ss_adaptive_noise_scale", tidy(n->offset_adaptive));
    flag(l, "ss_noise_offset_random_strength", n->offset_random);
    add(l, "ss_multires_noise_iterations", n->pyramid_iterations ? arena_printf(l->a, "%d", n->pyramid_iterations) : "None");
    real(l, "ss_multires_noise_discount", n->pyramid_iterations ? tidy(n->pyramid_discount) : 0);
    real(l, "ss_ip_noise_gamma", tidy(n->perturbation));
    flag(l, "ss_ip_noise_gamma_random_strength", n->perturbation_random);
    real(l, "ss_min_snr_gamma", p->weighting == TARGET_WEIGHT_MIN_SNR ? tidy(p->snr_gamma) : 0);
    add(l, "ss_loss_type", p->loss.kind == LOSS_SMOOTH_L1 ? "smooth_l1" : loss_kind_name(p->loss.kind));
    bool huber = loss_has_c(p->loss.kind);
    add(l, "ss_huber_schedule", huber ? loss_c_schedule_name(p->loss.c_schedule) : "None");
    real(l, "ss_huber_c", huber ? p->loss.c > 0 ? tidy(p->loss.c) : 0.1 : 0);
    flag(l, "ss_debiased_estimation", p->weighting == TARGET_WEIGHT_DEBIASED);
}

static void add_schedule(struct list *l, const struct train_schedule_params *s) {
    if (s->kind == TRAIN_COSINE_RESTARTS)
        add(l, "ss_lr_scheduler_num_cycles", arena_printf(l->a, "%d", s->cycles ? s->cycles : 1));
    if (s->kind == TRAIN_POLYNOMIAL) {
        real(l, "ss_lr_scheduler_power", s->power > 0 ? tidy(s->power) : 1);
        real(l, "ss_lr_scheduler_end", s->end > 0 ? tidy(s->end) : 1e-7);
    }
    if (s->kind == TRAIN_INVERSE_SQRT) real(l, "ss_lr_scheduler_timescale", tidy(s->timescale));
    if (s->kind == TRAIN_COSINE_MIN || s->kind == TRAIN_STABLE_DECAY) real(l, "ss_lr_scheduler_min_lr_ratio", tidy(s->least));
    if (s->kind == TRAIN_STABLE_DECAY) real(l, "ss_lr_decay_steps", s->decay > 0 ? tidy(s->decay) : 0.1);
}

static void add_optimiser(struct list *l, const struct train_params *p) {
    const struct optimiser_params *o = &p->optimiser;
    add(l, "ss_optimizer_args", arena_printf(l->a, "weight_decay=%.7g max_grad_norm=%.7g d_coef=%.7g growth_rate=%.7g "
                                                   "use_bias_correction=%d safeguard_warmup=%d relative_step=%d "
                                                   "scale_parameter=%d", (double)o->weight_decay,
                                             (double)o->max_grad_norm, (double)o->d_coef, (double)o->growth, o->bias_correction,
                                             o->safeguard, o->relative_step, o->scale_by_param));
    add(l, "ss_optimizer_type", optimiser_find(o->name)->name);
    real(l, "ss_loraplus_lr_ratio", tidy(p->lora_plus));
    real(l, "ss_text_encoder_lr_own", tidy(p->text_lr));
}

/* "<new1>=cat x2": also what a resumed run must learn. */
static void add_words(struct list *l, const struct train_params *p) {
    static const char *const kinds[] = {[TRAIN_LORA] = "lora", [TRAIN_FULL] = "full", [TRAIN_NONE] = "none"};
    const char *all = "None";
    for (int i = 0; i < p->n_words; i++) {
        const struct train_word *w = &p->words[i];
        all = arena_printf(l->a, "%s%s%s%s x%d", i ? all : "", i ? ", " : "", w->name,
                           w->init ? arena_printf(l->a, "=%s", w->init) : "", w->n);
    }
    add(l, "ss_new_tokens", all);
    real(l, "ss_new_token_lr", tidy(p->word_lr));
    add(l, "ss_adapter_kind", kinds[p->kind]);
}

int train_settings(const struct train_params *p, struct arena *a, const struct metadata_pair **out) {
    struct list l = {a, arena_alloc_n(a, MAX_SETTINGS, sizeof *l.items), 0};
    add(&l, "ss_recipe", p->recipe ? p->recipe : "None");
    if (train_prior_on(p)) {
        real(&l, "ss_prior_loss_weight", tidy(p->prior_weight));
        add(&l, "ss_class_prompt", p->class_prompt ? p->class_prompt : "None");
    }
    add_noise(&l, p);
    add_optimiser(&l, p);
    add_words(&l, p);
    add_schedule(&l, &p->schedule);
    if (p->min_timestep) add(&l, "ss_min_timestep", arena_printf(a, "%d", p->min_timestep));
    if (p->max_timestep) add(&l, "ss_max_timestep", arena_printf(a, "%d", p->max_timestep));
    add(&l, "ss_blocks", p->blocks ? p->blocks : "None");
    add(&l, "ss_block_ranks", p->block_ranks ? p->block_ranks : "None");
    flag(&l, "ss_rslora", p->rslora);
    real(&l, "ss_network_dropout", tidy(p->dropout.network));
    real(&l, "ss_rank_dropout", tidy(p->dropout.rank));
    real(&l, "ss_module_dropout", tidy(p->dropout.module));
    flag(&l, "ss_masked_loss", p->masks != NULL);
    flag(&l, "ss_flip_aug", p->flip);
    if (p->recolour) add(&l, "ss_recolour", arena_printf(a, "%d", p->recolour));
    flag(&l, "ss_enable_bucket", p->buckets.on);
    if (p->buckets.on) {
        add(&l, "ss_min_bucket_reso", arena_printf(a, "%d", p->buckets.min));
        add(&l, "ss_max_bucket_reso", arena_printf(a, "%d", p->buckets.max));
        add(&l, "ss_bucket_reso_steps", arena_printf(a, "%d", p->buckets.step));
        flag(&l, "ss_bucket_no_upscale", p->buckets.no_upscale);
    }
    flag(&l, "ss_shuffle_caption", p->captions.shuffle);
    add(&l, "ss_keep_tokens", arena_printf(a, "%d", p->captions.keep));
    real(&l, "ss_caption_tag_dropout_rate", tidy(p->captions.tag_dropout));
    real(&l, "ss_caption_dropout_rate", tidy(p->caption_dropout));
    real(&l, "ss_scale_weight_norms", tidy(p->max_weight_norm));
    real(&l, "ss_ema_decay", tidy(p->ema));
    if (p->distill.method) {
        add(&l, "ss_distill_method", distill_method_name(p->distill.method));
        real(&l, "ss_distill_guidance_min", tidy(p->distill.guidance_min));
        real(&l, "ss_distill_guidance_max", tidy(p->distill.guidance_max));
        if (p->distill.method == DISTILL_LCM) add(&l, "ss_distill_skip", arena_printf(a, "%d", p->distill.skip));
    }
    *out = l.items;
    return l.n;
}
