/* A folder of pictures in, a folder of restyled pictures out. */
#include <stdio.h>
#include <string.h>

#include "app/commands.h"
#include "app/draw_progress.h"
#include "app/stylize.h"
#include "base/log.h"
#include "base/os.h"
#include "base/path.h"
#include "base/text.h"
#include "engine/generate.h"
#include "io/png.h"

#define FIELD(name) offsetof(struct stylize_options, name)

static const struct option rows[] = {
    {"data", OPTION_TEXT, FIELD(data), "DIR",
     "pictures to restyle: JPEG, PNG and WebP files here and in folders below", .required = true},
    {"out", OPTION_TEXT, FIELD(out), "DIR",
     "where they go: same names, as .png; what is there already is left out,\n"
     "so that the same command goes on after a break", .required = true},
    {"prompt", OPTION_TEXT, FIELD(prompt), "TEXT",
     "what all pictures show; {caption} in it stands for a picture's own words\n"
     "(those words alone: from NAME.txt beside it, or a folder like 10_words)"},
    {"caption", OPTION_TEXT, FIELD(caption), "TEXT", "words of pictures that have none"},
    {"mask-dir", OPTION_TEXT, FIELD(mask_dir), "DIR", "masks of the same names, white where a picture is drawn anew"},
    {"own-size", OPTION_FLAG, FIELD(own_size), NULL,
     "draw each at its own size; else it gets as many pixels as the model\nis made for, in its own shape"},
    {"overwrite", OPTION_FLAG, FIELD(overwrite), NULL, "draw all anew, also what is there"},
    {"skip-bad", OPTION_FLAG, FIELD(skip_bad), NULL,
     "leave out damaged pictures and list them at the end, instead of stopping"},
};
static const struct option strength_row[] = {
    {"strength", OPTION_NUMBER, offsetof(struct start_use, strength), "X",
     "how much of a picture may change: share of the steps that is done", 0, 1},
};

enum { BATCH = 4 };

struct run {
    struct generate_options options;
    struct generate_plan plan;
    struct generate_open open;
    struct stylize_options wishes;
    struct stylize pictures;
    struct generator *generator;
    const struct generate_line *kind; /* that it draws; NULL: none */
    int batch;
    struct draw_progress progress;
    double started;
};

static int wanted_batch(const struct run *r) { return r->options.batch ? r->options.batch : BATCH; }

static bool open_kind(struct run *r, const struct generate_line *l, struct error *e) {
    struct generate_params gp;
    if (r->kind && generate_same_kind(r->kind, l)) return true;
    generator_destroy(&r->generator);
    r->kind = NULL;
    if (!generate_params_of(&r->options, l, r->open.adapter, &gp, e) ||
        !(r->generator = generator_create(r->open.engine, &gp, e)))
        return false;
    r->batch = generate_batch_fit(r->open.engine, &gp, wanted_batch(r));
    if (r->batch < wanted_batch(r)) log_debug("%d pictures of %dx%d at once fit into memory", r->batch, l->w, l->h);
    r->kind = l;
    return true;
}

/* Reads waiting pictures of the open kind from `first` on, as many as are drawn at once. */
static bool gather(struct run *r, int first, struct arena *a, int *chosen, int *n, struct error *e) {
    struct stylize *s = &r->pictures;
    int factor = vae_config_factor(&r->open.engine->model->vae);
    *n = 0;
    for (int i = first; i < s->n && *n < r->batch; i++) {
        const struct generate_line *l = &r->plan.lines[i];
        struct start_use *start = &s->items[i].start;
        if (s->items[i].state != STYLIZE_WAITING || !generate_same_kind(r->kind, l)) continue;
        if (start_use_hash(start, s->arena, e) && start_use_plan(start, a, l->steps, e) &&
            start_use_fit(start, a, l->w, l->h, factor, e))
            chosen[(*n)++] = i;
        else if (!stylize_bad(s, i, e)) return false;
        else r->progress.total--;
    }
    return true;
}

static bool write_picture(struct run *r, int i, struct image im, struct error *e) {
    struct stylize_item *item = &r->pictures.items[i];
    struct arena *a = arena_create(NULL);
    struct png_text text = {"parameters", generate_recipe(&r->plan, &r->open.facts, i, 0, 1)};
    bool ok = os_dir_make(path_dir(a, item->out), e) && png_write(item->out, &im, &text, 1, e);
    arena_destroy(&a);
    if (ok) item->state = STYLIZE_DONE;
    return ok;
}

static bool draw_some(struct run *r, int first, struct arena *a, struct error *e) {
    int chosen[64], n;
    if (!gather(r, first, a, chosen, &n, e)) return false;
    if (!n) return true;
    struct generate_picture *pictures = arena_alloc_n(a, (size_t)n, sizeof *pictures);
    uint8_t **rgb = arena_alloc_n(a, (size_t)n, sizeof *rgb);
    for (int k = 0; k < n; k++) {
        const struct generate_line *l = &r->plan.lines[chosen[k]];
        float *strength = arena_alloc_n(a, (size_t)r->plan.loras.n + 1, sizeof *strength);
        lora_use_strengths(&r->plan.loras, chosen[k], 1, strength);
        pictures[k] = (struct generate_picture){.prompt = l->prompt, .negative = l->negative, .seed = l->seed,
                                                .strength = strength, .courses = lora_use_courses(&r->plan.loras),
                                                .init = start_use_init(l->start)};
        rgb[k] = image_create(a, l->w, l->h).rgb;
    }
    struct generate_progress progress = draw_progress_begin(&r->progress, n);
    bool ok = generator_run_batch(r->generator, pictures, n, &progress, rgb, e);
    draw_progress_end(&r->progress);
    for (int k = 0; ok && k < n; k++) ok = write_picture(r, chosen[k], (struct image){r->kind->w, r->kind->h, rgb[k]}, e);
    return ok;
}

static bool draw_all(struct run *r, struct error *e) {
    draw_progress_start(&r->progress, stylize_count(&r->pictures, STYLIZE_WAITING));
    for (int i = 0; i < r->pictures.n; i++)
        while (r->pictures.items[i].state == STYLIZE_WAITING) {
            if (os_interrupted()) return error_set(e, "Stopped.");
            struct arena *a = arena_create(r->plan.arena);
            bool ok = open_kind(r, &r->plan.lines[i], e) && draw_some(r, i, a, e);
            arena_destroy(&a);
            if (!ok) return false;
        }
    return true;
}

static bool load(struct run *r, const struct common *common, struct error *e) {
    const struct generate_line *largest = NULL;
    if (!generate_open(&r->open, common, &r->options, &r->plan, NULL, e)) return false;
    int factor = vae_config_factor(&r->open.engine->model->vae);
    stylize_fit(&r->pictures, &r->plan, r->open.engine->model);
    for (int i = 0; i < r->pictures.n; i++) {
        const struct generate_line *l = &r->plan.lines[i];
        if (r->pictures.items[i].state == STYLIZE_BAD) continue;
        if (l->w % factor || l->h % factor || l->w > IMAGE_MAX_SIDE || l->h > IMAGE_MAX_SIDE)
            return error_set(e, "%s cannot be drawn at %dx%d: width and height must be multiples of %d, up to %d.",
                             TEXT_SHOW(r->pictures.items[i].name), l->w, l->h, factor, IMAGE_MAX_SIDE);
        if (!largest || (int64_t)l->w * l->h > (int64_t)largest->w * largest->h) largest = l;
    }
    if (!stylize_find_done(&r->pictures, &r->plan, &r->open.facts, e)) return false;
    if (!r->options.dry_run) return true;
    printf("pictures    %d in %s; %d are there already, %d are to be drawn\n", r->pictures.n, r->wishes.data,
           stylize_count(&r->pictures, STYLIZE_THERE), stylize_count(&r->pictures, STYLIZE_WAITING));
    struct generate_params gp;
    if (!largest) return true;
    if (!generate_params_of(&r->options, largest, r->open.adapter, &gp, e)) return false;
    gp.batch = generate_batch_fit(r->open.engine, &gp, wanted_batch(r));
    return generate_print_memory(r->open.engine, &gp, e);
}

/* Ctrl-C is no failure: what is there stays, and the same command goes on. */
static void print_summary(const struct run *r, bool finished) {
    const struct stylize *s = &r->pictures;
    char all[COMMON_BYTES_TEXT];
    int done = stylize_count(s, STYLIZE_DONE), there = stylize_count(s, STYLIZE_THERE), bad = stylize_count(s, STYLIZE_BAD);
    printf("%s: %d picture%s drawn", r->wishes.out, done, done == 1 ? "" : "s");
    if (there) printf(", %d %s there already", there, there == 1 ? "was" : "were");
    if (!finished) printf(", %d left: the same command goes on", stylize_count(s, STYLIZE_WAITING));
    printf("; %s in all\n", common_seconds_text(os_now_seconds() - r->started, all));
    if (bad) printf("left out      %d\n", bad);
    for (int i = 0; i < s->n; i++)
        if (s->items[i].state == STYLIZE_BAD) printf("  %s: %s\n", TEXT_SHOW(s->items[i].name), s->items[i].why);
}

static bool stylize(struct run *r, const struct common *common, struct error *e) {
    struct generate_options *o = &r->options;
    r->pictures = (struct stylize){.arena = r->plan.arena, .o = &r->wishes};
    r->plan.loras.dir = o->lora_dir;
    if (!start_use_check_steps(&o->start, o->steps, e) || !stylize_scan(&r->pictures, o, e) || !generate_plan(&r->plan, o, e) ||
        !load(r, common, e))
        return false;
    if (o->dry_run) return true;
    bool ok = draw_all(r, e), stopped = !ok && os_interrupted();
    if (ok || stopped) print_summary(r, ok);
    return ok || stopped;
}

bool cmd_stylize(int argc, char **argv, struct error *e) {
    struct arena *a = arena_create(NULL);
    struct common common = {0};
    struct run r = {.plan = {.arena = a, .loras = {.arena = a}}, .started = os_now_seconds()};
    struct generate_options *o = &r.options;
    generate_defaults(o);
    o->start.strength = 0.6;
    struct option_command cmd = {.usage = "stylize --model DIR --data DIR --out DIR --lora FILE[:STRENGTH]... [options]",
                                 .about = "Restyles a folder of pictures, each as `generate --init-image` would. Ctrl-C stops; "
                                          "the same command goes on.",
                                 .tables = {{OPTION_ROWS(rows), &r.wishes}, {OPTION_ROWS(strength_row), &o->start},
                                            generate_draw_table(o), prompt_use_table(&o->prompt_use),
                                            common_table(&common), common_files_table(&common.files)},
                                 .n_tables = 6};
    struct option_result given;
    bool ok = option_parse(&cmd, argc, argv, a, &given, e);
    if (ok && given.help) option_print_help(&cmd);
    else if (ok) {
        common_apply(&common);
        ok = stylize(&r, &common, e);
    }
    generator_destroy(&r.generator);
    ok = generate_close(&r.open, ok, e);
    arena_destroy(&a);
    return ok;
}
