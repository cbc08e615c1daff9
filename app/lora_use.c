#include "app/lora_use.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "app/options.h"
#include "base/arena.h"
#include "base/log.h"
#include "base/os.h"
#include "base/path.h"
#include "base/text.h"
#include "io/recipe.h"
#include "io/safetensors.h"

/* One file has one course and one set of blocks in a run; strengths add up. */
static bool request(struct lora_use *u, const char *path, const struct lora_spec *spec, int prompt, struct error *e) {
    int file = 0;
    while (file < u->n && strcmp(u->paths[file], path) != 0) file++;
    if (file < u->n) {
        const char *old = u->specs[file].details, *new = spec->details;
        if (!old != !new || (old && strcmp(old, new) != 0))
            return error_set(e, "%s is used twice, as \"%s\" and as \"%s\": a LoRA has one course and one set of block "
                                "strengths in a run.", TEXT_SHOW(path), TEXT_SHOW(old ? old : "a plain strength"),
                             TEXT_SHOW(new ? new : "a plain strength"));
    } else {
        u->paths = arena_grow(u->arena, u->paths, (size_t)u->n, (size_t)u->n + 1, sizeof *u->paths);
        u->specs = arena_grow(u->arena, u->specs, (size_t)u->n, (size_t)u->n + 1, sizeof *u->specs);
        u->specs[u->n] = *spec;
        u->paths[u->n++] = arena_strdup(u->arena, path);
    }
    u->requests = arena_grow(u->arena, u->requests, (size_t)u->n_requests, (size_t)u->n_requests + 1, sizeof *u->requests);
    u->requests[u->n_requests++] = (struct lora_request){file, prompt, spec->strength};
    return true;
}

/* "FILE:REST": the path is as long as something is called so. */
static bool take_path(struct lora_use *u, const char *text, const char *option, const char **out, const char **rest,
                      struct error *e) {
    const char *path = text;
    *rest = "";
    for (const char *colon = text + strlen(text); !os_path_exists(path) && colon > text;) {
        do colon--;
        while (colon > text && *colon != ':');
        if (*colon != ':') break;
        path = arena_strndup(u->arena, text, (size_t)(colon - text)), *rest = colon + 1;
    }
    if (!os_path_exists(path)) {
        const char *colon = strrchr(text, ':');
        path = colon && !strchr(colon, '/') ? arena_strndup(u->arena, text, (size_t)(colon - text)) : text;
        return error_set(e, "There is no LoRA file %s (%s FILE or %s FILE:STRENGTH).", TEXT_SHOW(path), option, option);
    }
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--; /* a folder is called like itself */
    *out = arena_strndup(u->arena, path, n);
    return true;
}

bool lora_use_file(struct lora_use *u, const char *text, int prompt, struct error *e) {
    const char *path, *rest;
    struct lora_spec spec;
    return take_path(u, text, "--lora", &path, &rest, e) && lora_spec_parse(rest, u->arena, &spec, e) &&
           request(u, path, &spec, prompt, e);
}

/* A part's file and strength. */
struct part {
    const char *option, *name, *path, *rest;
    struct lora_spec spec;
};

static bool take_part(struct lora_use *u, const char *text, struct part *p, struct error *e) {
    if (!text) return true;
    if (!take_path(u, text, p->option, &p->path, &p->rest, e) || !lora_spec_parse(p->rest, u->arena, &p->spec, e)) return false;
    if (p->spec.has_blocks)
        return error_set(e, "%s chooses the block itself; write FILE or FILE:STRENGTH, or use --lora with blocks.", p->option);
    if (!*p->rest) p->rest = "1";
    return true;
}

static bool request_blocks(struct lora_use *u, const char *path, const char *text, struct error *e) {
    struct lora_spec spec;
    return lora_spec_parse(text, u->arena, &spec, e) && request(u, path, &spec, -1, e);
}

bool lora_use_split(struct lora_use *u, const char *content, const char *style, struct error *e) {
    struct part parts[] = {{.option = "--content", .name = "CONTENT"}, {.option = "--style", .name = "STYLE"}};
    if (!take_part(u, content, &parts[0], e) || !take_part(u, style, &parts[1], e)) return false;
    if (content && style && !strcmp(parts[0].path, parts[1].path)) {
        if (parts[0].spec.details || parts[1].spec.details)
            return error_set(e, "--content and --style are one file, whose parts cannot have courses of their own: give plain "
                                "strengths.");
        return request_blocks(u, parts[0].path, arena_printf(u->arena, "1:*=0,CONTENT=%.9g,STYLE=%.9g",
                                                             (double)parts[0].spec.strength, (double)parts[1].spec.strength),
                                                             e);
    }
    for (int i = 0; i < 2; i++)
        if (parts[i].path &&
            !request_blocks(u, parts[i].path, arena_printf(u->arena, "%s:*=0,%s=1", parts[i].rest, parts[i].name), e))
            return false;
    return true;
}

/* Names without ending of the LoRA files in dir; also as one text for messages. */
static int list_dir(struct lora_use *u, const char ***names, char **text, struct error *e) {
    struct os_entry *list;
    size_t n;
    int found = 0;
    if (!os_dir_list(u->arena, u->dir, &list, &n, e)) return -1;
    *names = arena_alloc_n(u->arena, n + 1, sizeof **names);
    *text = "";
    for (size_t i = 0; i < n; i++) {
        if (list[i].is_dir || !path_has_ext(list[i].name, "safetensors")) continue;
        (*names)[found++] = path_stem(u->arena, list[i].name);
        if (found <= 12) *text = arena_printf(u->arena, "%s%s%s", *text, found > 1 ? ", " : "", TEXT_SHOW((*names)[found - 1]));
    }
    if (found > 12) *text = arena_printf(u->arena, "%s and %d more", *text, found - 12);
    return found;
}

static const char *path_of(struct lora_use *u, const char *name) {
    return arena_printf(u->arena, "%s/%s.safetensors", u->dir, name);
}

/* Course and blocks come from the details, the strength from the number: --strengths may have changed it. */
static bool spec_of(struct lora_use *u, const struct recipe_lora *l, struct lora_spec *spec, struct error *e) {
    if (!lora_spec_parse(l->details ? l->details : "", u->arena, spec, e)) return false;
    if (l->has_strength) spec->strength = (float)l->strength;
    return true;
}

static bool use_path(struct lora_use *u, const char *path, const struct recipe_lora *l, int prompt, struct error *e) {
    struct lora_spec spec;
    return spec_of(u, l, &spec, e) && request(u, path, &spec, prompt, e);
}

bool lora_use_tag(struct lora_use *u, const struct recipe_lora *l, int prompt, struct error *e) {
    if (!u->dir)
        return error_set(e, "The prompt asks for <lora:%s>; say with --lora-dir DIR where LoRA files lie.", TEXT_SHOW(l->name));
    const char *path = path_of(u, l->name);
    if (!strchr(l->name, '/') && os_path_is_file(path)) return use_path(u, path, l, prompt, e);
    const char **names;
    char *text;
    int n = list_dir(u, &names, &text, e);
    if (n < 0) return false;
    if (!n)
        return error_set(e, "There is no LoRA \"%s\": %s holds no .safetensors files.", TEXT_SHOW(l->name), TEXT_SHOW(u->dir));
    return error_set(e, "There is no LoRA \"%s\" in %s; it has %s.", TEXT_SHOW(l->name), TEXT_SHOW(u->dir), text);
}

static bool hash_is(const char *path, const char *hash) {
    struct error ignored;
    struct st_file *f = st_open(path, &ignored);
    if (!f) return false;
    char hex[65];
    st_data_sha256(f, hex);
    st_close(&f);
    return strncmp(hex, hash, strlen(hash)) == 0;
}

bool lora_use_recipe(struct lora_use *u, const struct recipe_lora *l, struct error *e) {
    if (!u->dir || !l->hash) return lora_use_tag(u, l, -1, e);
    const char *path = path_of(u, l->name), **names;
    char *text;
    bool named = !strchr(l->name, '/') && os_path_is_file(path);
    if (named && hash_is(path, l->hash)) return use_path(u, path, l, -1, e);
    int n = list_dir(u, &names, &text, e);
    if (n < 0) return false;
    for (int i = 0; i < n; i++)
        if (hash_is(path_of(u, names[i]), l->hash)) return use_path(u, path_of(u, names[i]), l, -1, e);
    if (!named) return lora_use_tag(u, l, -1, e);
    log_warn("%s is not the file that the picture was made with (hash %s): expect another picture", path, l->hash);
    return use_path(u, path, l, -1, e);
}

const struct lora_blocks **lora_use_blocks(const struct lora_use *u) {
    const struct lora_blocks **blocks = arena_alloc_n(u->arena, (size_t)u->n + 1, sizeof *blocks);
    bool any = false;
    for (int i = 0; i < u->n; i++)
        if (u->specs[i].has_blocks) blocks[i] = &u->specs[i].blocks, any = true;
    return any ? blocks : NULL;
}

const struct guide_course *lora_use_courses(const struct lora_use *u) {
    struct guide_course *courses = arena_alloc_n(u->arena, (size_t)u->n + 1, sizeof *courses);
    bool any = false;
    for (int i = 0; i < u->n; i++) {
        courses[i] = u->specs[i].course;
        any |= u->specs[i].details != NULL;
    }
    return any ? courses : NULL;
}

void lora_use_strengths(const struct lora_use *u, int prompt, float factor, float *dst) {
    for (int i = 0; i < u->n; i++) dst[i] = 0;
    for (int i = 0; i < u->n_requests; i++)
        if (u->requests[i].prompt < 0 || u->requests[i].prompt == prompt)
            dst[u->requests[i].file] += factor * u->requests[i].strength;
}
