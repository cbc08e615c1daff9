#include "app/start_use.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "app/common.h"
#include "base/arena.h"
#include "base/log.h"
#include "base/os.h"
#include "base/path.h"
#include "base/text.h"

#define FIELD(name) offsetof(struct start_use, name)

static const struct option rows[] = {
    {"init-image", OPTION_TEXT, FIELD(picture_path), "FILE", "draw over this picture instead of noise; gives the size, too"},
    {"strength", OPTION_NUMBER, FIELD(strength), "X", "how much of it may change: share of the steps that is done", 0, 1},
    {"mask", OPTION_TEXT, FIELD(mask_path), "FILE", "white where --init-image is drawn anew, black where it stays"},
    {"hires", OPTION_NUMBER, FIELD(hires), "SCALE", "a second pass at --width and --height times this", 1, 16},
    {"hires-strength", OPTION_NUMBER, FIELD(hires_strength), "X", "its --strength", 0, 1},
    {"hires-steps", OPTION_INT, FIELD(hires_steps), "N", "its --steps; as the first pass if not given", 1, 1000},
    {"hires-upscaler", OPTION_CHOICE, FIELD(upscaler), "NAME", "between the passes: latent (soft) or lanczos",
     .choices = "latent|lanczos"},
};

void start_use_defaults(struct start_use *u) {
    *u = (struct start_use){.strength = 0.8, .hires_strength = 0.7, .upscaler = "latent"};
}

struct option_table start_use_table(struct start_use *u) { return (struct option_table){OPTION_ROWS(rows), u}; }

static bool plan_hires(struct start_use *u, int steps, struct error *e) {
    if (u->picture_path)
        return error_set(e, "--hires draws its first pass from noise and takes no --init-image; draw over the picture with a "
                            "larger --width and --height instead.");
    if (u->hires <= 1)
        return error_set(e, "--hires %g does not make the picture larger; give a scale above 1, like 1.5 or 2.", u->hires);
    int n = u->hires_steps ? u->hires_steps : steps;
    if (init_image_steps(n, u->hires_strength) < 1)
        return error_set(e, "--hires-strength %g does none of the second pass's %d steps; give at least %.3g.",
                         u->hires_strength, n, 1.0 / n);
    u->second = (struct hires_params){.scale = u->hires, .strength = u->hires_strength, .steps = u->hires_steps,
                                      .upscaler = strcmp(u->upscaler, "latent") ? HIRES_LANCZOS : HIRES_LATENT};
    return true;
}

bool start_use_check_steps(const struct start_use *u, int steps, struct error *e) {
    return init_image_steps(steps, u->strength) >= 1 ||
           error_set(e, "--strength %g does none of %d steps; give at least %.3g.", u->strength, steps, 1.0 / steps);
}

bool start_use_hash(struct start_use *u, struct arena *a, struct error *e) {
    if (u->picture_path && !u->picture_hash && !(u->picture_hash = common_file_hash(a, u->picture_path, e))) return false;
    return !u->mask_path || u->mask_hash || (u->mask_hash = common_file_hash(a, u->mask_path, e));
}

bool start_use_plan(struct start_use *u, struct arena *a, int steps, struct error *e) {
    if (u->hires && !plan_hires(u, steps, e)) return false;
    if (u->mask_path && !u->picture_path)
        return error_set(e, "--mask says which part of a picture is drawn anew; give the picture with --init-image.");
    if (!u->picture_path) return true;
    if (!start_use_check_steps(u, steps, e) || !start_use_hash(u, a, e)) return false;
    if (!image_load(a, u->picture_path, 1, &u->picture, e)) return error_prefix(e, "--init-image");
    if (u->mask_path && !image_load(a, u->mask_path, 1, &u->mask, e)) return error_prefix(e, "--mask");
    return true;
}

void start_use_size(const struct start_use *u, int factor, int *w, int *h) {
    if (!u->picture_path) return;
    if (!*w && u->picture.w >= factor) *w = u->picture.w / factor * factor;
    if (!*h && u->picture.h >= factor) *h = u->picture.h / factor * factor;
}

static void resize(const struct start_use *u, struct arena *a, struct image *im, const char *path, int w, int h) {
    if (im->w == w && im->h == h) return;
    if (!u->quiet) log_info("%s is %dx%d and is resized to %dx%d", path, im->w, im->h, w, h);
    *im = image_resize(a, im, w, h);
}

bool start_use_fit(struct start_use *u, struct arena *a, int w, int h, int factor, struct error *e) {
    if (!u->picture_path) return true;
    resize(u, a, &u->picture, u->picture_path, w, h);
    u->init = (struct init_image){.rgb = u->picture.rgb, .strength = u->strength};
    if (!u->mask_path) return true;
    resize(u, a, &u->mask, u->mask_path, w, h);
    size_t n = (size_t)w * (size_t)h;
    uint8_t *grey = arena_alloc(a, n);
    bool any = false;
    for (size_t i = 0; i < n; i++) { /* ITU-R 601 luma in 16 bits of fraction, as Pillow's L */
        const uint8_t *p = u->mask.rgb + 3 * i;
        grey[i] = (uint8_t)((p[0] * 19595u + p[1] * 38470u + p[2] * 7471u + 0x8000u) >> 16);
    }
    for (int y = 0; y < h && !any; y += factor)
        for (int x = 0; x < w && !any; x += factor) any = grey[(size_t)y * (size_t)w + (size_t)x] >= 128;
    if (!any)
        return error_set(e, "The mask %s is black everywhere at the model's scale, so that nothing would be drawn; paint "
                            "white, in patches of %d pixels or more, what is to be drawn anew.", TEXT_SHOW(u->mask_path),
                         factor);
    u->init.mask = grey;
    return true;
}

/* ---- Recipes ---- */

static void add(struct arena *a, struct recipe *r, const char *key, const char *value) {
    r->extra = arena_grow(a, r->extra, r->n_extra, r->n_extra + 1, sizeof *r->extra);
    r->extra[r->n_extra++] = (struct recipe_field){key, value};
}

void start_use_write(const struct start_use *u, struct arena *a, struct recipe *r) {
    if (u->picture_path) {
        add(a, r, "Denoising strength", arena_printf(a, "%.9g", u->strength));
        add(a, r, "Init image", path_base(u->picture_path));
        add(a, r, "Init image hash", u->picture_hash);
        if (u->mask_path) {
            add(a, r, "Mask", path_base(u->mask_path));
            add(a, r, "Mask hash", u->mask_hash);
        }
    }
    if (!u->hires) return;
    add(a, r, "Denoising strength", arena_printf(a, "%.9g", u->hires_strength));
    add(a, r, "Hires upscale", arena_printf(a, "%.9g", u->hires));
    if (u->hires_steps) add(a, r, "Hires steps", arena_printf(a, "%d", u->hires_steps));
    add(a, r, "Hires upscaler", strcmp(u->upscaler, "latent") ? "Lanczos" : "Latent");
}

static bool read_number(const struct recipe *r, const char *key, double least, double most, double *out, struct error *e) {
    const char *text = recipe_extra(r, key);
    if (!text) return true;
    char *end;
    double v = strtod(text, &end);
    if (end == text || *end || !(v >= least && v <= most))
        return error_set(e, "The recipe's %s is \"%s\", not a number from %g to %g.", key, TEXT_SHOW(text), least, most);
    *out = v;
    return true;
}

static bool read_hires(struct start_use *u, const struct recipe *r, const struct start_use_given *given, struct error *e) {
    double steps = u->hires_steps;
    if (!given->hires && !read_number(r, "Hires upscale", 1, 16, &u->hires, e)) return false;
    if (!given->hires_strength && !read_number(r, "Denoising strength", 0, 1, &u->hires_strength, e)) return false;
    if (!given->hires_steps && !read_number(r, "Hires steps", 0, 1000, &steps, e)) return false;
    u->hires_steps = (int)steps;
    const char *upscaler = recipe_extra(r, "Hires upscaler");
    if (!upscaler || given->upscaler) return true;
    if (!strcmp(upscaler, "Latent")) u->upscaler = "latent";
    else if (!strcmp(upscaler, "Lanczos") || !strcmp(upscaler, "None")) u->upscaler = "lanczos";
    else
        return error_set(e, "The recipe's upscaler \"%s\" is not here; choose another with --hires-upscaler.",
                         TEXT_SHOW(upscaler));
    return true;
}

/* `hash`: of the file that is meant, NULL where the recipe does not say. A restyled picture often has its source's name. */
static bool find_file(struct arena *a, const char *dir, const char *name, const char *hash, const char *option,
                      const char **out, struct error *e) {
    *out = path_join(a, dir, path_base(name));
    if (!os_path_is_file(*out))
        return error_set(e, "The recipe draws over \"%s\", which is not in %s; give it with --%s.", TEXT_SHOW(name),
                         TEXT_SHOW(dir), option);
    const char *own = hash ? common_file_hash(a, *out, e) : NULL;
    if (hash && !own) return false;
    return !hash || !strcmp(own, hash) ||
           error_set(e, "The recipe draws over another \"%s\" (hash %s) than the one in %s; give it with --%s.",
                     TEXT_SHOW(name), TEXT_SHOW(hash), TEXT_SHOW(dir), option);
}

bool start_use_read(struct start_use *u, struct arena *a, const struct recipe *r, const struct start_use_given *given,
                    const char *dir, struct error *e) {
    const char *picture = recipe_extra(r, "Init image"), *mask = recipe_extra(r, "Mask");
    if (recipe_extra(r, "Hires upscale")) return read_hires(u, r, given, e);
    if (!recipe_extra(r, "Denoising strength")) return true;
    if (!given->strength && !read_number(r, "Denoising strength", 0, 1, &u->strength, e)) return false;
    if (!picture && !given->picture)
        log_warn("the recipe draws over a picture that it does not name; give it with --init-image");
    if (picture && !given->picture &&
        !find_file(a, dir, picture, recipe_extra(r, "Init image hash"), "init-image", &u->picture_path, e))
        return false;
    return !mask || given->mask || find_file(a, dir, mask, recipe_extra(r, "Mask hash"), "mask", &u->mask_path, e);
}
