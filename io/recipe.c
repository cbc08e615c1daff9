#include "io/recipe.h"
#include "base/arena.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LORAS = 64, MAX_FIELDS = 128 };

/* Locale-independent as long as nobody calls setlocale, which this program does not. */
static bool parse_number(const char *s, double *out) {
    char *end;
    *out = strtod(s, &end);
    while (*end == ' ') end++;
    return end != s && *end == 0 && isfinite(*out) && fabs(*out) < 1e6;
}

/* Shortest decimal that reads back as the same double. */
static char *number_text(struct arena *a, double v) {
    char text[40];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v) break;
    }
    return arena_strdup(a, text);
}

/* ---- <lora:...> ---- */

/* What a part of a tag is: the number that counts, blocks, a strength over the steps, or nothing known. */
struct tag {
    struct recipe_lora *lora;
    const char *blocks, *course;
    bool by_name; /* unet= was there */
    int position;
};

static bool tag_part(struct tag *t, const char *part) {
    const char *value = strchr(part, '=');
    double v;
    if (strncmp(part, "lbw=", 4) == 0) return t->blocks = part + 4, true;
    if (t->position >= 1 && strchr(part, ',')) return t->blocks = part, true;
    if (t->position == 0 && !value && (strstr(part, "..") || strchr(part, '@'))) return t->course = part, true;
    if (!parse_number(value ? value + 1 : part, &v)) return false;
    bool unet = value && strncmp(part, "unet=", 5) == 0;
    bool plain = !value && !t->by_name && t->position <= 1; /* te, then unet */
    if (unet || plain || (value && !t->by_name && strncmp(part, "te=", 3) == 0)) t->lora->strength = v;
    t->by_name |= unet;
    return true;
}

/* Reads one tag at s; returns its length or 0. */
static size_t lora_tag(struct arena *a, const char *s, struct recipe_lora *out) {
    size_t head = strncmp(s, "<lora:", 6) == 0 || strncmp(s, "<lyco:", 6) == 0 ? 6 : 0;
    const char *end = head ? strchr(s, '>') : NULL;
    if (!end || end - s > 400) return 0;
    char *body = arena_strndup(a, s + head, (size_t)(end - s) - head), *next = strchr(body, ':');
    if (next) *next++ = 0;
    if (!body[0] || strpbrk(body, "<\n")) return 0;
    *out = (struct recipe_lora){.name = body, .strength = 1};
    struct tag t = {.lora = out};
    for (; next; t.position++) {
        char *part = next;
        if ((next = strchr(part, ':'))) *next++ = 0;
        if (!tag_part(&t, part)) return 0;
    }
    out->has_strength = !t.course;
    if (t.blocks) out->details = arena_printf(a, "%s:%s", t.course ? t.course : number_text(a, out->strength), t.blocks);
    else out->details = t.course;
    return (size_t)(end - s) + 1;
}

char *recipe_cut_loras(struct arena *a, const char *prompt, struct recipe_lora **loras, size_t *n) {
    *loras = arena_alloc_n(a, MAX_LORAS, sizeof **loras);
    *n = 0;
    char *out = arena_alloc(a, strlen(prompt) + 1), *p = out;
    while (*prompt) {
        size_t len = *prompt == '<' && *n < MAX_LORAS ? lora_tag(a, prompt, &(*loras)[*n]) : 0;
        if (len == 0) {
            *p++ = *prompt++;
            continue;
        }
        prompt += len;
        (*n)++;
        bool at_gap = p == out || isspace((unsigned char)p[-1]);
        if (at_gap)
            while (*prompt == ' ') prompt++; /* no double space where the tag was */
        if (*prompt == 0 && *n)
            while (p > out && p[-1] == ' ') p--;
    }
    *p = 0;
    return out;
}

/* ---- Writing ---- */

static char *trimmed(struct arena *a, const char *s) {
    size_t n = s ? strlen(s) : 0;
    while (n && isspace((unsigned char)s[n - 1])) n--;
    while (n && isspace((unsigned char)*s)) s++, n--;
    return arena_strndup(a, n ? s : "", n);
}

/* Values with commas, colons or line breaks go in quotes, escaped as in JSON. */
static char *quoted(struct arena *a, const char *s) {
    if (!strpbrk(s, ",:\n\"\\")) return arena_strdup(a, s);
    char *out = arena_alloc(a, 2 * strlen(s) + 3), *p = out;
    *p++ = '"';
    for (; *s; s++) {
        if (*s == '"' || *s == '\\' || *s == '\n') *p++ = '\\';
        *p++ = *s == '\n' ? 'n' : *s;
    }
    *p++ = '"';
    return out;
}

static void field(struct arena *a, char **line, const char *key, const char *value) {
    if (value && *value) *line = arena_printf(a, "%s%s%s: %s", *line, **line ? ", " : "", key, quoted(a, value));
}

static char *lora_hashes(struct arena *a, const struct recipe *r) {
    char *out = arena_strdup(a, "");
    for (size_t i = 0; i < r->n_loras; i++)
        if (r->loras[i].hash) out = arena_printf(a, "%s%s%s: %s", out, *out ? ", " : "", r->loras[i].name, r->loras[i].hash);
    return out;
}

char *recipe_format(struct arena *a, const struct recipe *r) {
    char *out = trimmed(a, r->prompt), *negative = trimmed(a, r->negative), *line = arena_strdup(a, "");
    for (size_t i = 0; i < r->n_loras; i++)
        out = arena_printf(a, "%s%s<lora:%s:%s>", out, *out ? " " : "", r->loras[i].name,
                           number_text(a, r->loras[i].strength));
    if (*negative) out = arena_printf(a, "%s\nNegative prompt: %s", out, negative);
    if (r->steps > 0) field(a, &line, "Steps", arena_printf(a, "%d", r->steps));
    field(a, &line, "Sampler", r->sampler);
    field(a, &line, "Schedule type", r->schedule);
    if (r->has_cfg) field(a, &line, "CFG scale", number_text(a, r->cfg));
    if (r->has_seed) field(a, &line, "Seed", arena_printf(a, "%llu", (unsigned long long)r->seed));
    if (r->w > 0 && r->h > 0) field(a, &line, "Size", arena_printf(a, "%dx%d", r->w, r->h));
    field(a, &line, "Model hash", r->model_hash);
    field(a, &line, "Model", r->model);
    field(a, &line, "Lora hashes", lora_hashes(a, r));
    for (size_t i = 0; i < r->n_extra; i++) field(a, &line, r->extra[i].key, r->extra[i].value);
    field(a, &line, "Version", r->version);
    return arena_printf(a, "%s\n%s", out, line);
}

/* ---- Reading ---- */

/* Reads `key: value` at *s and moves past the comma. False at the end or where nothing fits. */
static bool next_field(struct arena *a, const char **s, struct recipe_field *f) {
    const char *p = *s;
    while (*p == ' ' || *p == ',') p++;
    const char *key = p;
    while (isalnum((unsigned char)*p) || (*p && strchr(" _-/()", *p))) p++;
    if (p == key || *p != ':') return false;
    f->key = trimmed(a, arena_strndup(a, key, (size_t)(p - key)));
    p++;
    while (*p == ' ') p++;
    char *out = arena_alloc(a, strlen(p) + 1), *o = out;
    const char *begin = p;
    if (*p == '"') {
        for (p++; *p && *p != '"'; p++) {
            if (*p == '\\' && p[1]) p++;
            *o++ = *p == 'n' && p[-1] == '\\' ? '\n' : *p;
        }
        if (*p == '"') p++;
        else { /* no closing quote: an ordinary value that begins with one */
            p = begin;
            o = out;
        }
    }
    if (o == out && p == begin)
        while (*p && *p != ',') *o++ = *p++;
    *o = 0;
    while (*p && *p != ',') p++;
    f->value = trimmed(a, out);
    *s = p;
    return true;
}

static bool parse_count(const char *s, int *out) {
    char *end;
    errno = 0;
    long v = strtol(s, &end, 10);
    if (errno || end == s || *end || v < 1 || v > 1000000) return false;
    *out = (int)v;
    return true;
}

static void parse_size(struct arena *a, struct recipe *r, const char *s) {
    const char *x = strchr(s, 'x');
    int w, h;
    if (!x || !parse_count(arena_strndup(a, s, (size_t)(x - s)), &w) || !parse_count(x + 1, &h)) return;
    r->w = w;
    r->h = h;
}

static void parse_seed(struct recipe *r, const char *s) {
    char *end;
    errno = 0;
    unsigned long long v = strtoull(s, &end, 10);
    if (!isdigit((unsigned char)*s) || *end || errno) return;
    r->seed = v;
    r->has_seed = true;
}

static void parse_lora_hashes(struct arena *a, struct recipe *r, const char *s) {
    struct recipe_field f;
    while (*s && next_field(a, &s, &f))
        for (size_t i = 0; i < r->n_loras; i++)
            if (strcmp(r->loras[i].name, f.key) == 0) r->loras[i].hash = f.value;
}

static void take_field(struct arena *a, struct recipe *r, const struct recipe_field *f) {
    const char *k = f->key, *v = f->value;
    if (strcmp(k, "Steps") == 0) parse_count(v, &r->steps);
    else if (strcmp(k, "Sampler") == 0) r->sampler = v;
    else if (strcmp(k, "Schedule type") == 0) r->schedule = v;
    else if (strcmp(k, "CFG scale") == 0) r->has_cfg = parse_number(v, &r->cfg);
    else if (strcmp(k, "Seed") == 0) parse_seed(r, v);
    else if (strcmp(k, "Size") == 0) parse_size(a, r, v);
    else if (strcmp(k, "Model") == 0) r->model = v;
    else if (strcmp(k, "Model hash") == 0) r->model_hash = v;
    else if (strcmp(k, "Version") == 0) r->version = v;
    else if (strcmp(k, "Lora hashes") == 0) parse_lora_hashes(a, r, v);
    else if (r->n_extra < MAX_FIELDS) r->extra[r->n_extra++] = *f;
}

/* The last line that begins with "Steps:" or holds at least three fields; NULL without one. */
static char *settings_line(struct arena *a, char *text) {
    char *line = strrchr(text, '\n');
    line = line ? line + 1 : text;
    const char *s = line;
    struct recipe_field f;
    int n = 0;
    while (n < 3 && next_field(a, &s, &f)) n++;
    return n >= 3 || (n >= 1 && strncmp(line, "Steps:", 6) == 0) ? line : NULL;
}

bool recipe_parse(struct arena *a, const char *text, struct recipe *out, struct error *e) {
    *out = (struct recipe){.extra = arena_alloc_n(a, MAX_FIELDS, sizeof *out->extra)};
    size_t n = strlen(text);
    while (n && isspace((unsigned char)text[n - 1])) n--;
    char *copy = arena_alloc(a, n + 2);
    memcpy(copy + 1, text, n);
    copy[0] = '\n'; /* so that every line has one in front */
    char *line = settings_line(a, copy);
    if (!line) return error_set(e, "there is no recipe in the text: no line like \"Steps: 20, Sampler: Euler, ...\"");
    line[-1] = 0;
    char *prompt = line - 1 == copy ? copy : copy + 1, *negative = NULL;
    for (char *at = prompt; at; at = strchr(at, '\n')) {
        if (*at == '\n') at++;
        if (strncmp(at, "Negative prompt:", 16) != 0) {
            if (!*at) break;
            continue;
        }
        negative = at + 16;
        if (at == prompt) prompt = copy + n + 1; /* an empty text */
        else at[-1] = 0;
        break;
    }
    out->prompt = trimmed(a, recipe_cut_loras(a, prompt, &out->loras, &out->n_loras));
    out->negative = trimmed(a, negative);
    struct recipe_field f;
    for (const char *s = line; *s && next_field(a, &s, &f);) take_field(a, out, &f);
    return true;
}

void recipe_add(struct arena *a, struct recipe *r, const char *key, const char *value) {
    r->extra = arena_grow(a, r->extra, r->n_extra, r->n_extra + 1, sizeof *r->extra);
    r->extra[r->n_extra++] = (struct recipe_field){key, value};
}

const char *recipe_extra(const struct recipe *r, const char *key) {
    for (size_t i = 0; i < r->n_extra; i++)
        if (strcmp(r->extra[i].key, key) == 0) return r->extra[i].value;
    return NULL;
}
