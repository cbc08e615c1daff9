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

static void request(struct lora_use *u, const char *path, float strength, int prompt) {
    int file = 0;
    while (file < u->n && strcmp(u->paths[file], path) != 0) file++;
    if (file == u->n) {
        u->paths = arena_grow(u->arena, u->paths, (size_t)u->n, (size_t)u->n + 1, sizeof *u->paths);
        u->paths[u->n++] = arena_strdup(u->arena, path);
    }
    u->requests = arena_grow(u->arena, u->requests, (size_t)u->n_requests, (size_t)u->n_requests + 1, sizeof *u->requests);
    u->requests[u->n_requests++] = (struct lora_request){file, prompt, strength};
}

bool lora_use_file(struct lora_use *u, const char *text, struct error *e) {
    const char *colon = strrchr(text, ':'), *path = text;
    double strength = 1;
    if (colon && colon[1] && !os_path_exists(text)) {
        char *end;
        double v = strtod(colon + 1, &end);
        if (!*end && isfinite(v) && fabs(v) <= 100) {
            strength = v;
            path = arena_strndup(u->arena, text, (size_t)(colon - text));
        }
    }
    if (!os_path_exists(path)) return error_set(e, "There is no LoRA file %s (--lora FILE or --lora FILE:STRENGTH).", TEXT_SHOW(path));
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--; /* a folder is called like itself */
    request(u, arena_strndup(u->arena, path, n), (float)strength, -1);
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

bool lora_use_name(struct lora_use *u, const char *name, double strength, int prompt, struct error *e) {
    if (!u->dir)
        return error_set(e, "The prompt asks for <lora:%s>; say with --lora-dir DIR where LoRA files lie.", TEXT_SHOW(name));
    const char *path = path_of(u, name);
    if (!strchr(name, '/') && os_path_is_file(path)) {
        request(u, path, (float)strength, prompt);
        return true;
    }
    const char **names;
    char *text;
    int n = list_dir(u, &names, &text, e);
    if (n < 0) return false;
    if (!n) return error_set(e, "There is no LoRA \"%s\": %s holds no .safetensors files.", TEXT_SHOW(name), TEXT_SHOW(u->dir));
    return error_set(e, "There is no LoRA \"%s\" in %s; it has %s.", TEXT_SHOW(name), TEXT_SHOW(u->dir), text);
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
    if (!u->dir || !l->hash) return lora_use_name(u, l->name, l->strength, -1, e);
    const char *path = path_of(u, l->name), **names;
    char *text;
    bool named = !strchr(l->name, '/') && os_path_is_file(path);
    if (named && hash_is(path, l->hash)) return lora_use_name(u, l->name, l->strength, -1, e);
    int n = list_dir(u, &names, &text, e);
    if (n < 0) return false;
    for (int i = 0; i < n; i++)
        if (hash_is(path_of(u, names[i]), l->hash)) return lora_use_name(u, names[i], l->strength, -1, e);
    if (!named) return lora_use_name(u, l->name, l->strength, -1, e);
    log_warn("%s is not the file that the picture was made with (hash %s): expect another picture", path, l->hash);
    request(u, path, (float)l->strength, -1);
    return true;
}

void lora_use_strengths(const struct lora_use *u, int prompt, float factor, float *dst) {
    for (int i = 0; i < u->n; i++) dst[i] = 0;
    for (int i = 0; i < u->n_requests; i++)
        if (u->requests[i].prompt < 0 || u->requests[i].prompt == prompt)
            dst[u->requests[i].file] += factor * u->requests[i].strength;
}
