#include "app/region_use.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/os.h"
#include "base/path.h"
#include "base/text.h"
#include "diffusion/area_resize.h"
#include "io/image.h"
#include "io/json.h"

#define FIELD(name) offsetof(struct region_use, name)

static const struct option rows[] = {
    {"region", OPTION_LIST, FIELD(texts), "WHERE:PROMPT",
     "another prompt for a part of the picture: WHERE is X,Y,W,H in\n"
     "pixels or a mask picture (white counts); <lora:name> in PROMPT\n"
     "acts there alone"},
    {"region-method", OPTION_CHOICE, FIELD(method), "NAME", "attention: the parts of one picture look at their own prompts;\n"
     "predictions: every prompt predicts the whole picture, joined by the\nregions, each of which costs as much as a picture",
     .choices = "attention|predictions"},
};

void region_use_defaults(struct region_use *u) { *u = (struct region_use){.method = "attention"}; }

enum guide_regions region_use_method(const struct region_use *u) {
    return strcmp(u->method, "attention") ? GUIDE_PREDICTIONS : GUIDE_ATTENTION;
}

struct option_table region_use_table(struct region_use *u) { return (struct option_table){OPTION_ROWS(rows), u}; }

static bool parse_box(struct region *r) {
    char rest;
    return sscanf(r->where, "%d,%d,%d,%d%c", &r->x, &r->y, &r->w, &r->h, &rest) == 4;
}

/* The mask where it is said to be, or beside the recipe. */
static bool find_mask(const struct region_use *u, struct region *r, struct arena *a) {
    if (os_path_is_file(r->where)) return true;
    if (u->dir) r->where = path_join(a, u->dir, path_base(r->where));
    return u->dir && os_path_is_file(r->where);
}

/* The first colon behind a box, or behind a file that is there. */
static bool take_apart(const struct region_use *u, struct region *r, const char *text, struct arena *a, const char **prompt,
                       struct error *e) {
    for (const char *colon = strchr(text, ':'); colon; colon = strchr(colon + 1, ':')) {
        r->where = arena_strndup(a, text, (size_t)(colon - text));
        r->is_box = parse_box(r);
        *prompt = colon + 1;
        if (r->is_box || find_mask(u, r, a)) return true;
    }
    return error_set(e, "--region \"%s\" does not say where: write X,Y,W,H:PROMPT in pixels, or MASK.png:PROMPT with a file "
                        "that is there.", TEXT_SHOW(text));
}

bool region_use_plan(struct region_use *u, struct arena *a, int n_prompts, struct lora_use *loras, struct error *e) {
    if (u->texts.n > GUIDE_MAX_REGIONS)
        return error_set(e, "There are %d regions, and at most %d can be drawn; join some in one mask picture, or leave some "
                            "to --prompt.", u->texts.n, GUIDE_MAX_REGIONS);
    u->items = arena_alloc_n(a, (size_t)u->texts.n + 1, sizeof *u->items);
    for (u->n = 0; u->n < u->texts.n; u->n++) {
        struct recipe_lora *tags;
        const char *prompt = "";
        size_t n;
        struct region *r = &u->items[u->n];
        if (!take_apart(u, r, u->texts.items[u->n], a, &prompt, e)) return false;
        if (!text_utf8_valid(prompt, strlen(prompt)))
            return error_set(e, "The prompt of region %d is not UTF-8 text.", u->n + 1);
        r->prompt = recipe_cut_loras(a, prompt, &tags, &n);
        for (size_t k = 0; k < n; k++)
            if (!lora_use_tag(loras, &tags[k], n_prompts + u->n, e)) return false;
    }
    return true;
}

/* ---- Maps ---- */

static bool box_pixels(const struct region *r, int w, int h, float *mask, struct error *e) {
    if (r->w < 1 || r->h < 1)
        return error_set(e, "The region %s has no area; X,Y,W,H are its left and upper edge, width and height in pixels.",
                         r->where);
    if (r->x < 0 || r->y < 0 || r->w > w - r->x || r->h > h - r->y)
        return error_set(e, "The region %s reaches outside the picture of %dx%d pixels; X + W can be at most %d and Y + H at "
                            "most %d.", r->where, w, h, w, h);
    for (int y = r->y; y < r->y + r->h; y++)
        for (int x = r->x; x < r->x + r->w; x++) mask[y * w + x] = 1;
    return true;
}

static bool picture_pixels(const struct region *r, int w, int h, float *mask, struct error *e) {
    struct arena *a = arena_create(NULL);
    struct image im;
    bool ok = image_load(a, r->where, 1, &im, e), any = false;
    if (ok && (im.w != w || im.h != h))
        ok = error_set(e, "The mask %s has %dx%d pixels and the picture %dx%d; make them alike.", TEXT_SHOW(r->where), im.w,
                       im.h, w, h);
    for (int i = 0; ok && i < w * h; i++) {
        mask[i] = (float)(im.rgb[3 * i] + im.rgb[3 * i + 1] + im.rgb[3 * i + 2]) / (3 * 255);
        any |= mask[i] > 0;
    }
    if (ok && !any)
        ok = error_set(e, "The mask %s is black all over; paint white where its prompt is to act.", TEXT_SHOW(r->where));
    arena_destroy(&a);
    return ok;
}

bool region_use_load(struct region_use *u, struct arena *a, int w, int h, int latent_w, int latent_h, struct error *e) {
    struct arena *own = arena_create(NULL);
    bool ok = true;
    for (int k = 0; ok && k < u->n; k++) {
        struct region *r = &u->items[k];
        float *mask = arena_alloc_n(own, (size_t)w * (size_t)h, sizeof *mask);
        ok = r->is_box ? box_pixels(r, w, h, mask, e) : picture_pixels(r, w, h, mask, e);
        r->map_w = latent_w, r->map_h = latent_h;
        r->map = arena_alloc_n(a, (size_t)latent_w * (size_t)latent_h, sizeof *r->map);
        if (ok) area_resize(r->map, latent_w, latent_h, mask, w, h);
    }
    arena_destroy(&own);
    return ok;
}

const struct guide_region *region_use_list(const struct region_use *u, struct arena *a, const struct lora_use *loras,
                                           int n_prompts, float factor) {
    struct guide_region *list = arena_alloc_n(a, (size_t)u->n + 1, sizeof *list);
    for (int k = 0; k < u->n; k++) {
        float *strength = arena_alloc_n(a, (size_t)loras->n + 1, sizeof *strength);
        lora_use_strengths(loras, n_prompts + k, factor, strength);
        list[k] = (struct guide_region){u->items[k].prompt, strength, u->items[k].map, u->items[k].map_w, u->items[k].map_h};
    }
    return list;
}

/* ---- Recipes ---- */

void region_use_write(const struct region_use *u, struct arena *a, struct recipe *r) {
    if (!u->n) return;
    json_t *list = json_array();
    for (int i = 0; i < u->n; i++) json_array_append_new(list, json_string(u->texts.items[i]));
    char *text = json_dumps(list, JSON_COMPACT);
    recipe_add(a, r, "Regions", arena_strdup(a, text));
    recipe_add(a, r, "Region method", u->method);
    free(text);
    json_decref(list);
}

static bool read_method(struct region_use *u, const struct recipe *r, struct error *e) {
    const char *method = recipe_extra(r, "Region method");
    if (!method || !strcmp(method, "predictions")) u->method = "predictions";
    else if (!strcmp(method, "attention")) u->method = "attention";
    else
        return error_set(e, "The recipe's way to draw regions, \"%s\", is not here; choose one with --region-method.",
                         TEXT_SHOW(method));
    return true;
}

bool region_use_read(struct region_use *u, struct arena *a, const struct recipe *r, const struct region_use_given *given,
                     const char *dir, struct error *e) {
    const char *text = recipe_extra(r, "Regions");
    if (text && !given->method && !read_method(u, r, e)) return false;
    if (given->region) return true;
    u->dir = dir;
    json_t *list = text ? json_loads(text, 0, NULL) : NULL;
    size_t n = json_array_size(list);
    bool ok = !text || (n > 0 && n <= GUIDE_MAX_REGIONS) ||
              error_set(e, "The recipe's field \"Regions\" cannot be read; give --region.");
    u->texts.items = arena_alloc_n(a, n + 1, sizeof *u->texts.items);
    for (size_t i = 0; ok && i < n; i++) {
        const char *item = json_string_value(json_array_get(list, i));
        if (!item) ok = error_set(e, "The recipe's field \"Regions\" cannot be read; give --region.");
        else u->texts.items[u->texts.n++] = arena_strdup(a, item);
    }
    json_decref(list);
    return ok;
}
