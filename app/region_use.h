/* --region: parts of the picture with prompts, and LoRAs, of their own. */
#ifndef ATELIER_APP_REGION_USE_H
#define ATELIER_APP_REGION_USE_H

#include "app/lora_use.h"
#include "app/options.h"
#include "io/recipe.h"

struct region {
    const char *where;  /* "X,Y,W,H" or a picture's path */
    const char *prompt; /* without <lora:...> */
    bool is_box;
    int x, y, w, h;
    float *map; /* [map_h][map_w], once the picture's size is known */
    int map_w, map_h;
};
struct region_use {
    struct option_list texts; /* as typed */
    const char *method;       /* attention or predictions */
    const char *dir;          /* masks that are not where they are said to be are looked for here; NULL: nowhere */
    struct region *items;
    int n;
};
void region_use_defaults(struct region_use *u);
struct option_table region_use_table(struct region_use *u);
/* Takes the texts apart; LoRAs they name become requests for prompt number n_prompts + region. */
bool region_use_plan(struct region_use *u, struct arena *a, int n_prompts, struct lora_use *loras, struct error *e);
enum guide_regions region_use_method(const struct region_use *u);
/* Makes the maps of a picture of w x h pixels, in the size of the largest latent that is drawn. */
bool region_use_load(struct region_use *u, struct arena *a, int w, int h, int latent_w, int latent_h, struct error *e);
/* What generate_picture wants. */
const struct guide_region *region_use_list(const struct region_use *u, struct arena *a, const struct lora_use *loras,
                                           int n_prompts, float factor);

void region_use_write(const struct region_use *u, struct arena *a, struct recipe *r);
/* What was given stays. Masks may lie beside the recipe, in `dir`. Recipes older than the choice are by predictions. */
struct region_use_given {
    bool region, method;
};
bool region_use_read(struct region_use *u, struct arena *a, const struct recipe *r, const struct region_use_given *given,
                     const char *dir, struct error *e);

#endif
