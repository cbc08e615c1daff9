/* Sheets drawn while training goes on: the sample prompts with the adapter as it is now, same seed each time. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/os.h"
#include "io/png.h"
#include "io/prompt_file.h"
#include "train/trainer_priv.h"

static const char *sheet_path(const struct trainer *t, struct arena *a) {
    const char *dot = strrchr(t->params.out, '.'), *slash = strrchr(t->params.out, '/');
    int stem = dot && (!slash || dot > slash) ? (int)(dot - t->params.out) : (int)strlen(t->params.out);
    return arena_printf(a, "%.*s-sample-%06d.png", stem, t->params.out, t->step);
}

bool train_samples_drawn(const struct trainer *t) {
    struct arena *a = arena_create(NULL);
    bool drawn = os_path_exists(sheet_path(t, a));
    arena_destroy(&a);
    return drawn;
}

/* The generator keeps the words' names from its first sheet; their vectors are new for each. */
static bool read_words(struct trainer *t, struct arena *a, struct error *err) {
    t->sample_words.arena = a;
    return !t->words.n || train_words_read(t, &t->sample_words, err);
}

static struct generate_params params_of(struct trainer *t, const struct prompt_line *l) {
    const struct train_params *p = &t->params;
    return (struct generate_params){
        .w = l->w ? l->w : t->plan.resolution, .h = l->h ? l->h : t->plan.resolution,
        .steps = l->steps ? l->steps : p->sample_steps, .cfg = l->has_cfg ? (float)l->cfg : p->sample_cfg,
        .sampler = l->sampler ? l->sampler : p->distill.method == DISTILL_LCM ? "lcm" : NULL,
        .adapter = p->kind == TRAIN_NONE ? NULL : t->adapter, .words = &t->sample_words};
}

static bool same_params(const struct generate_params *a, const struct generate_params *b) {
    bool sampler = a->sampler && b->sampler ? !strcmp(a->sampler, b->sampler) : a->sampler == b->sampler;
    return a->w == b->w && a->h == b->h && a->steps == b->steps && a->cfg == b->cfg && sampler;
}

/* One generator at a time, so that samples of several sizes take no more than the largest. */
static bool open_generator(struct trainer *t, const struct prompt_line *l, struct error *err) {
    struct generate_params gp = params_of(t, l);
    if (t->samples && same_params(&gp, &t->sample_params)) return true;
    generator_destroy(&t->samples);
    t->sample_params = gp;
    t->samples = generator_create(t->e, &gp, err);
    return t->samples != NULL;
}

/* What the sheet's programs take beside what the training keeps: the UNet is there, its tape for drawing is not; the VAE comes
 * beside that or in its place; and texts may be read while both are there, for the second prompt. */
enum { BORDER_BYTES = 1 << 18 }; /* buffers are rounded: where the VAE nearly fits beside the UNet, the worse is planned for */
static bool plan_beside(struct trainer *t, const struct generate_params *gp, struct error *err) {
    struct engine *e = t->e;
    const struct train_plan *p = &t->plan;
    struct generate_memory m;
    struct memory_choice vae;
    int tile;
    e->reserved_bytes = p->peak_bytes - p->unet_bytes;
    if (!generate_memory_plan(e, gp, &m, err)) return false;
    int64_t unet = memory_choice_bytes(&m.unet) - m.unet.weight_bytes, left = p->device_bytes - p->peak_bytes;
    if (t->memory.streamed && unet > left) /* its weights stay as the training has them */
        return error_set(err, "The UNet needs %.1f MiB beside the training, and %.1f MiB are free; allow more with --memory.",
                         (double)unet / 1048576, (double)left / 1048576);
    e->reserved_bytes = p->peak_bytes;
    if (!vae_session_plan(e, false, false, gp->w, gp->h, &vae, &tile, err) ||
        (m.f32_possible && !vae_session_plan(e, false, true, gp->w, gp->h, &vae, &tile, err)))
        return false;
    struct error ignored;
    struct text_params tp = {.adapter = gp->adapter};
    e->reserved_bytes += unet - BORDER_BYTES;
    if (vae_session_plan(e, false, false, gp->w, gp->h, &vae, &tile, &ignored) && !vae.streamed)
        e->reserved_bytes += memory_choice_bytes(&vae);
    e->reserved_bytes += BORDER_BYTES - (t->text_on_tape ? p->text_bytes : 0);
    return engine_text_plan(e, 2, &tp, err);
}

static bool check_sample(struct trainer *t, const struct generate_params *gp, struct error *err) {
    int f = vae_config_factor(&t->e->model->vae);
    if (gp->w % f || gp->h % f)
        return error_set(err, "A sample of %dx%d cannot be drawn: --w and --h in --sample-prompt must be multiples of %d.",
                         gp->w, gp->h, f);
    bool ok = plan_beside(t, gp, err);
    t->e->reserved_bytes = 0;
    return ok || error_prefix(err, "A sample of %dx%d (--w and --h in --sample-prompt)", gp->w, gp->h);
}

bool train_samples_plan(struct trainer *t, struct error *err) {
    for (int i = 0; i < t->params.n_samples; i++) {
        struct generate_params gp = params_of(t, &t->params.samples[i]);
        if (!check_sample(t, &gp, err)) return false;
    }
    return true;
}

bool train_samples_draw(struct trainer *t, struct error *err) {
    int n = t->params.n_samples;
    struct arena *a = arena_create(NULL);
    struct image *cells = arena_alloc_n(a, (size_t)n, sizeof *cells);
    const char **labels = arena_alloc_n(a, (size_t)n, sizeof *labels);
    bool ok = train_weights_show(t, err) && read_words(t, a, err), broken = false;
    if (t->samples) generator_forget_prompts(t->samples);
    for (int i = 0; ok && i < n; i++) {
        const struct prompt_line *l = &t->params.samples[i];
        if (!(ok = open_generator(t, l, err))) break;
        cells[i] = image_create(a, t->sample_params.w, t->sample_params.h);
        labels[i] = l->prompt;
        struct generate_picture gp = {.prompt = l->prompt, .negative = l->negative, .strength = (float[]){1}, .broken = &broken,
                                      .seed = l->has_seed ? l->seed : t->params.seed};
        ok = generator_run(t->samples, &gp, NULL, cells[i].rgb, err);
    }
    ok = train_weights_hide(t, err) && ok;
    struct image sheet;
    struct image_grid_params grid = {.rows = 1, .cols = n, .cells = cells, .col_labels = labels,
                                     .title = arena_printf(a, "step %d", t->step)};
    const char *path = sheet_path(t, a);
    ok = ok && image_grid(a, &grid, &sheet, err) && png_write(path, &sheet, NULL, 0, err);
    if (ok) log_info("sample sheet: %s", path);
    if (ok && broken) log_warn("a sample is not a picture: its numbers went past all bounds; --lr may be too high");
    arena_destroy(&a);
    return ok;
}
