/* Styles, and A1111's attention brackets. */
#include "textenc/prompt.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"

static const char *const style_names[PROMPT_N_STYLES] = {"diffusers", "a1111", "compel"};

const char *prompt_style_name(enum prompt_style s) { return style_names[s]; }

bool prompt_style_find(const char *name, enum prompt_style *out) {
    for (int i = 0; i < PROMPT_N_STYLES; i++)
        if (!strcmp(style_names[i], name)) return *out = (enum prompt_style)i, true;
    return false;
}

/* ---- A1111 ---- */

static const double round_factor = 1.1, square_factor = 1 / 1.1;

struct run_list {
    struct arena *a;
    struct prompt_run *items;
    int n, cap;
};

static void push(struct run_list *l, const char *text, size_t bytes, double weight, bool is_break) {
    if (l->n == l->cap) {
        int cap = l->cap ? 2 * l->cap : 16;
        l->items = arena_grow(l->a, l->items, (size_t)l->n, (size_t)cap, sizeof *l->items);
        l->cap = cap;
    }
    l->items[l->n++] = (struct prompt_run){arena_strndup(l->a, text, bytes), weight, is_break};
}

static void multiply_from(struct run_list *l, int first, double factor) {
    for (int i = first; i < l->n; i++) l->items[i].weight *= factor;
}

/* A letter, digit or underscore of any alphabet: what a word boundary has on one side. */
static bool is_word_byte(char c) { return isalnum((unsigned char)c) || c == '_' || (unsigned char)c >= 0x80; }

static const char *find_break(const char *s, const char *end) {
    for (const char *p = s; end - p >= 5; p++)
        if (!strncmp(p, "BREAK", 5) && (p == s || !is_word_byte(p[-1])) && (end - p == 5 || !is_word_byte(p[5]))) return p;
    return NULL;
}

/* Plain text; BREAK takes the white space round it along. */
static void push_plain(struct run_list *l, const char *s, size_t bytes) {
    const char *end = s + bytes;
    for (const char *at; (at = find_break(s, end));) {
        const char *stop = at;
        while (stop > s && isspace((unsigned char)stop[-1])) stop--;
        push(l, s, (size_t)(stop - s), 1, false);
        push(l, "BREAK", 5, -1, true);
        for (s = at + 5; s < end && isspace((unsigned char)*s);) s++;
    }
    push(l, s, (size_t)(end - s), 1, false);
}

/* ":1.3)" at s: bytes of it, or 0. */
static size_t weight_end(const char *s, double *weight) {
    const char *p = s + 1;
    while (isspace((unsigned char)*p)) p++;
    const char *digits = p;
    if (*p == '+' || *p == '-') p++;
    const char *first = p;
    while (isdigit((unsigned char)*p) || *p == '.') p++;
    char *end;
    *weight = strtod(digits, &end);
    if (p == first || end != p || !isfinite(*weight)) return 0; /* "1.2.3" is no number; A1111 stops there */
    while (isspace((unsigned char)*p)) p++;
    return *p == ')' ? (size_t)(p + 1 - s) : 0;
}

/* Brackets that are open: where their contents begin. */
struct open_list {
    int *first;
    int n;
};

static char *concatenate(struct arena *a, const struct prompt_run *r, int n) {
    size_t bytes = 0;
    for (int i = 0; i < n; i++) bytes += strlen(r[i].text);
    char *text = arena_alloc(a, bytes + 1), *p = text;
    for (int i = 0; i < n; i++) {
        size_t own = strlen(r[i].text);
        memcpy(p, r[i].text, own);
        p += own;
    }
    return text;
}

/* Adjacent runs of one weight become one. A BREAK inside brackets has another weight than -1 and is text by then. */
static struct prompt_runs join(struct run_list *l) {
    struct prompt_runs out = {arena_alloc_n(l->a, (size_t)l->n + 1, sizeof *out.items), 0};
    for (int i = 0, next; i < l->n; i = next) {
        struct prompt_run *r = &l->items[i];
        r->is_break &= r->weight == -1;
        for (next = i + 1; next < l->n && !r->is_break && l->items[next].weight == r->weight; next++)
            if (l->items[next].is_break && r->weight == -1) break;
        out.items[out.n++] = (struct prompt_run){concatenate(l->a, r, next - i), r->weight, r->is_break};
    }
    if (!out.n) out.items[out.n++] = (struct prompt_run){"", 1, false};
    return out;
}

struct prompt_runs prompt_parse_a1111(struct arena *a, const char *text) {
    size_t length = strlen(text);
    struct run_list l = {.a = a};
    struct open_list rounds = {arena_alloc_n(a, length + 1, sizeof(int)), 0},
                     squares = {arena_alloc_n(a, length + 1, sizeof(int)), 0};
    for (const char *s = text; *s;) {
        double weight = 0;
        size_t bytes = 1, weighted = *s == ':' ? weight_end(s, &weight) : 0;
        if (*s == '\\') {
            if (s[1] && strchr("()[]\\", s[1])) bytes = 2;
            push(&l, s + 1, bytes - 1, 1, false);
        } else if (*s == '(') rounds.first[rounds.n++] = l.n;
        else if (*s == '[') squares.first[squares.n++] = l.n;
        else if (weighted && rounds.n) multiply_from(&l, rounds.first[--rounds.n], weight), bytes = weighted;
        else if (*s == ')' && rounds.n) multiply_from(&l, rounds.first[--rounds.n], round_factor);
        else if (*s == ']' && squares.n) multiply_from(&l, squares.first[--squares.n], square_factor);
        else {
            bytes = weighted ? weighted : *s == ')' || *s == ']' || *s == ':' ? 1 : strcspn(s, "\\()[]:");
            push_plain(&l, s, bytes);
        }
        s += bytes;
    }
    for (int i = 0; i < rounds.n; i++) multiply_from(&l, rounds.first[i], round_factor);
    for (int i = 0; i < squares.n; i++) multiply_from(&l, squares.first[i], square_factor);
    return join(&l);
}

bool prompt_looks_a1111(const char *text) {
    double weight;
    for (const char *s = strchr(text, ':'); s; s = strchr(s + 1, ':'))
        if (weight_end(s, &weight) && memchr(text, '(', (size_t)(s - text))) return true;
    return find_break(text, text + strlen(text)) != NULL;
}

bool prompt_parse(struct arena *a, enum prompt_style style, const char *text, struct prompt *out, struct error *e) {
    if (style == PROMPT_COMPEL) return prompt_parse_compel(a, text, out, e);
    *out = (struct prompt){style, arena_alloc(a, sizeof *out->parts), 1};
    out->parts[0] = (struct prompt_part){arena_alloc(a, sizeof(struct prompt_text)), 1, 1};
    struct prompt_text *t = &out->parts[0].texts[0];
    t->weight = 1;
    if (style == PROMPT_A1111) t->runs = prompt_parse_a1111(a, text);
    else {
        t->runs = (struct prompt_runs){arena_alloc(a, sizeof(struct prompt_run)), 1};
        t->runs.items[0] = (struct prompt_run){arena_strdup(a, text), 1, false};
    }
    return true;
}
