/* Masked loss, kohya's: a picture's errors are multiplied by a mask of its size, averaged to latent pixels; the
 * mean is still over all pixels. For squared errors prediction and target are both multiplied by the mask's root. */
#include <math.h>
#include <string.h>

#include "base/os.h"
#include "base/path.h"
#include "base/text.h"
#include "train/trainer_priv.h"

static const char *find_mask(struct arena *a, const char *folder, const char *picture) {
    static const char *const endings[] = {"png", "jpg", "jpeg", "webp", "PNG", "JPG", "JPEG", "WEBP"};
    const char *stem = path_base(path_stem(a, picture));
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        const char *path = arena_printf(a, "%s/%s.%s", folder, stem, endings[i]);
        if (os_path_is_file(path)) return path;
    }
    return NULL;
}

bool train_masks_find(struct trainer *t, struct error *err) {
    const struct dataset *own = &t->feeds[TRAIN_OWN].data;
    struct arena *a = arena_create(NULL);
    bool ok = true;
    for (size_t i = 0; t->params.masks && ok && i < own->n; i++)
        if (!find_mask(a, t->params.masks, own->samples[i].path))
            ok = error_set(err, "'%s' has no mask: put a picture of the same name into '%s'", TEXT_SHOW(own->samples[i].path),
                           TEXT_SHOW(t->params.masks));
    arena_destroy(&a);
    return ok;
}

/* Means of the red channel over the pixels of each latent pixel. */
static void average(const struct image *im, int lw, int lh, float *dst) {
    int f = im->w / lw;
    for (int y = 0; y < lh; y++)
        for (int x = 0; x < lw; x++) {
            double sum = 0;
            for (int k = 0; k < f * f; k++)
                sum += im->rgb[((size_t)(y * f + k / f) * (size_t)im->w + (size_t)(x * f + k % f)) * 3];
            dst[y * lw + x] = (float)(sum / (255.0 * f * f));
        }
}

/* A mask of another size than its picture must at least have its shape; it is scaled and cut as the picture is. */
static bool load(struct arena *a, const struct dataset_sample *mask, const struct dataset_sample *picture,
                 const struct bucket_choice *cut, struct image *out, struct error *err) {
    int w, h;
    if (!image_probe(mask->path, &w, &h, err)) return false;
    double off = (double)w * picture->h / ((double)h * picture->w);
    if (off < 0.98 || off > 1.02)
        return error_set(err, "the mask '%s' has %d x %d pixels, which is not the shape of its picture of %d x %d",
                         TEXT_SHOW(mask->path), w, h, picture->w, picture->h);
    return dataset_load_cut(a, mask, cut, out, err);
}

bool train_mask_load(struct trainer *t, size_t picture, struct error *err) {
    const struct dataset_sample *s = &t->data.samples[picture];
    size_t each = (size_t)(t->lw * t->lh);
    if (!t->params.masks) return true;
    if (!t->masks) t->masks = arena_alloc_n(t->arena, train_latent_pixels(t), sizeof(float));
    float *dst = t->masks + t->places[picture].latent;
    if (picture >= t->feeds[TRAIN_OWN].data.n) { /* the class counts everywhere */
        for (size_t i = 0; i < (t->params.flip ? 2 : 1) * each; i++) dst[i] = 1;
        return true;
    }
    struct arena *a = arena_create(NULL);
    struct dataset_sample mask = *s;
    struct image im;
    mask.path = find_mask(a, t->params.masks, s->path);
    bool ok = mask.path ? load(a, &mask, s, &t->places[picture].cut, &im, err)
                        : error_set(err, "'%s' has lost its mask since the run began", TEXT_SHOW(s->path));
    if (ok) average(&im, t->lw, t->lh, dst);
    if (ok && t->params.flip) {
        im = image_flip_horizontal(a, &im);
        average(&im, t->lw, t->lh, dst + each);
    }
    arena_destroy(&a);
    return ok;
}

void train_mask_place(struct trainer *t, int b, int64_t latent) {
    int pixels = t->lw * t->lh, c = t->channels;
    bool squared = t->params.loss.kind == LOSS_L2;
    if (t->tape->mask < 0) return;
    float *mask = t->batch_mask + (size_t)b * (size_t)(pixels * c),
          *target = t->batch_target + (size_t)b * (size_t)(pixels * c);
    for (int i = 0; i < pixels; i++) {
        float value = latent < 0 ? 1 : squared ? sqrtf(t->masks[latent + i]) : t->masks[latent + i];
        for (int k = 0; k < c; k++) {
            mask[i * c + k] = value;
            if (squared) target[i * c + k] *= value;
        }
    }
}
