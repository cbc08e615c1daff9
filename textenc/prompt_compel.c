/* compel's prompt language: what its grammar accepts, in the order in which it tries. A fragment's weights multiply. */
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/text.h"
#include "textenc/prompt.h"

enum { MAX_DEPTH = 60 };
static const double plus_factor = 1.1, minus_factor = 0.9;
static const char syntax[] = "()\",.+-=";

struct compel {
    struct arena *a;
    const char *s, *end; /* what is being read: a prompt, or the inside of quotes */
    struct prompt_run *runs;
    int n, cap, depth;
    const char *unknown; /* something of compel's that we lack */
};

static char at(const struct compel *p, size_t i) { return p->s + i < p->end ? p->s[i] : 0; }

static void skip_space(struct compel *p) {
    while (p->s < p->end && isspace((unsigned char)*p->s)) p->s++;
}

static bool starts(const struct compel *p, const char *text) {
    size_t n = strlen(text);
    return (size_t)(p->end - p->s) >= n && !memcmp(p->s, text, n);
}

/* Escaped brackets and quotes lose their backslash; other escapes keep it, as in compel. */
static void push(struct compel *p, const char *s, size_t bytes) {
    if (p->n == p->cap) {
        int cap = p->cap ? 2 * p->cap : 16;
        p->runs = arena_grow(p->a, p->runs, (size_t)p->n, (size_t)cap, sizeof *p->runs);
        p->cap = cap;
    }
    char *text = arena_alloc(p->a, bytes + 1), *to = text;
    for (size_t i = 0; i < bytes; i++)
        if (!(s[i] == '\\' && i + 1 < bytes && strchr("()\"", s[i + 1]))) *to++ = s[i];
    p->runs[p->n++] = (struct prompt_run){text, 1, false};
}

static void multiply_from(struct compel *p, int first, double factor) {
    for (int i = first; i < p->n; i++) p->runs[i].weight *= factor;
}

/* A word without syntax in it; a sign inside a word ("well-known") is part of it. */
static bool word_parse(struct compel *p) {
    const char *start = p->s;
    for (char c; (c = at(p, 0)) && !isspace((unsigned char)c);) {
        char next = at(p, 1);
        if (c == '\\' && next && strchr(syntax, next)) p->s += 2;
        else if (c == '+' || c == '-') {
            if (!next || isspace((unsigned char)next) || strchr(syntax, next)) break;
            p->s++;
        } else if (strchr(syntax, c)) break;
        else p->s++;
    }
    if (p->s > start) push(p, start, (size_t)(p->s - start));
    return p->s > start;
}

static bool item_parse(struct compel *p, bool free_words);

static void items_parse(struct compel *p, bool free_words) {
    while (item_parse(p, free_words))
        continue;
}

static bool round_parse(struct compel *p) {
    p->s++;
    items_parse(p, false);
    skip_space(p);
    if (at(p, 0) != ')') return false;
    p->s++;
    return true;
}

/* "..." on one line: the inside is read by itself. free_words: anything may stand there. */
static bool quoted_parse(struct compel *p, bool free_words) {
    const char *start = p->s + 1, *s = start, *end = p->end;
    while (s < end && *s != '"' && *s != '\n') s += *s == '\\' && s + 1 < end && s[1] == '"' ? 2 : 1;
    if (s >= end || *s != '"') return false;
    p->s = start, p->end = s;
    skip_space(p);
    if (p->s == p->end) push(p, "", 0);
    items_parse(p, free_words);
    skip_space(p);
    bool all = p->s == p->end;
    p->s = s + 1, p->end = end;
    return all;
}

/* "1.3", ".5" or "2" at s. */
static bool number_parse(struct compel *p, double *value) {
    size_t n = 0, digits = 0;
    bool point = false;
    for (char c; (c = at(p, n)) && (isdigit((unsigned char)c) || (c == '.' && !point)); n++) {
        if (c == '.') point = true;
        else digits++;
    }
    if (!digits) return false;
    *value = strtod(arena_strndup(p->a, p->s, n), NULL);
    p->s += n;
    return isfinite(*value);
}

/* "+++", "--" or, where a number may stand, "1.3". */
static bool factor_parse(struct compel *p, bool number, double *factor) {
    char sign = at(p, 0);
    if (sign == '+' || sign == '-') {
        int n = 0;
        while (at(p, 0) == sign) p->s++, n++;
        *factor = pow(sign == '+' ? plus_factor : minus_factor, n);
        return true;
    }
    return number && number_parse(p, factor);
}

static bool attend_parse(struct compel *p, double *factor) {
    const char *start = p->s;
    skip_space(p);
    if (starts(p, ".swap")) p->unknown = ".swap()";
    if (starts(p, ".attend")) {
        p->s += 7;
        skip_space(p);
        if (at(p, 0) == '(') {
            p->s++;
            skip_space(p);
            if (factor_parse(p, true, factor)) {
                skip_space(p);
                if (at(p, 0) == ')') return p->s++, true;
            }
        }
    }
    p->s = start;
    return false;
}

/* One fragment with its weight. Inside brackets only commas and points are free; elsewhere any word is. */
static bool item_parse(struct compel *p, bool free_words) {
    skip_space(p);
    const char *start = p->s, *end = p->end;
    int first = p->n;
    char c = at(p, 0);
    if (!c || p->unknown) return false;
    if (starts(p, "withLora(") || starts(p, "useLora(")) return p->unknown = "withLora()", false;
    p->depth++;
    bool enclosed = p->depth < MAX_DEPTH && ((c == '"' && quoted_parse(p, false)) || (c == '(' && round_parse(p)));
    p->depth--;
    if (!enclosed) p->s = start, p->end = end, p->n = first;
    double factor;
    if (enclosed || (c != '"' && c != '(' && word_parse(p))) {
        if (attend_parse(p, &factor) || factor_parse(p, enclosed, &factor)) return multiply_from(p, first, factor), true;
        if (enclosed || !free_words) return true;
        p->s = start, p->n = first;
    }
    if (!free_words && c != ',' && c != '.') return false;
    do p->s++;
    while (free_words && p->s < p->end && !isspace((unsigned char)*p->s));
    push(p, start, (size_t)(p->s - start));
    return true;
}

/* Adjacent fragments of one weight join with a space between. */
static struct prompt_runs fuse(struct compel *p) {
    struct prompt_runs out = {arena_alloc_n(p->a, (size_t)p->n + 1, sizeof *out.items), 0};
    for (int i = 0, next; i < p->n; i = next) {
        size_t bytes = 0;
        for (next = i; next < p->n && p->runs[next].weight == p->runs[i].weight; next++)
            bytes += strlen(p->runs[next].text) + 1;
        char *text = arena_alloc(p->a, bytes + 1), *to = text;
        for (int k = i; k < next; k++) {
            size_t own = strlen(p->runs[k].text);
            if (k > i) *to++ = ' ';
            memcpy(to, p->runs[k].text, own);
            to += own;
        }
        out.items[out.n++] = (struct prompt_run){text, p->runs[i].weight, false};
    }
    if (!out.n) out.items[out.n++] = (struct prompt_run){"", 1, false};
    p->runs = NULL, p->n = p->cap = 0;
    return out;
}

struct weights {
    double *items;
    int n;
    bool raw; /* no_normalize */
};

/* The arguments of .blend and .and, up to the bracket. */
static bool weights_parse(struct compel *p, struct weights *w) {
    for (;; p->s++) {
        skip_space(p);
        double v, sign = at(p, 0) == '-' ? -1 : 1;
        if (starts(p, "no_normalize")) p->s += 12, w->raw = true;
        else if (at(p, 0) != ')' || w->n) {
            if (sign < 0) p->s++;
            if (!number_parse(p, &v)) return false;
            w->items = arena_grow(p->a, w->items, (size_t)w->n, (size_t)w->n + 1, sizeof *w->items);
            w->items[w->n++] = sign * v;
        }
        skip_space(p);
        if (at(p, 0) == ')') return p->s++, true;
        if (at(p, 0) != ',') return false;
    }
}

/* One of the prompts in ("a", "b"): quoted, in brackets, or a word. */
static bool member_parse(struct compel *p, struct prompt_text *out) {
    skip_space(p);
    const char *start = p->s, *end = p->end;
    bool ok = at(p, 0) == '"' ? quoted_parse(p, false) : at(p, 0) == '(' ? round_parse(p) : word_parse(p);
    if (!ok && *start == '"') {
        p->s = start, p->end = end, p->n = 0;
        ok = quoted_parse(p, true);
    }
    if (ok) *out = (struct prompt_text){fuse(p), 1};
    return ok;
}

/* ("a", "b").blend(1, 2) or .and(): the texts and weights; `op` is what was there. False: something else. */
static bool list_parse(struct compel *p, struct prompt_text **texts, int *n, struct weights *w, const char **op) {
    skip_space(p);
    if (at(p, 0) != '(') return false;
    do {
        p->s++;
        *texts = arena_grow(p->a, *texts, (size_t)*n, (size_t)*n + 1, sizeof **texts);
        if (!member_parse(p, &(*texts)[*n])) return false;
        (*n)++;
        skip_space(p);
    } while (at(p, 0) == ',');
    if (at(p, 0) != ')') return false;
    p->s++;
    *op = starts(p, ".blend(") ? ".blend" : starts(p, ".and(") ? ".and" : starts(p, ".add(") ? ".add" : NULL;
    if (!*op) return false;
    p->s += strlen(*op) + 1;
    return weights_parse(p, w);
}

static bool make_blend(struct arena *a, struct prompt_text *texts, int n, const struct weights *w, struct prompt *out,
                       struct error *e) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += texts[i].weight = w->n ? w->items[i] : 1;
    if (sum == 0 && !w->raw) return error_set(e, "The weights of .blend(...) add up to 0; change one, or add no_normalize.");
    for (int i = 0; i < n && !w->raw; i++) texts[i].weight /= sum;
    *out = (struct prompt){PROMPT_COMPEL, arena_alloc(a, sizeof *out->parts), 1};
    out->parts[0] = (struct prompt_part){texts, n, 1};
    return true;
}

static void make_and(struct arena *a, struct prompt_text *texts, int n, const struct weights *w, struct prompt *out) {
    *out = (struct prompt){PROMPT_COMPEL, arena_alloc_n(a, (size_t)n, sizeof *out->parts), n};
    for (int i = 0; i < n; i++) out->parts[i] = (struct prompt_part){&texts[i], 1, w->n ? w->items[i] : 1};
}

/* compel reads "a,b" as "a, b". */
static char *spaced(struct arena *a, const char *text) {
    char *out = arena_alloc(a, 2 * strlen(text) + 1), *to = out;
    for (; *text; text++) {
        *to++ = *text;
        if (*text == ',' && text[1] && !isspace((unsigned char)text[1])) *to++ = ' ';
    }
    return out;
}

bool prompt_parse_compel(struct arena *a, const char *text, struct prompt *out, struct error *e) {
    char *own = spaced(a, text);
    struct compel p = {.a = a, .s = own, .end = own + strlen(own)};
    struct prompt_text *texts = NULL;
    struct weights w = {0};
    const char *op = NULL;
    int n = 0;
    if (list_parse(&p, &texts, &n, &w, &op)) {
        skip_space(&p);
        if (p.s < p.end)
            return error_set(e, "Nothing may follow %s(...) in a compel prompt, but \"%s\" does.", op, TEXT_SHOW(p.s));
        if (w.n && w.n != n) return error_set(e, "%s(...) has %d weights for %d prompts.", op, w.n, n);
        if (strcmp(op, ".blend")) make_and(a, texts, n, &w, out);
        else if (!make_blend(a, texts, n, &w, out, e)) return false;
    } else {
        p = (struct compel){.a = a, .s = own, .end = own + strlen(own), .unknown = p.unknown};
        items_parse(&p, true);
        *out = (struct prompt){PROMPT_COMPEL, arena_alloc(a, sizeof *out->parts), 1};
        struct prompt_text *t = arena_alloc(a, sizeof *t);
        *t = (struct prompt_text){fuse(&p), 1};
        out->parts[0] = (struct prompt_part){t, 1, 1};
    }
    if (p.unknown)
        return error_set(e, "The prompt uses compel's %s, which is not here; for LoRAs write <lora:name:0.8> or give --lora.",
                         p.unknown);
    return true;
}
