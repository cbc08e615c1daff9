/* Recipes: from a plan to a PNG's text, and from such a text to options. */
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "app/generate.h"
#include "app/sampler_names.h"
#include "base/log.h"
#include "base/path.h"
#include "base/text.h"
#include "diffusion/noise_stream.h"
#include "engine/adapter.h"
#include "io/json.h"
#include "io/png.h"

#define VERSION "atelier 1"

/* ---- Writing ---- */

static void add_extra(struct arena *a, struct recipe *r, const char *key, const char *value) {
    r->extra = arena_grow(a, r->extra, r->n_extra, r->n_extra + 1, sizeof *r->extra);
    r->extra[r->n_extra++] = (struct recipe_field){key, value};
}

static struct recipe base_recipe(const struct generate_plan *p, const struct generate_facts *f, const struct generate_line *l) {
    const struct generate_options *o = p->o;
    struct recipe r = {.prompt = l->prompt, .negative = l->negative ? l->negative : "", .steps = l->steps, .w = l->w, .h = l->h,
                       .has_cfg = true, .cfg = l->cfg, .has_seed = true, .seed = l->seed,
                       .sampler = sampler_name_title(l->sampler),
                       .model = f->model_name, .model_hash = arena_strndup(p->arena, f->model_hash, 10), .version = VERSION};
    if (strcmp(o->schedule, "default")) r.schedule = schedule_name_title(o->schedule);
    if (strstr(o->schedule, "_full")) add_extra(p->arena, &r, "Schedule range", "full");
    if (!isnan(o->eta)) add_extra(p->arena, &r, "Eta", arena_printf(p->arena, "%.9g", o->eta));
    if (strcmp(o->noise, "torch")) add_extra(p->arena, &r, "RNG", strcmp(o->noise, "philox") ? o->noise : "NV");
    if (o->ensd) add_extra(p->arena, &r, "ENSD", arena_printf(p->arena, "%d", o->ensd));
    if (o->rescale > 0) add_extra(p->arena, &r, "Guidance rescale", arena_printf(p->arena, "%.9g", o->rescale));
    if (l->negative && !*l->negative) add_extra(p->arena, &r, "Negative prompt given", "empty");
    if (generate_compose(o) != GUIDE_SUM) add_extra(p->arena, &r, "Compose", o->compose);
    if (generate_compose(o) == GUIDE_SWITCH) add_extra(p->arena, &r, "Compose every", arena_printf(p->arena, "%d", o->every));
    region_use_write(&o->regions, p->arena, &r);
    prompt_use_write(&o->prompt_use, p->arena, &r);
    start_use_write(l->start ? l->start : &o->start, p->arena, &r);
    return r;
}

static void add_loras(const struct generate_plan *p, const struct generate_facts *f, struct recipe *r, const float *strength) {
    if (!f->adapter) return;
    r->loras = arena_alloc_n(p->arena, (size_t)p->loras.n, sizeof *r->loras);
    json_t *details = json_object();
    for (int i = 0; i < p->loras.n; i++) {
        if (strength[i] == 0) continue;
        r->loras[r->n_loras++] = (struct recipe_lora){.name = f->adapter->names[i], .strength = strength[i],
                                                      .hash = arena_strndup(p->arena, f->adapter->hashes[i], 12)};
        if (p->loras.specs[i].details)
            json_object_set_new(details, f->adapter->names[i], json_string(p->loras.specs[i].details));
    }
    if (json_object_size(details)) {
        char *text = json_dumps(details, JSON_COMPACT | JSON_SORT_KEYS);
        add_extra(p->arena, r, "Lora details", arena_strdup(p->arena, text));
        free(text);
    }
    json_decref(details);
}

const char *generate_recipe(const struct generate_plan *p, const struct generate_facts *f, int prompt, int k, float factor) {
    struct recipe r = base_recipe(p, f, &p->lines[prompt]);
    r.seed += (uint64_t)k;
    float *strength = arena_alloc_n(p->arena, (size_t)p->loras.n + 1, sizeof *strength);
    lora_use_strengths(&p->loras, prompt, factor, strength);
    add_loras(p, f, &r, strength);
    return recipe_format(p->arena, &r);
}

/* What --lora asked for stands as the recipe's LoRAs; the prompts, with the LoRAs they name, in one more field. */
const char *generate_sheet_recipe(const struct generate_plan *p, const struct generate_facts *f) {
    struct recipe r = base_recipe(p, f, p->lines);
    float *strength = arena_alloc_n(p->arena, (size_t)p->loras.n + 1, sizeof *strength);
    lora_use_strengths(&p->loras, -1, 1, strength);
    add_loras(p, f, &r, strength);
    json_t *sheet = json_object(), *prompts = json_array();
    for (int i = 0; i < p->n_prompts; i++) json_array_append_new(prompts, json_string(p->lines[i].raw));
    json_object_set_new(sheet, "prompts", prompts);
    json_object_set_new(sheet, "count", json_integer(p->o->count));
    if (p->o->strengths) json_object_set_new(sheet, "strengths", json_string(p->o->strengths));
    char *text = json_dumps(sheet, JSON_COMPACT);
    add_extra(p->arena, &r, "Sheet", arena_strdup(p->arena, text));
    free(text);
    json_decref(sheet);
    return recipe_format(p->arena, &r);
}

/* ---- Reading ---- */

struct reader {
    struct arena *a;
    const struct option_command *cmd;
    const struct option_result *given;
    struct generate_options *o;
    const char *file;
    struct error *e;
};

static bool open_to(const struct reader *d, const char *option) { return !option_given(d->cmd, d->given, option); }

static void set_prompt(struct reader *d, const char *prompt) {
    d->o->prompts.items =
        arena_grow(d->a, d->o->prompts.items, (size_t)d->o->prompts.n, (size_t)d->o->prompts.n + 1, sizeof(char *));
    d->o->prompts.items[d->o->prompts.n++] = prompt;
}

static bool is_foreign(const struct recipe *r) { return !r->version || strncmp(r->version, "atelier", 7) != 0; }

/* Older files write "DPM++ 2M Karras" for sampler and schedule together. */
static bool take_sampler(struct reader *d, const struct recipe *r, const char **schedule) {
    if (!r->sampler || !open_to(d, "sampler")) return true;
    const char *name = sampler_name_find(r->sampler, strlen(r->sampler)), *space = strrchr(r->sampler, ' ');
    if (!name && space) {
        name = sampler_name_find(r->sampler, (size_t)(space - r->sampler));
        if (!*schedule) *schedule = space + 1;
    }
    if (!name)
        return error_set(d->e, "%s was made with the sampler \"%s\", which is not here; choose another with --sampler.",
                         d->file, TEXT_SHOW(r->sampler));
    d->o->sampler = name;
    return true;
}

static bool take_schedule(struct reader *d, const struct recipe *r, const char *schedule) {
    if (!open_to(d, "schedule")) return true;
    bool foreign = is_foreign(r), automatic = !schedule || !strcmp(schedule, "Automatic");
    const char *range = recipe_extra(r, "Schedule range");
    if (automatic) {
        d->o->schedule = foreign && r->sampler ? schedule_name_automatic(d->o->sampler, schedule != NULL) : "default";
        return true;
    }
    const char *name = schedule_name_find(schedule, strlen(schedule), foreign || (range && !strcmp(range, "full")));
    if (!name)
        return error_set(d->e, "%s was made with the schedule \"%s\", which is not here; choose another with --schedule.",
                         d->file, TEXT_SHOW(schedule));
    d->o->schedule = name;
    return true;
}

/* A1111 names its source of noise only if it is not the GPU. */
static bool take_noise(struct reader *d, const struct recipe *r) {
    const char *rng = recipe_extra(r, "RNG"), *ensd = recipe_extra(r, "ENSD");
    if (open_to(d, "noise")) {
        bool gpu = rng ? !strcmp(rng, "NV") || !strcmp(rng, "GPU") : is_foreign(r);
        enum noise_source source;
        if (rng && !gpu && strcmp(rng, "CPU") && !noise_source_parse(rng, &source, d->e))
            return error_prefix(d->e, "%s", d->file);
        d->o->noise = gpu ? "philox" : rng && strcmp(rng, "CPU") ? rng : "torch";
    }
    if (ensd && open_to(d, "ensd")) {
        char *end;
        long v = strtol(ensd, &end, 10);
        if (end == ensd || *end || v < 0 || v > INT_MAX)
            return error_set(d->e, "%s: ENSD is \"%s\", not a whole number from 0; give --ensd.", d->file, TEXT_SHOW(ensd));
        d->o->ensd = (int)v;
    }
    return true;
}

static bool take_number(struct reader *d, const struct recipe *r, const char *field, const char *option, double *out) {
    const char *text = recipe_extra(r, field);
    if (!text || !open_to(d, option)) return true;
    char *end;
    double v = strtod(text, &end);
    if (end == text || !(v >= 0 && v <= 1))
        return error_set(d->e, "%s: %s is \"%s\", not a number from 0 to 1.", d->file, field, TEXT_SHOW(text));
    *out = v;
    return true;
}

static bool take_sheet(struct reader *d, const char *text) {
    json_error_t je;
    json_t *sheet = json_loads(text, JSON_REJECT_DUPLICATES, &je), *prompts = json_object_get(sheet, "prompts");
    bool ok = json_array_size(prompts) > 0;
    for (size_t i = 0; ok && i < json_array_size(prompts); i++) ok = json_is_string(json_array_get(prompts, i));
    if (!ok) error_set(d->e, "%s: the recipe's sheet cannot be read.", d->file);
    for (size_t i = 0; ok && i < json_array_size(prompts) && open_to(d, "prompt"); i++)
        set_prompt(d, arena_strdup(d->a, json_string_value(json_array_get(prompts, i))));
    const char *strengths = json_string_value(json_object_get(sheet, "strengths"));
    if (ok && strengths && open_to(d, "strengths")) d->o->strengths = arena_strdup(d->a, strengths);
    json_int_t count = json_integer_value(json_object_get(sheet, "count"));
    if (ok && count >= 1 && count <= 1000 && open_to(d, "count")) d->o->count = (int)count;
    if (ok) d->o->grid = true;
    json_decref(sheet);
    return ok;
}

static void take_plain(struct reader *d, const struct recipe *r) {
    struct generate_options *o = d->o;
    if (open_to(d, "negative") && (*r->negative || recipe_extra(r, "Negative prompt given"))) o->negative = r->negative;
    if (r->steps && open_to(d, "steps")) o->steps = r->steps;
    if (r->has_cfg && open_to(d, "cfg")) o->cfg = r->cfg;
    if (r->has_seed && open_to(d, "seed")) o->seed = r->seed;
    if (r->w && open_to(d, "width")) o->width = r->w;
    if (r->h && open_to(d, "height")) o->height = r->h;
}

/* Courses and blocks, by name. */
static bool take_details(struct reader *d, const struct recipe *r) {
    const char *text = recipe_extra(r, "Lora details");
    json_t *details = text ? json_loads(text, 0, NULL) : NULL;
    if (!text) return true;
    if (!json_is_object(details)) {
        json_decref(details);
        return error_set(d->e, "%s: the recipe's field \"Lora details\" cannot be read.", d->file);
    }
    for (size_t i = 0; i < r->n_loras; i++) {
        const char *own = json_string_value(json_object_get(details, r->loras[i].name));
        if (own) r->loras[i].details = arena_strdup(d->a, own);
    }
    json_decref(details);
    return true;
}

static bool take_compose(struct reader *d, const struct recipe *r) {
    const char *how = recipe_extra(r, "Compose"), *every = recipe_extra(r, "Compose every");
    if (how && open_to(d, "compose")) {
        if (strcmp(how, "switch") && strcmp(how, "composite"))
            return error_set(d->e, "The recipe's way to compose LoRAs, \"%s\", is not here; choose one with --compose.",
                             TEXT_SHOW(how));
        d->o->compose = how;
    }
    long n = every ? strtol(every, NULL, 10) : 0;
    if (every && (n < 1 || n > 1000))
        return error_set(d->e, "The recipe changes LoRAs every \"%s\" steps, which is no number; give --every.",
                         TEXT_SHOW(every));
    if (every && open_to(d, "every")) d->o->every = (int)n;
    return true;
}

static bool take_recipe(struct reader *d, const struct recipe *r, struct lora_use *loras) {
    const char *sheet = recipe_extra(r, "Sheet");
    bool open = open_to(d, "prompt") && open_to(d, "prompts");
    if (!sheet && open) set_prompt(d, r->prompt);
    if (sheet && open_to(d, "prompts") && !take_sheet(d, sheet)) return false;
    take_plain(d, r);
    const char *schedule = r->schedule;
    if (!take_sampler(d, r, &schedule) || !take_schedule(d, r, schedule) || !take_noise(d, r) ||
        !take_number(d, r, "Eta", "eta", &d->o->eta) || !take_number(d, r, "Guidance rescale", "rescale", &d->o->rescale))
        return false;
    if (!take_details(d, r) || !take_compose(d, r)) return false;
    struct region_use_given regions = {!open_to(d, "region"), !open_to(d, "region-method")};
    if (!region_use_read(&d->o->regions, d->a, r, &regions, path_dir(d->a, d->o->from), d->e)) return false;
    bool own_loras = !open_to(d, "lora") || !open_to(d, "content") || !open_to(d, "style");
    for (size_t i = 0; i < r->n_loras && !own_loras; i++)
        if (!lora_use_recipe(loras, &r->loras[i], d->e)) return false;
    struct prompt_use_given given = {!open_to(d, "prompt-style"), !open_to(d, "clip-skip"), !open_to(d, "embedding")};
    if (!prompt_use_read(&d->o->prompt_use, d->a, r, &given, loras->dir, d->e)) return false;
    struct start_use_given start = {!open_to(d, "init-image"),    !open_to(d, "mask"),           !open_to(d, "strength"),
                                    !open_to(d, "hires"),         !open_to(d, "hires-strength"), !open_to(d, "hires-steps"),
                                    !open_to(d, "hires-upscaler")};
    if (!start_use_read(&d->o->start, d->a, r, &start, path_dir(d->a, d->o->from), d->e))
        return error_prefix(d->e, "%s", d->file);
    static const char *const unknown[] = {"Hires resize-1", "Variation seed"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++)
        if (recipe_extra(r, unknown[i])) log_warn("%s was made with \"%s\", which is not repeated", d->file, unknown[i]);
    return true;
}

bool generate_read_recipe(struct arena *a, const struct option_command *cmd, const struct option_result *given,
                          struct generate_options *o, struct lora_use *loras, const char **model_hash, struct error *e) {
    struct png_text *texts;
    size_t n;
    if (!png_read_texts(a, o->from, &texts, &n, e)) return false;
    const char *text = png_text_find(texts, n, "parameters");
    if (!text) return error_set(e, "%s carries no recipe (a PNG text called parameters).", TEXT_SHOW(o->from));
    struct recipe r;
    if (!recipe_parse(a, text, &r, e)) return error_prefix(e, "%s", TEXT_SHOW(o->from));
    if (!loras->dir) loras->dir = path_dir(a, o->from);
    *model_hash = r.model_hash;
    struct reader d = {a, cmd, given, o, path_base(o->from), e};
    return take_recipe(&d, &r, loras);
}
