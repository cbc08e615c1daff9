/* Pictures from prompts: options, the loop over prompts, seeds and strengths, files. */
#include <stdio.h>
#include <string.h>

#include "app/commands.h"
#include "app/draw_progress.h"
#include "app/generate.h"
#include "base/log.h"
#include "base/os.h"
#include "base/path.h"
#include "base/text.h"
#include "engine/generate.h"
#include "io/png.h"

#define FIELD(name) offsetof(struct generate_options, name)

static const struct option rows[] = {
    {"prompt", OPTION_LIST, FIELD(prompts), "TEXT", "what to draw; <lora:name:0.8> inside uses a LoRA of --lora-dir"},
    {"prompts", OPTION_TEXT, FIELD(prompt_file), "FILE",
     "prompts from a file, one a line, with options of their own as kohya\n"
     "has them: --n --w --h --d --l --s --ss, and --lora FILE:STRENGTH"},
    {"strengths", OPTION_TEXT, FIELD(strengths), "A,B,...", "make every picture with all LoRA strengths times A, times B, ..."},
    {"count", OPTION_INT, FIELD(count), "N", "pictures per prompt, seed after seed", 1, 1000},
    {"grid", OPTION_FLAG, FIELD(grid), NULL,
     "one sheet instead of single files: prompts down,\n--strengths or else seeds across"},
    {"out", OPTION_TEXT, FIELD(out), "FILE.png", "where to write; several pictures become FILE-001.png and so on",
     .required = true},
    {"from", OPTION_TEXT, FIELD(from), "FILE.png", "repeat the recipe in this PNG; other options override it"},
    {"trace", OPTION_TEXT, FIELD(trace), "FILE.safetensors",
     "record token ids, embeddings, every step's latents and the image"},
};

enum { MAX_PICTURES = 10000 };

/* A prompt with one seed and one factor. */
struct cell {
    int prompt, k, f;
    bool done;
    struct image im;
};
struct run {
    struct generate_options options;
    struct generate_plan plan;
    struct generate_open open;
    struct generator *generator; /* or */
    struct hires *hires;
    const struct generate_line *kind; /* that it draws; NULL: none */
    int batch;
    struct start_use start; /* as fitted for it */
    struct cell *cells;     /* every picture, by prompt, seed, factor */
    struct draw_progress progress;
    double started, generator_made, first_step;
};

static const struct generate_line *line_of(const struct run *r, int cell) { return &r->plan.lines[r->cells[cell].prompt]; }

static void out_size(const struct run *r, const struct generate_line *l, int *w, int *h) {
    *w = l->w, *h = l->h;
    if (r->options.start.hires) hires_size(r->open.engine->model, &r->options.start.second, l->w, l->h, w, h);
}

static const char *picture_path(struct run *r, int index) {
    if (r->progress.total == 1) return r->plan.o->out;
    return arena_printf(r->plan.arena, "%s-%03d.png", path_stem(r->plan.arena, r->plan.o->out), index + 1);
}

/* ---- Drawing ---- */

/* What a line's size asks of init image, mask and regions. */
static bool fit(struct run *r, const struct generate_line *l, struct error *e) {
    int factor = vae_config_factor(&r->open.engine->model->vae), w, h;
    r->start = r->options.start;
    out_size(r, l, &w, &h);
    return start_use_fit(&r->start, r->plan.arena, l->w, l->h, factor, e) &&
           region_use_load(&r->options.regions, r->plan.arena, l->w, l->h, w / factor, h / factor, e);
}

static bool open_kind(struct run *r, const struct generate_line *l, struct error *e) {
    struct generate_params gp;
    if (r->kind && generate_same_kind(r->kind, l)) return true;
    generator_destroy(&r->generator);
    hires_destroy(&r->hires);
    r->kind = NULL;
    if (!fit(r, l, e) || !generate_params_of(r->plan.o, l, r->open.adapter, &gp, e)) return false;
    if (!r->generator_made) r->generator_made = os_now_seconds();
    if (r->start.hires) r->hires = hires_create(r->open.engine, &gp, &r->start.second, e);
    else r->generator = generator_create(r->open.engine, &gp, e);
    if (!r->generator && !r->hires) return false;
    int most = r->plan.o->batch ? r->plan.o->batch : r->plan.o->prompt_file ? 4 : 1;
    r->batch = r->hires ? 1 : generate_batch_fit(r->open.engine, &gp, most);
    if (r->batch < most && r->plan.o->batch && !r->hires)
        log_info("%d pictures at once fit into memory, not %d", r->batch, most);
    r->kind = l;
    return true;
}

/* Cells that are drawn with the first one that is not: those of its kind, in order. */
static int choose(const struct run *r, int *chosen) {
    int n = 0;
    for (int i = 0; i < r->progress.total && n < r->batch; i++)
        if (!r->cells[i].done && generate_same_kind(r->kind, line_of(r, i))) chosen[n++] = i;
    return n;
}

static struct generate_picture picture_of(struct run *r, const struct cell *c, struct st_writer *trace) {
    const struct generate_plan *p = &r->plan;
    const struct generate_line *l = &p->lines[c->prompt];
    float *strength = arena_alloc_n(p->arena, (size_t)p->loras.n + 1, sizeof *strength);
    lora_use_strengths(&p->loras, c->prompt, p->factors[c->f], strength);
    return (struct generate_picture){.prompt = l->prompt, .negative = l->negative, .seed = l->seed + (uint64_t)c->k,
                                     .strength = strength, .courses = lora_use_courses(&p->loras),
                                     .regions = region_use_list(&p->o->regions, p->arena, &p->loras, p->n_prompts,
                                                                p->factors[c->f]),
                                     .n_regions = p->o->regions.n, .init = start_use_init(&r->start), .trace = trace};
}

static bool write_picture(struct run *r, int index, struct error *e) {
    struct cell *c = &r->cells[index];
    c->done = true;
    if (generate_is_sheet(&r->plan)) return true;
    struct png_text text = {"parameters", generate_recipe(&r->plan, &r->open.facts, c->prompt, c->k, r->plan.factors[c->f])};
    bool ok = png_write(picture_path(r, index), &c->im, &text, 1, e);
    c->im.rgb = NULL;
    return ok;
}

static bool draw_some(struct run *r, struct error *e) {
    int chosen[64], n = choose(r, chosen);
    struct arena *a = arena_create(r->plan.arena), *kept = generate_is_sheet(&r->plan) ? r->plan.arena : a;
    struct st_writer *trace = r->plan.o->trace ? st_writer_create() : NULL;
    struct generate_picture *pictures = arena_alloc_n(a, (size_t)n, sizeof *pictures);
    uint8_t **rgb = arena_alloc_n(a, (size_t)n, sizeof *rgb);
    for (int i = 0; i < n; i++) {
        struct cell *c = &r->cells[chosen[i]];
        int w, h;
        out_size(r, r->kind, &w, &h);
        c->im = image_create(kept, w, h);
        pictures[i] = picture_of(r, c, trace), rgb[i] = c->im.rgb;
    }
    struct generate_progress progress = draw_progress_begin(&r->progress, n);
    bool ok = r->hires ? hires_run(r->hires, pictures, &progress, rgb[0], e)
                       : generator_run_batch(r->generator, pictures, n, &progress, rgb, e);
    draw_progress_end(&r->progress);
    if (ok && trace) ok = st_writer_save(trace, r->plan.o->trace, e);
    st_writer_destroy(&trace);
    for (int i = 0; ok && i < n; i++) ok = write_picture(r, chosen[i], e);
    arena_destroy(&a);
    if (!r->first_step)
        r->first_step = r->hires ? hires_first_step_seconds(r->hires) : generator_first_step_seconds(r->generator);
    return ok;
}

/* Interrupted after some pictures: they stand, and the sentence says so. */
static bool stopped(const struct run *r, struct error *e) {
    int n = 0;
    for (int i = 0; i < r->progress.total; i++) n += r->cells[i].done;
    if (!n || !os_interrupted() || generate_is_sheet(&r->plan)) return false;
    return error_set(e, "Stopped after %d of %d pictures, which are written; the next was not.", n, r->progress.total);
}

static bool draw_all(struct run *r, struct error *e) {
    const struct generate_plan *p = &r->plan;
    int total = generate_pictures(p);
    r->cells = arena_alloc_n(p->arena, (size_t)total, sizeof *r->cells);
    for (int i = 0; i < total; i++) {
        int f = i % p->n_factors, rest = i / p->n_factors;
        r->cells[i] = (struct cell){.prompt = rest / p->o->count, .k = rest % p->o->count, .f = f};
    }
    draw_progress_start(&r->progress, total);
    for (int i = 0; i < total; i++)
        while (!r->cells[i].done)
            if (!open_kind(r, line_of(r, i), e) || !draw_some(r, e)) return stopped(r, e);
    return true;
}

/* Strengths across if there are several; then every seed has its own row. Else seeds across. */
static bool write_sheet(struct run *r, struct error *e) {
    struct generate_plan *p = &r->plan;
    bool strengths = p->n_factors > 1;
    int per_prompt = strengths ? p->o->count : 1, cols = strengths ? p->n_factors : p->o->count;
    int rows_n = p->n_prompts * per_prompt;
    const char **down = arena_alloc_n(p->arena, (size_t)rows_n, sizeof *down),
               **across = arena_alloc_n(p->arena, (size_t)cols, sizeof *across);
    for (int i = 0; i < rows_n; i++) {
        down[i] = p->lines[i / per_prompt].raw;
        if (per_prompt > 1)
            down[i] =
                arena_printf(p->arena, "%s (seed %llu)", down[i], (unsigned long long)p->o->seed + (unsigned)(i % per_prompt));
    }
    for (int i = 0; i < cols; i++)
        across[i] = strengths ? arena_printf(p->arena, "strength %g", (double)p->factors[i])
                              : arena_printf(p->arena, "seed %llu", (unsigned long long)p->o->seed + (unsigned)i);
    struct image *cells = arena_alloc_n(p->arena, (size_t)r->progress.total, sizeof *cells);
    for (int i = 0; i < r->progress.total; i++) cells[i] = r->cells[i].im;
    struct image_grid_params gp = {rows_n, cols, cells, down, across, NULL};
    struct image sheet;
    if (!image_grid(p->arena, &gp, &sheet, e)) return false;
    struct png_text text = {"parameters", generate_sheet_recipe(p, &r->open.facts)};
    return png_write(p->o->out, &sheet, &text, 1, e);
}

/* ---- Before and after ---- */

static bool check_files(const struct generate_plan *p, struct error *e) {
    const struct generate_options *o = p->o;
    if (!common_check_out("out", o->out, "png", e) || (o->trace && !common_check_out("trace", o->trace, "safetensors", e)))
        return false;
    if ((double)p->n_prompts * o->count * p->n_factors > MAX_PICTURES)
        return error_set(e, "This would make more than %d pictures; use fewer prompts, a smaller --count or fewer --strengths.",
                         MAX_PICTURES);
    if (o->trace && generate_pictures(p) != 1)
        return error_set(e, "--trace records one picture, and this would make %d.", generate_pictures(p));
    return true;
}

/* What would be set for nothing: the option that it belongs to is missing. */
static bool options_count(const struct option_command *cmd, const struct option_result *given,
                          const struct generate_options *o, struct error *e) {
    static const char *const second[] = {"hires-strength", "hires-steps", "hires-upscaler"};
    if (option_given(cmd, given, "strength") && !o->start.picture_path)
        return error_set(e, "--strength says how much of --init-image may change, and none is given; a LoRA's strength stands "
                            "behind its file: --lora FILE:%g.", o->start.strength);
    for (int i = 0; i < 3; i++)
        if (option_given(cmd, given, second[i]) && !o->start.hires)
            return error_set(e, "--%s belongs to the second pass: ask for one with --hires SCALE.", second[i]);
    if (option_given(cmd, given, "every") && generate_compose(o) != GUIDE_SWITCH)
        return error_set(e, "--every says when --compose switch changes the LoRA; give that too.");
    return true;
}

static bool load(struct run *r, const struct common *common, const char *recipe_hash, struct error *e) {
    struct generate_options *o = &r->options;
    struct generate_plan *p = &r->plan;
    if (!generate_open(&r->open, common, o, p, recipe_hash, e)) return false;
    const struct generate_line *largest = p->lines;
    int factor = vae_config_factor(&r->open.engine->model->vae);
    for (int i = 0; i < p->n_prompts; i++) {
        struct generate_line *l = &p->lines[i];
        start_use_size(&o->start, factor, &l->w, &l->h);
        generate_fill_size(r->open.engine->model, &l->w, &l->h);
        if (l->w % factor || l->h % factor)
            return error_set(e, "Prompt %d asks for %dx%d pixels, which cannot be drawn: width and height must be multiples of "
                                "%d.", i + 1, l->w, l->h, factor);
        if ((int64_t)l->w * l->h > (int64_t)largest->w * largest->h) largest = l;
        if ((i == 0 || !generate_same_kind(l - 1, l)) && !fit(r, l, e)) return false;
    }
    if (!o->dry_run) return true;
    struct generate_params gp;
    if (!generate_params_of(o, largest, r->open.adapter, &gp, e)) return false;
    out_size(r, largest, &gp.w, &gp.h); /* a second pass is the larger one */
    gp.batch = o->batch ? o->batch : o->prompt_file ? 4 : 1;
    gp.batch = generate_batch_fit(r->open.engine, &gp, gp.batch < generate_pictures(p) ? gp.batch : generate_pictures(p));
    return generate_print_memory(r->open.engine, &gp, e);
}

static void print_summary(struct run *r) {
    const struct generate_plan *p = &r->plan;
    char all[COMMON_BYTES_TEXT], first[COMMON_BYTES_TEXT];
    int total = r->progress.total, w, h;
    bool alike = true;
    for (int i = 1; i < p->n_prompts; i++) alike &= generate_same_kind(&p->lines[0], &p->lines[i]);
    out_size(r, p->lines, &w, &h);
    common_seconds_text(os_now_seconds() - r->started, all);
    common_seconds_text(r->generator_made - r->started + r->first_step, first);
    if (generate_is_sheet(p) || total == 1) printf("%s: ", p->o->out);
    else printf("%s to %s: ", picture_path(r, 0), path_base(picture_path(r, total - 1)));
    printf("%d picture%s", total, total == 1 ? "" : "s");
    if (alike) printf(" of %dx%d, %d steps", w, h, p->lines[0].steps);
    printf("; first step after %s, %s in all\n", first, all);
}

bool cmd_generate(int argc, char **argv, struct error *e) {
    struct arena *a = arena_create(NULL);
    struct common common = {0};
    struct run r = {.plan = {.arena = a, .loras = {.arena = a}}, .started = os_now_seconds()};
    struct generate_options *o = &r.options;
    generate_defaults(o);
    struct option_command cmd = {.usage = "generate --model DIR --prompt TEXT... --out FILE.png [options]",
                                 .about = "Makes pictures. Every PNG carries its recipe; --from FILE.png repeats it.",
                                 .tables = {{OPTION_ROWS(rows), o}, generate_draw_table(o), prompt_use_table(&o->prompt_use),
                                            region_use_table(&o->regions), start_use_table(&o->start), common_table(&common),
                                            common_files_table(&common.files)}, .n_tables = 7};
    struct option_result given;
    const char *recipe_hash = NULL;
    bool ok = option_parse(&cmd, argc, argv, a, &given, e);
    if (ok && given.help) option_print_help(&cmd);
    else if (ok) {
        common_apply(&common);
        r.plan.loras.dir = o->lora_dir;
        ok = (!o->from || generate_read_recipe(a, &cmd, &given, o, &r.plan.loras, &recipe_hash, e)) &&
             options_count(&cmd, &given, o, e) && generate_plan(&r.plan, o, e) && check_files(&r.plan, e) &&
             start_use_plan(&o->start, a, generate_least_steps(&r.plan), e) && load(&r, &common, recipe_hash, e) &&
             (o->dry_run || (draw_all(&r, e) && (!generate_is_sheet(&r.plan) || write_sheet(&r, e))));
        if (ok && !o->dry_run) print_summary(&r);
    }
    generator_destroy(&r.generator);
    hires_destroy(&r.hires);
    ok = generate_close(&r.open, ok, e);
    arena_destroy(&a);
    return ok;
}
