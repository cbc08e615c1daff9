/* Pictures from prompts: options, the loop over prompts, seeds and strengths, files. */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "app/commands.h"
#include "app/generate.h"
#include "app/sampler_names.h"
#include "base/log.h"
#include "base/os.h"
#include "base/path.h"
#include "base/text.h"
#include "engine/generate.h"
#include "io/png.h"

#define FIELD(name) offsetof(struct generate_options, name)

static const struct option rows[] = {
    {"model", OPTION_TEXT, FIELD(model), "DIR", "Stable Diffusion folder in diffusers' layout", .required = true},
    {"prompt", OPTION_LIST, FIELD(prompts), "TEXT", "what to draw; <lora:name:0.8> inside uses a LoRA of --lora-dir"},
    {"negative", OPTION_TEXT, FIELD(negative), "TEXT", "what to stay away from"},
    {"lora", OPTION_LIST, FIELD(loras), "FILE[:STRENGTH[:BLOCKS]]",
     "LoRA file, strength 1 if not given; 0.2..1 over the steps, 0.8@0-40%\nin a part of them; BLOCKS: IN04=0.5,OUT=0 or A1111's numbers"},
    {"compose", OPTION_CHOICE, FIELD(compose), "HOW", "several LoRAs: sum (all at once), switch (in turn, in the order given)\n"
     "or composite (mean of what each predicts; every LoRA costs as much\nas a picture)", .choices = "sum|switch|composite"},
    {"every", OPTION_INT, FIELD(every), "N", "steps after which --compose switch changes", 1, 1000},
    {"lora-dir", OPTION_TEXT, FIELD(lora_dir), "DIR", "where LoRAs named in prompts and recipes lie"},
    {"strengths", OPTION_TEXT, FIELD(strengths), "A,B,...", "make every picture with all LoRA strengths times A, times B, ..."},
    {"steps", OPTION_INT, FIELD(steps), "N", "sampling steps", 1, 1000},
    {"cfg", OPTION_NUMBER, FIELD(cfg), "X", "guidance: how closely to follow the prompt; 1 is none and twice as fast", 0, 100},
    {"sampler", OPTION_CHOICE, FIELD(sampler), "NAME", "ddim, euler, euler-a, heun, dpm2, dpm2-a, lms, dpmpp-2m, dpmpp-2s-a,\n"
     "dpmpp-sde, dpmpp-2m-sde, dpmpp-3m-sde, unipc, pndm, ddpm, lcm or tcd", .choices = SAMPLER_NAMES},
    {"schedule", OPTION_CHOICE, FIELD(schedule), "NAME", "default (what the model's folder says), karras, exponential, beta,\n"
     "normal, simple, sgm_uniform, trailing, leading, linspace;\nkarras_full and exponential_full span all times, as in A1111",
     .choices = SCHEDULE_NAMES},
    {"eta", OPTION_NUMBER, FIELD(eta), "X", "share of fresh noise per step; not given, the sampler's own:\n"
     "0 with ddim, 0.3 with tcd, 1 with euler-a and other noisy ones", 0, 1},
    {"noise", OPTION_CHOICE, FIELD(noise), "KIND", "torch (diffusers, ComfyUI), torch-f16 or torch1-f16 (their half\n"
     "precision on the CPU), philox (A1111's GPU and NV)", .choices = "torch|torch-f16|torch1-f16|philox"},
    {"ensd", OPTION_INT, FIELD(ensd), "N", "A1111's eta noise seed delta: noise of the steps from seed + N", 0, INT_MAX},
    {"rescale", OPTION_NUMBER, FIELD(rescale), "X", "guidance rescale, against washed-out pictures of v-models", 0, 1},
    {"seed", OPTION_SEED, FIELD(seed), "N", "noise of the first picture; the next ones count up (0)"},
    {"width", OPTION_INT, FIELD(width), "N", "pixels, a multiple of 8; the model's own size if not given", 8, IMAGE_MAX_SIDE},
    {"height", OPTION_INT, FIELD(height), "N", "likewise", 8, IMAGE_MAX_SIDE},
    {"count", OPTION_INT, FIELD(count), "N", "pictures per prompt, seed after seed", 1, 1000},
    {"grid", OPTION_FLAG, FIELD(grid), NULL, "one sheet instead of single files: prompts down,\n--strengths or else seeds across"},
    {"out", OPTION_TEXT, FIELD(out), "FILE.png", "where to write; several pictures become FILE-001.png and so on", .required = true},
    {"from", OPTION_TEXT, FIELD(from), "FILE.png", "repeat the recipe in this PNG; other options override it"},
    {"dry-run", OPTION_FLAG, FIELD(dry_run), NULL, "draw nothing; print how much memory it would take. With --class gpu\nand --memory also for a graphics card that is not here"},
    {"trace", OPTION_TEXT, FIELD(trace), "FILE.safetensors", "record token ids, embeddings, every step's latents and the image"},
};

struct run {
    struct generate_options options;
    struct generate_plan plan;
    struct generate_facts facts;
    struct engine *engine;
    struct adapter *adapter;
    struct generator *generator; /* or */
    struct hires *hires;
    struct image *cells; /* every picture, by prompt, seed, factor */
    char hash[65];
    int done, total;
    double started, generator_made, drawing, last_line;
};

static int cell_index(const struct run *r, int prompt, int k, int f) {
    return (prompt * r->plan.o->count + k) * r->plan.n_factors + f;
}

/* On a terminal every step shows; elsewhere a line every ten seconds is enough. */
static void on_step(void *ctx, int step, int n_steps) {
    struct run *r = ctx;
    double now = os_now_seconds();
    if (!os_stderr_is_terminal() && now - r->last_line < 10) return;
    r->last_line = now;
    int steps = r->done * n_steps + step, all = r->total * n_steps;
    double rate = steps / (now - r->drawing);
    char left[COMMON_BYTES_TEXT];
    log_progress("picture %d of %d, step %d of %d, %.1f steps/s, %s left", r->done + 1, r->total, step, n_steps, rate,
                 common_seconds_text((all - steps) / rate, left));
}

static const char *picture_path(struct run *r, int index) {
    if (r->total == 1) return r->plan.o->out;
    return arena_printf(r->plan.arena, "%s-%03d.png", path_stem(r->plan.arena, r->plan.o->out), index + 1);
}

static bool draw_one(struct run *r, int prompt, int k, int f, struct error *e) {
    const struct generate_plan *p = &r->plan;
    int index = cell_index(r, prompt, k, f);
    struct image *im = &r->cells[index];
    *im = image_create(p->arena, r->facts.out_w, r->facts.out_h);
    float *strength = arena_alloc_n(p->arena, (size_t)p->loras.n + 1, sizeof *strength);
    lora_use_strengths(&p->loras, prompt, p->factors[f], strength);
    struct st_writer *trace = p->o->trace ? st_writer_create() : NULL;
    struct generate_picture picture = {.prompt = p->prompts[prompt], .negative = p->o->negative, .seed = p->o->seed + (uint64_t)k,
                                       .strength = strength, .courses = lora_use_courses(&p->loras),
                                       .regions = region_use_list(&p->o->regions, p->arena, &p->loras, p->n_prompts, p->factors[f]),
                                       .n_regions = p->o->regions.n, .init = start_use_init(&p->o->start), .trace = trace};
    struct generate_progress progress = {on_step, r};
    bool ok = r->hires ? hires_run(r->hires, &picture, &progress, im->rgb, e)
                       : generator_run(r->generator, &picture, &progress, im->rgb, e);
    if (ok && trace) ok = st_writer_save(trace, p->o->trace, e);
    st_writer_destroy(&trace);
    if (!ok) return false;
    r->done++;
    if (generate_is_sheet(p)) return true;
    struct png_text text = {"parameters", generate_recipe(p, &r->facts, prompt, k, p->factors[f])};
    return png_write(picture_path(r, index), im, &text, 1, e);
}

static bool draw_all(struct run *r, struct error *e) {
    r->total = generate_pictures(&r->plan);
    r->cells = arena_alloc_n(r->plan.arena, (size_t)r->total, sizeof *r->cells);
    r->drawing = os_now_seconds();
    for (int prompt = 0; prompt < r->plan.n_prompts; prompt++)
        for (int k = 0; k < r->plan.o->count; k++)
            for (int f = 0; f < r->plan.n_factors; f++)
                if (!draw_one(r, prompt, k, f, e)) return false;
    return true;
}

/* Strengths across if there are several; then every seed has its own row. Else seeds across. */
static bool write_sheet(struct run *r, struct error *e) {
    struct generate_plan *p = &r->plan;
    bool strengths = p->n_factors > 1;
    int per_prompt = strengths ? p->o->count : 1, cols = strengths ? p->n_factors : p->o->count;
    int rows_n = p->n_prompts * per_prompt;
    const char **down = arena_alloc_n(p->arena, (size_t)rows_n, sizeof *down), **across = arena_alloc_n(p->arena, (size_t)cols, sizeof *across);
    for (int i = 0; i < rows_n; i++) {
        down[i] = p->raw[i / per_prompt];
        if (per_prompt > 1) down[i] = arena_printf(p->arena, "%s (seed %llu)", down[i], (unsigned long long)p->o->seed + (unsigned)(i % per_prompt));
    }
    for (int i = 0; i < cols; i++)
        across[i] = strengths ? arena_printf(p->arena, "strength %g", (double)p->factors[i])
                              : arena_printf(p->arena, "seed %llu", (unsigned long long)p->o->seed + (unsigned)i);
    struct image_grid_params gp = {rows_n, cols, r->cells, down, across, NULL};
    struct image sheet;
    if (!image_grid(p->arena, &gp, &sheet, e)) return false;
    struct png_text text = {"parameters", generate_sheet_recipe(p, &r->facts)};
    return png_write(p->o->out, &sheet, &text, 1, e);
}

static bool load(struct run *r, const struct common *common, const char *recipe_hash, struct error *e) {
    const struct generate_options *o = r->plan.o;
    if (!(r->engine = common_engine_for(common, o->model, o->dry_run, e))) return false;
    struct model *m = r->engine->model;
    int factor = vae_config_factor(&m->vae), side = 512;
    struct start_use *start = &r->options.start;
    r->facts = (struct generate_facts){.w = o->width, .h = o->height, .model_name = m->name, .model_hash = r->hash};
    start_use_size(start, factor, &r->facts.w, &r->facts.h);
    if (!r->facts.w) r->facts.w = m->unet.sample_w ? m->unet.sample_w * factor : m->vae.sample_size ? m->vae.sample_size : side;
    if (!r->facts.h) r->facts.h = m->unet.sample_h ? m->unet.sample_h * factor : m->vae.sample_size ? m->vae.sample_size : side;
    r->facts.out_w = r->facts.w, r->facts.out_h = r->facts.h;
    if (start->hires) hires_size(m, &start->second, r->facts.w, r->facts.h, &r->facts.out_w, &r->facts.out_h);
    if (!start_use_fit(start, r->plan.arena, r->facts.w, r->facts.h, factor, e) || !generate_model_hash(m, r->hash, e)) return false;
    if (recipe_hash && strncmp(r->hash, recipe_hash, strlen(recipe_hash)) != 0)
        log_warn("%s was made with another model (hash %s): expect another picture", o->from, recipe_hash);
    if (r->plan.loras.n && !(r->adapter = adapter_open_blocks(r->engine, r->plan.loras.paths, lora_use_blocks(&r->plan.loras), r->plan.loras.n, e))) return false;
    r->facts.adapter = r->adapter;
    struct prompt_use *prompts = &r->options.prompt_use;
    if (!region_use_load(&r->options.regions, r->plan.arena, r->facts.w, r->facts.h, factor, e)) return false;
    if (!prompt_use_load(prompts, m, r->plan.arena, e)) return false;
    struct generate_params gp = {.w = r->facts.w, .h = r->facts.h, .steps = o->steps, .cfg = (float)o->cfg, .rescale = (float)o->rescale,
                                 .sampler = o->sampler, .schedule = o->schedule, .adapter = r->adapter,
                                 .prompt_style = prompt_use_style(prompts), .clip_skip = prompts->clip_skip, .words = &prompts->words,
                                 .compose = generate_compose(o), .every = o->every};
    gp.has_eta = !isnan(o->eta);
    gp.eta = gp.has_eta ? (float)o->eta : 0;
    gp.noise_delta = (uint64_t)o->ensd;
    if (!noise_source_parse(o->noise, &gp.noise, e)) return false;
    if (o->dry_run) { /* a second pass is the larger one */
        gp.w = r->facts.out_w, gp.h = r->facts.out_h;
        return generate_print_memory(r->engine, &gp, e);
    }
    r->generator_made = os_now_seconds();
    if (start->hires) r->hires = hires_create(r->engine, &gp, &start->second, e);
    else r->generator = generator_create(r->engine, &gp, e);
    return r->hires || r->generator;
}

static void print_summary(struct run *r) {
    const struct generate_plan *p = &r->plan;
    char all[COMMON_BYTES_TEXT], first[COMMON_BYTES_TEXT];
    common_seconds_text(os_now_seconds() - r->started, all);
    common_seconds_text(r->generator_made - r->started + (r->hires ? hires_first_step_seconds(r->hires) : generator_first_step_seconds(r->generator)),
                        first);
    if (generate_is_sheet(p) || r->total == 1) printf("%s: ", p->o->out);
    else printf("%s to %s: ", picture_path(r, 0), path_base(picture_path(r, r->total - 1)));
    printf("%d picture%s of %dx%d, %d steps; first step after %s, %s in all\n", r->total, r->total == 1 ? "" : "s", r->facts.out_w,
           r->facts.out_h, p->o->steps, first, all);
}

bool cmd_generate(int argc, char **argv, struct error *e) {
    struct arena *a = arena_create(NULL);
    struct common common = {0};
    struct run r = {.plan = {.arena = a, .loras = {.arena = a}}, .started = os_now_seconds()};
    struct generate_options *o = &r.options;
    *o = (struct generate_options){.steps = 20, .cfg = 7.5, .count = 1, .compose = "sum", .every = 5, .sampler = "ddim", .schedule = "default", .noise = "torch", .eta = NAN};
    prompt_use_defaults(&o->prompt_use);
    start_use_defaults(&o->start);
    struct option_command cmd = {.usage = "generate --model DIR --prompt TEXT... --out FILE.png [options]",
                                 .about = "Makes pictures. Every PNG carries its recipe; --from FILE.png repeats it.",
                                 .tables = {{OPTION_ROWS(rows), o}, prompt_use_table(&o->prompt_use), region_use_table(&o->regions),
                                            start_use_table(&o->start), common_table(&common),
                                            common_files_table(&common.files)}, .n_tables = 6};
    struct option_result given;
    const char *recipe_hash = NULL;
    bool ok = option_parse(&cmd, argc, argv, a, &given, e);
    if (ok && given.help) option_print_help(&cmd);
    else if (ok) {
        common_apply(&common);
        r.plan.loras.dir = o->lora_dir;
        ok = (!o->from || generate_read_recipe(a, &cmd, &given, o, &r.plan.loras, &recipe_hash, e)) && generate_plan(&r.plan, o, e) &&
             start_use_plan(&o->start, a, o->steps, o->regions.texts.n > 0, e) &&
             load(&r, &common, recipe_hash, e) && (o->dry_run || (draw_all(&r, e) && (!generate_is_sheet(&r.plan) || write_sheet(&r, e))));
        if (ok && !o->dry_run) print_summary(&r);
    }
    generator_destroy(&r.generator);
    hires_destroy(&r.hires);
    adapter_close(&r.adapter);
    ok = common_close(&r.engine, ok, e);
    arena_destroy(&a);
    return ok;
}
