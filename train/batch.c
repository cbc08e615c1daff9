/* Which pictures a step sees, at which times, under which noise: everything random, from two generators. */
#include <math.h>
#include <string.h>

#include "train/trainer_priv.h"

void train_epoch_shuffle(struct trainer *t) {
    size_t n = t->data.n_per_epoch, at = 0;
    if (!t->order) t->order = arena_alloc_n(t->arena, n, sizeof *t->order);
    struct arena *a = arena_create(NULL);
    uint32_t *draw = arena_alloc_n(a, n, sizeof *draw), *flat = arena_alloc_n(a, n, sizeof *flat);
    for (size_t i = 0; i < t->data.n; i++)
        for (int r = 0; r < t->data.samples[i].repeats; r++) flat[at++] = (uint32_t)i;
    /* Its own generator, seeded by the epoch: resuming needs no history. */
    struct rng rng;
    rng_seed(&rng, t->params.seed + (uint64_t)t->epoch);
    rng_randperm(&rng, draw, n);
    for (size_t i = 0; i < n; i++) t->order[i] = flat[draw[i]];
    t->order_at = 0;
    arena_destroy(&a);
}

static uint32_t next_picture(struct trainer *t) {
    if ((size_t)t->order_at == t->data.n_per_epoch) {
        t->epoch++;
        train_epoch_shuffle(t);
    }
    return t->order[t->order_at++];
}

/* VAE posterior sample times the model's scale. */
static void draw_latent(struct trainer *t, size_t picture, const float *z, float *latent) {
    const struct vae_config *vae = &t->e->model->vae;
    int pixels = t->lw * t->lh, c = t->channels;
    const float *m = t->moments + picture * (size_t)pixels * 2 * (size_t)c;
    for (int i = 0; i < pixels; i++)
        for (int k = 0; k < c; k++) {
            float mean = m[i * 2 * c + k], log_variance = m[i * 2 * c + c + k];
            latent[i * c + k] = (mean + expf(0.5f * log_variance) * z[i * c + k] - vae->shift_factor) * vae->scaling_factor;
        }
}

static bool chance(struct trainer *t, float rate) {
    float u;
    if (rate <= 0) return false;
    rng_rand(&t->dice, &u, 1);
    return u < rate;
}

/* Index of the text that the slot gets: a varied one lies behind the cached ones. */
static int choose_text(struct trainer *t, int slot, uint32_t picture) {
    const struct model *m = t->e->model;
    char caption[CAPTION_MAX_BYTES];
    struct tokenizer_cut cut;
    if (chance(t, t->params.caption_dropout)) return t->empty_text;
    if (!caption_varies(&t->params.captions)) return t->text_of[picture];
    caption_vary(&t->params.captions, &t->dice, t->data.samples[picture].caption, caption);
    for (int i = 0; i < m->n_texts; i++)
        tokenizer_encode_window(m->texts[i].tokenizer, caption, t->ids[i] + (t->n_texts + slot) * t->tokens, &cut);
    return t->n_texts + slot;
}

/* The second noise of input perturbation goes into the noised picture alone, not into the target. */
static const float *perturb(struct trainer *t, size_t n) {
    if (!(t->params.noise.perturbation > 0)) return t->noise;
    noise_perturb(&t->params.noise, &t->dice, t->perturbed, t->noise, n);
    return t->perturbed;
}

void train_batch_draw(struct trainer *t, int accumulate) {
    const struct train_params *p = &t->params;
    int batch = p->batch, n = t->lw * t->lh * t->channels;
    size_t all = (size_t)batch * (size_t)n, versions = p->flip ? 2 : 1;
    rng_randn(&t->rng, t->noise, all);
    size_t taken[64]; /* picture and version */
    for (int b = 0; b < batch; b++) {
        uint32_t picture = next_picture(t);
        size_t version = chance(t, p->flip ? 0.5f : 0) ? 1 : 0;
        taken[b] = picture * versions + version;
        draw_latent(t, taken[b], t->noise + b * n, t->latent + b * n);
        train_condition_place(t, b, choose_text(t, b, picture), picture);
    }
    rng_randn(&t->rng, t->noise, all);
    noise_shape(&p->noise, &t->dice, t->noise, t->latent, &(struct noise_size){batch, t->lh, t->lw, t->channels}, t->perturbed);
    const float *noise = perturb(t, all);
    for (int b = 0; b < batch; b++) {
        int time = (int)rng_randint(&t->rng, (uint32_t)t->schedule->n_train);
        t->batch_t[b] = (float)time;
        t->batch_seed[b] = target_weight(t->schedule, p->weighting, time, p->snr_gamma) / (float)(batch * accumulate);
        target_add_noise(t->schedule, time, t->batch_x + b * n, t->latent + b * n, noise + b * n, (size_t)n);
        target_make(t->schedule, time, t->batch_target + b * n, t->latent + b * n, t->noise + b * n, (size_t)n);
        train_mask_place(t, b, (int64_t)taken[b]);
    }
    for (int i = 0; t->tape.dropout_key >= 0 && i < 2; i++) t->dropout_key[i] = (float)rng_randint(&t->dice, 1 << 24);
}
