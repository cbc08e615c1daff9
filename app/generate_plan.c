#include "app/generate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/os.h"
#include "base/text.h"
#include "engine/model.h"
#include "io/json.h"

enum { MAX_FACTORS = 64, MAX_PICTURES = 10000 };

static bool parse_factors(struct generate_plan *p, struct error *e) {
    p->factors = arena_alloc_n(p->arena, MAX_FACTORS, sizeof *p->factors);
    p->factors[0] = 1, p->n_factors = 1;
    if (!p->o->strengths) return true;
    const char *s = p->o->strengths;
    for (p->n_factors = 0;; s++) {
        char *end;
        double v = strtod(s, &end);
        if (end == s || (*end && *end != ',') || !isfinite(v) || fabs(v) > 100 || p->n_factors == MAX_FACTORS)
            return error_set(e, "--strengths must be numbers with commas between them, like 0,0.5,1, not \"%s\".", TEXT_SHOW(p->o->strengths));
        p->factors[p->n_factors++] = (float)v;
        s = end;
        if (!*s) return true;
    }
}

static bool take_prompts(struct generate_plan *p, struct error *e) {
    const struct option_list *list = &p->o->prompts;
    p->n_prompts = list->n;
    p->raw = list->items;
    p->prompts = arena_alloc_n(p->arena, (size_t)list->n, sizeof *p->prompts);
    for (int i = 0; i < list->n; i++) {
        struct recipe_lora *tags;
        size_t n;
        if (!text_utf8_valid(list->items[i], strlen(list->items[i])))
            return error_set(e, "Prompt %d is not UTF-8 text.", i + 1);
        p->prompts[i] = recipe_cut_loras(p->arena, list->items[i], &tags, &n);
        for (size_t k = 0; k < n; k++)
            if (!lora_use_tag(&p->loras, &tags[k], i, e)) return false;
    }
    return true;
}

/* Before a device is touched: LoRAs enough for every prompt. */
static bool check_compose(const struct generate_plan *p, struct error *e) {
    float *strength = arena_alloc_n(p->arena, (size_t)p->loras.n + 1, sizeof *strength);
    if (generate_compose(p->o) == GUIDE_SUM) return true;
    if (p->o->regions.n) return error_set(e, "--region and --compose %s do not go together; leave one of them out.", p->o->compose);
    for (int i = 0; i < p->n_prompts; i++) {
        int n = 0;
        lora_use_strengths(&p->loras, i, 1, strength);
        for (int k = 0; k < p->loras.n; k++) n += strength[k] != 0;
        if (n < 2)
            return error_set(e, "--compose %s needs two LoRAs or more, and prompt %d has %d; add --lora FILE, or leave --compose out.",
                             p->o->compose, i + 1, n);
    }
    return true;
}

enum guide_compose generate_compose(const struct generate_options *o) {
    return !strcmp(o->compose, "switch") ? GUIDE_SWITCH : !strcmp(o->compose, "composite") ? GUIDE_COMPOSITE : GUIDE_SUM;
}

bool generate_plan(struct generate_plan *p, struct generate_options *o, struct error *e) {
    p->o = o;
    if (!o->prompts.n) return error_set(e, "--prompt TEXT is needed, or --from FILE.png.");
    if (!common_check_out("out", o->out, "png", e)) return false;
    if (o->steps > 1000) return error_set(e, "The recipe's %d steps are more than 1000; give --steps.", o->steps);
    if (o->trace && !common_check_out("trace", o->trace, "safetensors", e)) return false;
    if (o->negative && !text_utf8_valid(o->negative, strlen(o->negative))) return error_set(e, "The negative prompt is not UTF-8 text.");
    for (int i = 0; i < o->loras.n; i++)
        if (!lora_use_file(&p->loras, o->loras.items[i], e)) return false;
    if (!take_prompts(p, e) || !parse_factors(p, e)) return false;
    if (!region_use_plan(&o->regions, p->arena, p->n_prompts, &p->loras, e) || !check_compose(p, e)) return false;
    if (o->strengths && !p->loras.n) return error_set(e, "--strengths sets how strong LoRAs are, but there is none: add --lora FILE.");
    if (o->trace && generate_pictures(p) != 1)
        return error_set(e, "--trace records one picture, and this would make %d.", generate_pictures(p));
    if ((double)p->n_prompts * o->count * p->n_factors > MAX_PICTURES)
        return error_set(e, "This would make more than %d pictures; use fewer prompts, a smaller --count or fewer --strengths.", MAX_PICTURES);
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
