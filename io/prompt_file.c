#include "io/prompt_file.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/os.h"
#include "base/text.h"
#include "io/image.h"

enum { MAX_BYTES = 16 << 20 };

struct reader {
    struct arena *a;
    const char *name;
    int number; /* 0: no file */
    struct error *e;
};

static bool place(const struct reader *r) {
    return r->number ? error_prefix(r->e, "%s, line %d", TEXT_SHOW(r->name), r->number) : error_prefix(r->e, "%s", r->name);
}
#define WRONG(r, ...) (error_set((r)->e, __VA_ARGS__), place(r))

static bool whole(const struct reader *r, const char *key, const char *text, int least, int most, int *out) {
    char *end;
    long v = strtol(text, &end, 10);
    if (end == text || *end || v < least || v > most)
        return WRONG(r, "--%s takes a whole number from %d to %d, not \"%s\".", key, least, most, TEXT_SHOW(text));
    *out = (int)v;
    return true;
}

static bool seed(const struct reader *r, const char *text, struct prompt_line *l) {
    char *end;
    l->seed = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)*text) || *end)
        return WRONG(r, "--d takes a seed, a whole number from 0, not \"%s\".", TEXT_SHOW(text));
    l->has_seed = true;
    return true;
}

static bool guidance(const struct reader *r, const char *text, struct prompt_line *l) {
    char *end;
    l->cfg = strtod(text, &end);
    if (end == text || *end || !(l->cfg >= 0 && l->cfg <= 100))
        return WRONG(r, "--l takes a number from 0 to 100, not \"%s\".", TEXT_SHOW(text));
    l->has_cfg = true;
    return true;
}

static bool take(const struct reader *r, struct prompt_line *l, const char *key, const char *value) {
    const char **text = !strcmp(key, "n") ? &l->negative : !strcmp(key, "ss") ? &l->sampler : NULL;
    if (text) *text = value;
    if (text == &l->negative) return true;
    if (!*value) return WRONG(r, "--%s says nothing.", TEXT_SHOW(key));
    if (!strcmp(key, "w")) return whole(r, key, value, 8, IMAGE_MAX_SIDE, &l->w);
    if (!strcmp(key, "h")) return whole(r, key, value, 8, IMAGE_MAX_SIDE, &l->h);
    if (!strcmp(key, "s")) return whole(r, key, value, 1, 1000, &l->steps);
    if (!strcmp(key, "d")) return seed(r, value, l);
    if (!strcmp(key, "l")) return guidance(r, value, l);
    if (text) return true;
    if (strcmp(key, "lora"))
        return WRONG(r, "--%s is not known here; --n, --w, --h, --d, --l, --s, --ss and --lora are.", TEXT_SHOW(key));
    l->loras = arena_grow(r->a, l->loras, (size_t)l->n_loras, (size_t)l->n_loras + 1, sizeof *l->loras);
    l->loras[l->n_loras++] = value;
    return true;
}

static char *trim(char *s) {
    while (isspace((unsigned char)*s)) s++;
    for (size_t n = strlen(s); n && isspace((unsigned char)s[n - 1]);) s[--n] = 0;
    return s;
}

/* The next " --x" in s, or NULL: two dashes that no letter follows are text. */
static char *next_option(char *s) {
    for (char *at = s; (at = strstr(at, "--")); at += 2)
        if ((at == s || isspace((unsigned char)at[-1])) && isalpha((unsigned char)at[2])) return at;
    return NULL;
}

static bool read_line(const struct reader *r, char *text, struct prompt_line *l) {
    char *option = next_option(text);
    *l = (struct prompt_line){.number = r->number, .prompt = text};
    if (option == text) return WRONG(r, "there is no prompt before its options.");
    while (option) {
        *option = 0;
        char *key = option + 2, *value = key, *next = next_option(key);
        if (next) *next = 0;
        while (*value && !isspace((unsigned char)*value)) value++;
        if (*value) *value++ = 0;
        if (!take(r, l, key, trim(value))) return false;
        option = next;
    }
    trim(text);
    return true;
}

bool prompt_file_parse(struct arena *a, const void *data, size_t bytes, const char *name, struct prompt_line **out, int *n,
                       struct error *e) {
    struct reader r = {a, name, 0, e};
    *out = NULL, *n = 0;
    if (bytes > MAX_BYTES)
        return error_set(e, "%s has %zu MiB; a file of prompts has up to %d.", TEXT_SHOW(name), bytes >> 20, MAX_BYTES >> 20);
    if (!text_utf8_valid(data, bytes) || memchr(data, 0, bytes))
        return error_set(e, "%s is not UTF-8 text; save it as UTF-8.", TEXT_SHOW(name));
    char *text = arena_strndup(a, data, bytes), *next;
    if (bytes >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) text += 3; /* byte order mark */
    size_t room = 0;
    for (; text; text = next) {
        if ((next = strchr(text, '\n'))) *next++ = 0;
        r.number++;
        char *line = trim(text);
        if (!*line || *line == '#') continue;
        if (*n == PROMPT_FILE_MAX_LINES)
            return error_set(e, "%s has more than %d prompts; use several files.", TEXT_SHOW(name), PROMPT_FILE_MAX_LINES);
        if ((size_t)*n == room)
            *out = arena_grow(a, *out, room, room ? 2 * room : 32, sizeof **out), room = room ? 2 * room : 32;
        if (!read_line(&r, line, &(*out)[(*n)++])) return false;
    }
    return *n || error_set(e, "%s has no prompts: one is written a line, and lines with # are comments.", TEXT_SHOW(name));
}

bool prompt_line_parse(struct arena *a, const char *text, const char *name, struct prompt_line *out, struct error *e) {
    struct reader r = {a, name, 0, e};
    if (!text_utf8_valid(text, strlen(text))) return WRONG(&r, "\"%.40s\" is not UTF-8 text.", TEXT_SHOW(text));
    return read_line(&r, trim(arena_strdup(a, text)), out);
}

bool prompt_file_read(struct arena *a, const char *path, struct prompt_line **out, int *n, struct error *e) {
    struct os_map m;
    if (!os_file_map(&m, path, e)) return false;
    bool ok = prompt_file_parse(a, m.data, m.bytes, path, out, n, e);
    os_file_unmap(&m);
    return ok;
}
