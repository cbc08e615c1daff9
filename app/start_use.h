/* What `atelier generate` draws from and over: --init-image, --mask, --hires; as options and in recipes. */
#ifndef ATELIER_APP_START_USE_H
#define ATELIER_APP_START_USE_H

#include "app/options.h"
#include "engine/hires.h"
#include "io/image.h"
#include "io/recipe.h"

struct start_use {
    const char *picture_path, *mask_path, *upscaler;
    double strength, hires, hires_strength;
    int hires_steps;
    bool quiet; /* a resized picture is not worth a line */
    const char *picture_hash, *mask_hash; /* of the files, once read: which pictures they were, for the recipe */
    struct image picture, mask; /* once loaded; later of the size that is drawn */
    struct init_image init;
    struct hires_params second;
};
void start_use_defaults(struct start_use *u);
struct option_table start_use_table(struct start_use *u);

/* That --strength does a step at all. */
bool start_use_check_steps(const struct start_use *u, int steps, struct error *e);
/* Fills the hashes; start_use_plan does, too. */
bool start_use_hash(struct start_use *u, struct arena *a, struct error *e);
/* Reads the files and checks what can be checked without a model. */
bool start_use_plan(struct start_use *u, struct arena *a, int steps, struct error *e);
/* w and h that are 0 become the init image's, rounded down to multiples of `factor`. */
void start_use_size(const struct start_use *u, int factor, int *w, int *h);
/* Brings picture and mask to the size that is drawn. `factor`: of the model's latents. */
bool start_use_fit(struct start_use *u, struct arena *a, int w, int h, int factor, struct error *e);

/* NULL where a picture comes from noise. */
static inline const struct init_image *start_use_init(const struct start_use *u) { return u->picture_path ? &u->init : NULL; }

/* Fields for a recipe, and back. `given`: the options that the user gave. Pictures are looked for in dir. */
void start_use_write(const struct start_use *u, struct arena *a, struct recipe *r);
struct start_use_given {
    bool picture, mask, strength, hires, hires_strength, hires_steps, upscaler;
};
bool start_use_read(struct start_use *u, struct arena *a, const struct recipe *r, const struct start_use_given *given,
                    const char *dir, struct error *e);

#endif
