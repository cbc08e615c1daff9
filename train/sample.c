/* Sheets drawn while training goes on: the sample prompts with the adapter as it is now, same seed each time. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "io/png.h"
#include "train/trainer_priv.h"

static const char *sheet_path(const struct trainer *t, struct arena *a) {
    const char *dot = strrchr(t->params.out, '.'), *slash = strrchr(t->params.out, '/');
    int stem = dot && (!slash || dot > slash) ? (int)(dot - t->params.out) : (int)strlen(t->params.out);
    return arena_printf(a, "%.*s-sample-%06d.png", stem, t->params.out, t->step);
}

/* The generator keeps the words' names from its first sheet; their vectors are new for each. */
static bool read_words(struct trainer *t, struct arena *a, struct error *err) {
    t->sample_words.arena = a;
    return !t->words.n || train_words_read(t, &t->sample_words, err);
}

static bool open_generator(struct trainer *t, struct error *err) {
    int size = t->plan.resolution;
    if (t->samples) return true;
    struct generate_params gp = {.w = size, .h = size, .steps = t->params.sample_steps, .cfg = t->params.sample_cfg,
                                 .adapter = t->params.kind == TRAIN_NONE ? NULL : t->adapter, .words = &t->sample_words};
    if (t->params.distill.method == DISTILL_LCM) gp.sampler = "lcm";
    t->samples = generator_create(t->e, &gp, err);
    return t->samples != NULL;
}

bool train_samples_draw(struct trainer *t, struct error *err) {
    int size = t->plan.resolution, n = t->params.n_sample_prompts;
    struct arena *a = arena_create(NULL);
    struct image *cells = arena_alloc_n(a, (size_t)n, sizeof *cells);
    const char **labels = arena_alloc_n(a, (size_t)n, sizeof *labels);
    bool ok = train_weights_show(t, err) && read_words(t, a, err) && open_generator(t, err);
    if (ok) generator_forget_prompts(t->samples);
    for (int i = 0; ok && i < n; i++) {
        cells[i] = image_create(a, size, size);
        labels[i] = t->params.sample_prompts[i];
        struct generate_picture gp = {.prompt = labels[i], .seed = t->params.seed, .strength = (float[]){1}};
        ok = generator_run(t->samples, &gp, NULL, cells[i].rgb, err);
    }
    ok = train_weights_hide(t, err) && ok;
    struct image sheet;
    struct image_grid_params grid = {.rows = 1, .cols = n, .cells = cells, .col_labels = labels,
                                     .title = arena_printf(a, "step %d", t->step)};
    const char *path = sheet_path(t, a);
    ok = ok && image_grid(a, &grid, &sheet, err) && png_write(path, &sheet, NULL, 0, err);
    if (ok) log_info("sample sheet: %s", path);
    arena_destroy(&a);
    return ok;
}
