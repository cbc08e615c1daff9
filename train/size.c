/* Sizes of training pictures: one square, or kohya's buckets with a tape each. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "train/metadata.h"
#include "train/trainer_priv.h"

void train_bucket_enter(struct trainer *t, int bucket) {
    struct train_bucket *b = &t->buckets[bucket];
    t->bucket = bucket, t->tape = &b->tape, t->lw = b->lw, t->lh = b->lh;
}

/* The bucket of this size, made if it is new. */
static int bucket_of_size(struct trainer *t, struct bucket_size size) {
    int f = vae_config_factor(&t->e->model->vae);
    for (int i = 0; i < t->n_buckets; i++)
        if (t->buckets[i].size.w == size.w && t->buckets[i].size.h == size.h) return i;
    if (t->n_buckets == BUCKET_MAX) return -1;
    struct train_bucket *b = &t->buckets[t->n_buckets];
    b->size = size, b->lw = size.w / f, b->lh = size.h / f;
    return t->n_buckets++;
}

/* Scaled to cover the square, cut in the middle. */
static struct bucket_choice square(const struct dataset_sample *s, int size) {
    struct bucket_choice c = {.bucket = {size, size}};
    double scale = size / (double)(s->w < s->h ? s->w : s->h);
    c.w = (int)(s->w * scale + 0.5), c.h = (int)(s->h * scale + 0.5); /* as image_resize_cover rounds */
    c.left = (c.w - size) / 2, c.top = (c.h - size) / 2;
    return c;
}

static bool place_all(struct trainer *t, struct error *err) {
    const struct bucket_params *p = &t->params.buckets;
    struct bucket_size *list = arena_alloc_n(t->arena, BUCKET_MAX, sizeof *list);
    int n = p->on ? bucket_list(p, list) : 0;
    size_t at = 0, versions = t->params.flip ? 2 : 1;
    t->places = arena_alloc_n(t->arena, t->data.n + 1, sizeof *t->places);
    for (size_t i = 0; i < t->data.n; i++) {
        const struct dataset_sample *s = &t->data.samples[i];
        struct train_place *place = &t->places[i];
        place->cut = p->on ? bucket_choose(p, list, n, s->w, s->h) : square(s, t->plan.resolution);
        place->bucket = bucket_of_size(t, place->cut.bucket);
        if (place->bucket < 0)
            return error_set(err, "The pictures have more than %d sizes; leave --bucket-no-upscale away.", BUCKET_MAX);
        struct train_bucket *b = &t->buckets[place->bucket];
        place->latent = at;
        at += versions * (size_t)(b->lw * b->lh);
        b->n_pictures++;
    }
    t->places[t->data.n].latent = at;
    return true;
}

/* Latents stay with the host all the time. */
static bool plan_latents(struct trainer *t, struct error *err) {
    double pixels = (double)train_latent_pixels(t), own = (double)t->places[t->feeds[TRAIN_OWN].data.n].latent;
    double bytes = (2 * pixels + own * t->params.recolour) * t->channels * (double)sizeof(float);
    double most = (double)os_memory_total() / 2;
    t->plan.latent_bytes = (int64_t)bytes;
    return bytes <= most ||
           error_set(err, "What is kept of the %zu pictures takes %.0f MiB of the host's memory, of which %.0f may go there; "
                     "lower --recolour or --resolution, leave --flip away, or take fewer pictures.",
                     t->data.n, bytes / 1048576, most / 1048576);
}

bool train_buckets_plan(struct trainer *t, struct error *err) {
    int size = t->plan.resolution, f = vae_config_factor(&t->e->model->vae);
    if (!bucket_params_complete(&t->params.buckets, size, f, err)) return false;
    if (t->params.buckets.on && model_extra_channels(t->e->model))
        return error_set(err, "Inpainting models are trained on squares: leave --buckets away.");
    t->buckets = arena_alloc_n(t->arena, BUCKET_MAX, sizeof *t->buckets);
    if (!place_all(t, err)) return false;
    if (!t->n_buckets) bucket_of_size(t, (struct bucket_size){size, size}); /* no data */
    for (int i = 0; i < t->n_buckets; i++)
        if (t->buckets[i].lw * t->buckets[i].lh > t->buckets[t->largest].lw * t->buckets[t->largest].lh) t->largest = i;
    train_bucket_enter(t, t->largest);
    if (!plan_latents(t, err)) return false;
    if (!t->params.buckets.on) return true;
    struct train_plan_bucket *plan = arena_alloc_n(t->arena, (size_t)t->n_buckets, sizeof *plan);
    for (int i = 0; i < t->n_buckets; i++)
        plan[i] = (struct train_plan_bucket){t->buckets[i].size.w, t->buckets[i].size.h, t->buckets[i].n_pictures};
    t->plan.buckets = plan, t->plan.n_buckets = t->n_buckets;
    return true;
}

static int by_size(const void *pa, const void *pb) {
    const struct metadata_bucket *a = pa, *b = pb;
    return a->w != b->w ? a->w - b->w : a->h - b->h;
}

/* kohya counts pictures as often as they repeat, and errors once per picture. */
int train_buckets_describe(const struct trainer *t, struct arena *a, struct metadata_bucket **out, double *error) {
    *out = NULL, *error = 0;
    if (!t->params.buckets.on) return 0;
    struct metadata_bucket *b = *out = arena_alloc_n(a, (size_t)t->n_buckets, sizeof *b);
    for (int i = 0; i < t->n_buckets; i++) b[i] = (struct metadata_bucket){t->buckets[i].size.w, t->buckets[i].size.h, 0};
    for (size_t i = 0; i < t->data.n; i++) {
        const struct dataset_sample *s = &t->data.samples[i];
        struct bucket_size size = t->places[i].cut.bucket;
        b[t->places[i].bucket].count += s->repeats;
        *error += fabs((double)size.w / size.h - (double)s->w / s->h) / (double)t->data.n;
    }
    qsort(b, (size_t)t->n_buckets, sizeof *b, by_size);
    return t->n_buckets;
}

size_t train_latent_pixels(const struct trainer *t) { return t->places[t->data.n].latent; }
