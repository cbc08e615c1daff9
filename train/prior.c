/* Prior preservation: beside every batch of the subject one of its class, whose pictures the model itself drew before it
 * learnt anything. They are kept in a folder and used again. Paper: Ruiz et al. 2022. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/os.h"
#include "base/path.h"
#include "base/text.h"
#include "io/png.h"
#include "io/recipe.h"
#include "train/trainer_priv.h"

enum { MOST_AT_ONCE = 8 };

bool train_prior_on(const struct train_params *p) { return p->prior_weight > 0 && (p->class_prompt || p->class_data); }

/* The path without links, also of what does not exist yet. */
static const char *real_path(struct arena *a, const char *path) {
    const char *real = os_path_real(a, path);
    if (real) return real;
    const char *dir = path_dir(a, path);
    return !strcmp(dir, path) || !strcmp(dir, ".") ? path_join(a, os_path_real(a, "."), path_base(path))
                                                   : path_join(a, real_path(a, dir), path_base(path));
}

/* Pictures below --data are the subject's. */
static bool check_place(const struct trainer *t, struct error *err) {
    struct arena *a = arena_create(NULL);
    const char *dir = real_path(a, t->params.class_data), *data = t->params.data ? os_path_real(a, t->params.data) : NULL;
    size_t n = data ? strlen(data) : 0;
    bool inside = data && !strncmp(dir, data, n) && (!dir[n] || dir[n] == '/');
    arena_destroy(&a);
    if (!inside) return true;
    return error_set(err, "The class's pictures, '%s', would lie inside --data and be learnt as the subject; give --class-data "
                          "another folder.", TEXT_SHOW(t->params.class_data));
}

static const char *picture_path(struct arena *a, const char *dir, int i) {
    return arena_printf(a, "%s/class-%05d.png", dir, i);
}

/* What says in the file how it was drawn. */
static const char *recipe_of(const struct trainer *t, struct arena *a, int i) {
    const struct train_params *p = &t->params;
    struct recipe r = {.prompt = p->class_prompt, .negative = "", .steps = p->sample_steps, .w = t->plan.resolution,
                       .h = t->plan.resolution, .has_cfg = true, .cfg = (double)p->sample_cfg, .has_seed = true,
                       .seed = (uint64_t)i, .sampler = "DDIM",
                       .model = t->e->model->name, .version = "atelier 1"};
    char hash[65];
    train_model_hash(t->e->model, hash);
    recipe_add(a, &r, "Class of", arena_strndup(a, hash, 12));
    return recipe_format(a, &r);
}

/* A picture that was drawn for another prompt or by another model would teach the wrong class. */
static bool check_drawn(const struct trainer *t, const struct dataset_sample *s, const char *hash, struct error *err) {
    struct arena *a = arena_create(NULL);
    struct png_text *texts;
    struct recipe r;
    size_t n;
    struct error ignored;
    bool read = path_has_ext(s->path, "png") && png_read_texts(a, s->path, &texts, &n, &ignored);
    const char *text = read ? png_text_find(texts, n, "parameters") : NULL;
    const char *by = text && recipe_parse(a, text, &r, &ignored) ? recipe_extra(&r, "Class of") : NULL;
    bool prompt = !by || !strcmp(r.prompt, s->caption), model = !by || !strncmp(hash, by, strlen(by)), ok = prompt && model;
    if (!prompt)
        error_set(err, "'%s' was drawn for the class \"%s\", not \"%s\"; give --class-data another folder, or remove the old "
                       "pictures.", TEXT_SHOW(s->path), TEXT_SHOW(r.prompt), TEXT_SHOW(s->caption));
    else if (!model)
        error_set(err, "'%s' was drawn by another model (%s); give --class-data another folder, or remove the old pictures.",
                  TEXT_SHOW(s->path), TEXT_SHOW(r.model ? r.model : "unnamed"));
    arena_destroy(&a);
    return ok;
}

static bool check_all(const struct trainer *t, const struct dataset *d, struct error *err) {
    char hash[65];
    train_model_hash(t->e->model, hash);
    for (size_t i = 0; i < d->n; i++)
        if (!check_drawn(t, &d->samples[i], hash, err)) return false;
    return true;
}

/* As many as are missing, with the first numbers that are free: a run that was broken off goes on where it stopped. */
static struct dataset missing(struct trainer *t, size_t have) {
    const struct train_params *p = &t->params;
    size_t n = p->class_prompt && (size_t)p->class_count > have ? (size_t)p->class_count - have : 0;
    struct dataset d = {.samples = arena_alloc_n(t->arena, n + 1, sizeof *d.samples), .n_per_epoch = n};
    for (int i = 0; d.n < n; i++) {
        const char *path = picture_path(t->arena, p->class_data, i);
        if (os_path_exists(path)) continue;
        d.samples[d.n++] = (struct dataset_sample){.path = path, .caption = p->class_prompt, .folder = path_base(p->class_data),
                                                   .repeats = 1, .caption_from = DATASET_CAPTION_DEFAULT,
                                                   .w = t->plan.resolution, .h = t->plan.resolution};
    }
    d.n_from[DATASET_CAPTION_DEFAULT] = n;
    return d;
}

bool train_prior_scan(struct trainer *t, struct dataset *out, struct error *err) {
    struct train_params *p = &t->params;
    struct dataset have;
    if (!p->class_data) p->class_data = arena_printf(t->arena, "%s-class", path_stem(t->arena, p->out));
    struct dataset_params dp = {.dir = p->class_data, .default_caption = p->class_prompt,
                                .may_be_empty = p->class_prompt != NULL};
    if (!check_place(t, err) || !dataset_scan(t->arena, &dp, &have, err) || !dataset_probe(&have, err) ||
        !check_all(t, &have, err))
        return false;
    t->class_drawn = missing(t, have.n);
    *out = dataset_join(t->arena, &have, &t->class_drawn);
    t->plan.n_class = out->n, t->plan.n_class_missing = t->class_drawn.n, t->plan.class_data = p->class_data;
    return true;
}

/* Pictures first, first+1, ... of those that are missing. */
static bool draw_some(struct trainer *t, struct generator *g, size_t first, int n, struct error *err) {
    struct arena *a = arena_create(NULL);
    int side = t->plan.resolution, number[MOST_AT_ONCE];
    struct generate_picture pictures[MOST_AT_ONCE] = {{0}};
    struct image images[MOST_AT_ONCE];
    uint8_t *rgb[MOST_AT_ONCE];
    for (int i = 0; i < n; i++) {
        const char *path = t->class_drawn.samples[first + (size_t)i].path;
        bool numbered = sscanf(path_base(path), "class-%d.png", &number[i]) == 1;
        assert(numbered);
        images[i] = image_create(a, side, side);
        rgb[i] = images[i].rgb;
        pictures[i] = (struct generate_picture){.prompt = t->params.class_prompt, .seed = (uint64_t)number[i]};
    }
    bool ok = generator_run_batch(g, pictures, n, NULL, rgb, err);
    for (int i = 0; ok && i < n; i++) {
        struct png_text text = {"parameters", recipe_of(t, a, number[i])};
        ok = png_write(t->class_drawn.samples[first + (size_t)i].path, &images[i], &text, 1, err);
    }
    arena_destroy(&a);
    return ok;
}

bool train_prior_draw(struct trainer *t, struct error *err) {
    const struct train_params *p = &t->params;
    size_t n = t->class_drawn.n, done = 0;
    struct generate_params gp = {.w = t->plan.resolution, .h = t->plan.resolution, .steps = p->sample_steps,
                                 .cfg = p->sample_cfg};
    if (!n) return true;
    if (!os_dir_make(p->class_data, err)) return false;
    int batch = gp.batch = generate_batch_fit(t->e, &gp, MOST_AT_ONCE);
    struct generator *g = generator_create(t->e, &gp, err);
    bool ok = g != NULL;
    double last = 0;
    while (ok && done < n) {
        int now = n - done < (size_t)batch ? (int)(n - done) : batch;
        ok = draw_some(t, g, done, now, err);
        if (os_interrupted()) {
            error_set(err, "Stopped with %zu of the class's %zu pictures to draw; the same command goes on with them.",
                      n - done, n);
            ok = false;
        }
        if (!ok) break;
        done += (size_t)now;
        if (os_stderr_is_terminal() || done == n || os_now_seconds() - last > 10) {
            last = os_now_seconds();
            log_progress("drawing the class \"%.60s\": %zu of %zu pictures", TEXT_SHOW(p->class_prompt), done, n);
        }
    }
    generator_destroy(&g);
    for (int part = 0; part < ENGINE_PARTS; part++) engine_unload(t->e, (enum engine_part)part);
    return ok;
}
