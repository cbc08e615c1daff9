/* Which pictures a step sees, at which times, under which noise: everything random, from two generators. */
#include <math.h>
#include <string.h>

#include "train/recoloured_priv.h"
#include "train/trainer_priv.h"

/* Its own generator, seeded by the epoch: resuming needs no history. */
static void shuffle_buckets(struct trainer *t, struct train_feed *f) {
    size_t n = f->data.n;
    struct arena *a = arena_create(NULL);
    int *bucket_of = arena_alloc_n(a, n, sizeof *bucket_of), *repeats = arena_alloc_n(a, n, sizeof *repeats);
    if (!f->batches) f->batches = arena_alloc_n(t->arena, f->data.n_per_epoch, sizeof *f->batches);
    for (size_t i = 0; i < n; i++) bucket_of[i] = t->places[f->first + i].bucket, repeats[i] = f->data.samples[i].repeats;
    f->n_batches = bucket_epoch(bucket_of, repeats, n, t->n_buckets, t->params.batch, t->params.seed + (uint64_t)f->epoch,
                                f->order, f->batches);
    for (size_t i = 0; i < f->data.n_per_epoch; i++) f->order[i] += (uint32_t)f->first;
    arena_destroy(&a);
}

void train_epoch_shuffle(struct trainer *t, struct train_feed *f) {
    size_t n = f->data.n_per_epoch, at = 0;
    if (!f->order) f->order = arena_alloc_n(t->arena, n, sizeof *f->order);
    f->order_at = 0;
    if (t->params.buckets.on) {
        shuffle_buckets(t, f);
        return;
    }
    struct arena *a = arena_create(NULL);
    uint32_t *draw = arena_alloc_n(a, n, sizeof *draw), *flat = arena_alloc_n(a, n, sizeof *flat);
    for (size_t i = 0; i < f->data.n; i++)
        for (int r = 0; r < f->data.samples[i].repeats; r++) flat[at++] = (uint32_t)(f->first + i);
    struct rng rng;
    rng_seed(&rng, t->params.seed + (uint64_t)f->epoch);
    rng_randperm(&rng, draw, n);
    for (size_t i = 0; i < n; i++) f->order[i] = flat[draw[i]];
    arena_destroy(&a);
}

static uint32_t next_picture(struct trainer *t) {
    struct train_feed *f = t->feed;
    if ((size_t)f->order_at == f->data.n_per_epoch) {
        f->epoch++;
        train_epoch_shuffle(t, f);
    }
    return f->order[f->order_at++];
}

/* The pictures of the next batch; how many are real: the last batch of a bucket is short, and what fills it up counts
 * nothing. Enters the batch's bucket. */
static int next_batch(struct trainer *t, uint32_t *pictures) {
    struct train_feed *f = t->feed;
    int batch = t->params.batch;
    for (int b = 0; !t->params.buckets.on && b < batch; b++) pictures[b] = next_picture(t);
    if (!t->params.buckets.on) return batch;
    if (f->order_at == f->n_batches) {
        f->epoch++;
        train_epoch_shuffle(t, f);
    }
    const struct bucket_batch *next = &f->batches[f->order_at++];
    for (int b = 0; b < batch; b++) pictures[b] = f->order[next->first + b % next->n];
    train_bucket_enter(t, next->bucket);
    return next->n;
}

/* VAE posterior sample times the model's scale. */
static void draw_latent(struct trainer *t, size_t at, const float *z, float *latent) {
    const struct vae_config *vae = &t->e->model->vae;
    int pixels = t->lw * t->lh, c = t->channels;
    const float *m = t->moments + at * 2 * (size_t)c;
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
        train_words_encode(t, i, caption, t->ids[i] + (t->n_texts + slot) * t->tokens, &cut);
    return t->n_texts + slot;
}

/* The second noise of input perturbation goes into the noised picture alone, not into the target. */
static float *perturb(struct trainer *t, size_t n) {
    if (!(t->params.noise.perturbation > 0)) return t->noise;
    noise_perturb(&t->params.noise, &t->dice, t->perturbed, t->noise, n);
    return t->perturbed;
}

void train_loss_place(struct trainer *t, int b, int time, int n) {
    const struct train_params *p = &t->params;
    t->batch_t[b] = (float)time;
    t->batch_seed[b] = n ? t->feed->weight * target_weight(t->schedule, p->weighting, time, p->snr_gamma) / (float)n : 0;
    if (p->loss.kind == LOSS_L2) return;
    struct loss_terms l = loss_terms_at(&p->loss, t->schedule, time);
    t->batch_hyper[2 * b] = l.c, t->batch_hyper[2 * b + 1] = l.factor;
}

bool train_batch_draw(struct trainer *t, int accumulate, struct error *err) {
    const struct train_params *p = &t->params;
    uint32_t pictures[64];
    int batch = p->batch, real = next_batch(t, pictures), n = t->lw * t->lh * t->channels;
    int last = p->max_timestep ? p->max_timestep : t->schedule->n_train;
    size_t all = (size_t)batch * (size_t)n, each = (size_t)(t->lw * t->lh);
    if (!train_tape_open(t, err)) return false;
    rng_randn(&t->rng, t->noise, all);
    size_t taken[64]; /* where a picture's version begins, in latent pixels */
    for (int b = 0; b < batch; b++) {
        size_t version = chance(t, p->flip ? 0.5f : 0) ? 1 : 0;
        taken[b] = t->places[pictures[b]].latent + version * each;
        draw_latent(t, taken[b], t->noise + b * n, t->latent + b * n);
        train_condition_place(t, b, choose_text(t, b, pictures[b]), pictures[b]);
    }
    rng_randn(&t->rng, t->noise, all);
    noise_shape(&p->noise, &t->dice, t->noise, t->latent, &(struct noise_size){batch, t->lh, t->lw, t->channels}, t->perturbed);
    float *noise = perturb(t, all);
    for (int b = 0; b < batch; b++) {
        int time = p->distill.method == DISTILL_LCM
                       ? train_distill_time(t, b, real)
                       : p->min_timestep + (int)rng_randint(&t->rng, (uint32_t)(last - p->min_timestep));
        train_loss_place(t, b, time, b < real ? real * accumulate : 0);
        train_recolour_place(t, b, taken[b], time, t->noise, noise);
        target_add_noise(t->schedule, time, t->batch_x + b * n, t->latent + b * n, noise + b * n, (size_t)n);
        target_make(t->schedule, time, t->batch_target + b * n, t->latent + b * n, t->noise + b * n, (size_t)n);
        train_mask_place(t, b, (int64_t)taken[b]);
    }
    for (int i = 0; t->tape->dropout_key >= 0 && i < 2; i++) t->dropout_key[i] = (float)rng_randint(&t->dice, 1 << 24);
    if (!p->distill.method) return true;
    train_distill_draw(t);
    return train_distill_place(t, err);
}
