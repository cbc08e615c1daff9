#include "app/generate.h"
#include "app/sampler_names.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/os.h"
#include "base/text.h"
#include "engine/model.h"
#include "io/image.h"
#include "io/json.h"
#include "io/prompt_file.h"

enum { MAX_FACTORS = 64 };

static bool parse_factors(struct generate_plan *p, struct error *e) {
    p->factors = arena_alloc_n(p->arena, MAX_FACTORS, sizeof *p->factors);
    p->factors[0] = 1, p->n_factors = 1;
    if (!p->o->strengths) return true;
    const char *s = p->o->strengths;
    for (p->n_factors = 0;; s++) {
        char *end;
        double v = strtod(s, &end);
        if (end == s || (*end && *end != ',') || !isfinite(v) || fabs(v) > 100 || p->n_factors == MAX_FACTORS)
            return error_set(e, "--strengths must be numbers with commas between them, like 0,0.5,1, not \"%s\".",
                             TEXT_SHOW(p->o->strengths));
        p->factors[p->n_factors++] = (float)v;
        s = end;
        if (!*s) return true;
    }
}

/* Cuts <lora:...> out of line i's prompt. */
static bool take_line(struct generate_plan *p, int i, const char *raw, struct error *e) {
    const struct generate_options *o = p->o;
    struct recipe_lora *tags;
    size_t n;
    if (!text_utf8_valid(raw, strlen(raw))) return error_set(e, "Prompt %d is not UTF-8 text.", i + 1);
    p->lines[i] = (struct generate_line){.raw = raw, .prompt = recipe_cut_loras(p->arena, raw, &tags, &n),
                                         .negative = o->negative, .sampler = o->sampler, .w = o->width, .h = o->height,
                                         .steps = o->steps, .cfg = o->cfg,
                                         .seed = o->seed};
    for (size_t k = 0; k < n; k++)
        if (!lora_use_tag(&p->loras, &tags[k], i, e)) return false;
    const char *left = strstr(p->lines[i].prompt, "<lora:");
    if (!left) left = strstr(p->lines[i].prompt, "<lyco:");
    if (!left) return true;
    return error_set(e, "Prompt %d has \"%.*s\", which is no LoRA's tag; write <lora:NAME> or <lora:NAME:0.8>.", i + 1,
                     (int)strcspn(TEXT_SHOW(left), ">") + 1, TEXT_SHOW(left));
}

static bool take_prompts(struct generate_plan *p, struct error *e) {
    const struct option_list *list = &p->o->prompts;
    p->n_prompts = list->n;
    p->lines = arena_alloc_n(p->arena, (size_t)list->n, sizeof *p->lines);
    for (int i = 0; i < list->n; i++)
        if (!take_line(p, i, list->items[i], e)) return false;
    return true;
}

static bool take_file(struct generate_plan *p, struct error *e) {
    struct prompt_line *lines;
    const char *file = p->o->prompt_file;
    if (p->o->prompts.n) return error_set(e, "--prompt and --prompts do not go together; write all prompts into the file.");
    if (p->o->grid)
        return error_set(e, "--grid and --prompts do not go together: pictures of a file may have settings of their own.");
    if (!prompt_file_read(p->arena, file, &lines, &p->n_prompts, e)) return false;
    p->lines = arena_alloc_n(p->arena, (size_t)p->n_prompts, sizeof *p->lines);
    for (int i = 0; i < p->n_prompts; i++) {
        const struct prompt_line *from = &lines[i];
        struct generate_line *l = &p->lines[i];
        if (!take_line(p, i, from->prompt, e)) return error_prefix(e, "%s, line %d", TEXT_SHOW(file), from->number);
        if (from->negative) l->negative = from->negative;
        if (from->w) l->w = from->w;
        if (from->h) l->h = from->h;
        if (from->steps) l->steps = from->steps;
        if (from->has_seed) l->seed = from->seed;
        if (from->has_cfg) l->cfg = from->cfg;
        if (from->sampler && !(l->sampler = sampler_name_kohya(p->arena, from->sampler)))
            return error_set(e, "%s, line %d: there is no sampler \"%s\"; --help lists those there are.", TEXT_SHOW(file),
                             from->number, TEXT_SHOW(from->sampler));
        for (int k = 0; k < from->n_loras; k++)
            if (!lora_use_file(&p->loras, from->loras[k], i, e))
                return error_prefix(e, "%s, line %d", TEXT_SHOW(file), from->number);
    }
    return true;
}

/* Before a device is touched: LoRAs enough for every prompt. */
static bool check_compose(const struct generate_plan *p, struct error *e) {
    float *strength = arena_alloc_n(p->arena, (size_t)p->loras.n + 1, sizeof *strength);
    if (generate_compose(p->o) == GUIDE_SUM) return true;
    if (p->o->regions.n)
        return error_set(e, "--region and --compose %s do not go together; leave one of them out.", p->o->compose);
    for (int i = 0; i < p->n_prompts; i++) {
        int n = 0;
        lora_use_strengths(&p->loras, i, 1, strength);
        for (int k = 0; k < p->loras.n; k++) n += strength[k] != 0;
        if (n < 2)
            return error_set(e, "--compose %s needs two LoRAs or more, and prompt %d has %d; add --lora FILE, or leave "
                                "--compose out.", p->o->compose, i + 1, n);
    }
    return true;
}

int generate_least_steps(const struct generate_plan *p) {
    int least = p->lines[0].steps;
    for (int i = 1; i < p->n_prompts; i++)
        if (p->lines[i].steps < least) least = p->lines[i].steps;
    return least;
}

bool generate_plan(struct generate_plan *p, struct generate_options *o, struct error *e) {
    p->o = o;
    if (!o->prompts.n && !o->prompt_file)
        return error_set(e, "--prompt TEXT is needed, or --prompts FILE, or --from FILE.png.");
    if (o->steps > 1000) return error_set(e, "The recipe's %d steps are more than 1000; give --steps.", o->steps);
    if (!(o->cfg >= 0 && o->cfg <= 100))
        return error_set(e, "The recipe's guidance of %g does not lie from 0 to 100; give --cfg.", o->cfg);
    if (o->width > IMAGE_MAX_SIDE || o->height > IMAGE_MAX_SIDE)
        return error_set(e, "The recipe's %dx%d pixels are more than %d a side; give --width and --height.", o->width,
                         o->height, IMAGE_MAX_SIDE);
    if (o->negative && !text_utf8_valid(o->negative, strlen(o->negative)))
        return error_set(e, "The negative prompt is not UTF-8 text.");
    for (int i = 0; i < o->loras.n; i++)
        if (!lora_use_file(&p->loras, o->loras.items[i], -1, e)) return false;
    if (!lora_use_split(&p->loras, o->content, o->style, e)) return false;
    if (!(o->prompt_file ? take_file(p, e) : take_prompts(p, e)) || !parse_factors(p, e)) return false;
    if (!region_use_plan(&o->regions, p->arena, p->n_prompts, &p->loras, e) || !check_compose(p, e)) return false;
    if (o->strengths && !p->loras.n)
        return error_set(e, "--strengths sets how strong LoRAs are, but there is none: add --lora FILE.");
    return true;
}

/* A year-old cache is as good as a new one: path, size and time identify the file. */
bool generate_model_hash(const struct model *m, char hex[65], struct error *e) {
    struct arena *a = arena_create(NULL);
    struct error ignored;
    const char *file = arena_printf(a, "%s/model-hashes.json", os_cache_dir(a)), *path = os_path_real(a, st_path(m->files[0]));
    struct os_stat st;
    bool ok = os_file_stat(path, &st, e);
    if (ok) {
        const char *key = arena_printf(a, "%s|%llu|%lld", path, (unsigned long long)st.bytes, (long long)st.mtime_ns);
        json_t *known = os_path_is_file(file) ? json_file_load(file, 0, &ignored) : NULL;
        if (!known) known = json_object();
        const char *found = json_string_value(json_object_get(known, key));
        if (found && strlen(found) == 64) memcpy(hex, found, 65);
        else if ((ok = model_unet_sha256(m, hex, e)) && text_utf8_valid(key, strlen(key))) {
            json_object_set_new(known, key, json_string(hex));
            json_file_save(file, known, 1, &ignored);
        }
        json_decref(known);
    }
    arena_destroy(&a);
    return ok;
}
