/* A1111's prompt editing, alternation and AND. */
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "textenc/prompt.h"

enum { MAX_DEPTH = 30 };
enum node_kind { NODE_TEXT, NODE_EDIT, NODE_ALTERNATE };

/* A sequence is a list linked by `next`. */
struct node {
    enum node_kind kind;
    const char *text; /* NODE_TEXT */
    size_t bytes;
    struct node **options; /* NODE_EDIT: before, after; NODE_ALTERNATE: all */
    int n_options, when;
    struct node *next;
};
struct parser {
    struct arena *a;
    const char *s;
    int depth, n_steps;
};
struct sequence {
    struct node *first, **tail;
};

static struct node *add(struct parser *p, struct sequence *q, enum node_kind kind) {
    struct node *n = arena_alloc(p->a, sizeof *n);
    n->kind = kind;
    *q->tail = n;
    q->tail = &n->next;
    return n;
}

static void add_text(struct parser *p, struct sequence *q, const char *text, size_t bytes) {
    struct node *n = add(p, q, NODE_TEXT);
    n->text = text, n->bytes = bytes;
}

static void append(struct sequence *q, const struct sequence *tail) {
    if (!tail->first) return;
    *q->tail = tail->first;
    q->tail = tail->tail;
}

static void sequence_parse(struct parser *p, struct sequence *q);

static struct node *sub(struct parser *p, struct sequence *q) {
    q->first = NULL;
    q->tail = &q->first;
    sequence_parse(p, q);
    return q->first;
}

/* "(x)" or "(x:y)": text, but what is inside counts. */
static bool round_parse(struct parser *p, struct sequence *q) {
    struct sequence first, second = {0};
    p->s++;
    sub(p, &first);
    bool two = *p->s == ':';
    if (two) p->s++, sub(p, &second);
    if (*p->s != ')') return false;
    p->s++;
    add_text(p, q, "(", 1);
    append(q, &first);
    if (two) add_text(p, q, ":", 1), append(q, &second);
    add_text(p, q, ")", 1);
    return true;
}

/* " 0.5 ]" at s: bytes of it, or 0. */
static size_t when_end(const char *s, const struct parser *p, int *when) {
    const char *c = s;
    while (isspace((unsigned char)*c)) c++;
    const char *number = c;
    if (*c == '+' || *c == '-') c++;
    if (!isdigit((unsigned char)*c) && !(*c == '.' && isdigit((unsigned char)c[1]))) return 0;
    char *end;
    double v = strtod(number, &end);
    if (strpbrk(number, "xX") && strpbrk(number, "xX") < end) return 0;
    if (memchr(number, '.', (size_t)(end - number))) v *= p->n_steps;
    *when = v >= p->n_steps ? p->n_steps : v < 1 ? 0 : (int)v;
    for (c = end; isspace((unsigned char)*c);) c++;
    return *c == ']' ? (size_t)(c + 1 - s) : 0;
}

/* After "[x": ":3]" or ":y:3]". */
static bool edit_parse(struct parser *p, struct sequence *q, struct node *x) {
    struct node *before = NULL, *after = x;
    int when;
    size_t bytes = when_end(p->s + 1, p, &when);
    if (bytes) p->s += 1 + bytes;
    else {
        struct sequence y;
        p->s++;
        before = x, after = sub(p, &y);
        if (*p->s != ':' || !(bytes = when_end(p->s + 1, p, &when))) return false;
        p->s += 1 + bytes;
    }
    struct node *n = add(p, q, NODE_EDIT);
    n->options = arena_alloc(p->a, 2 * sizeof *n->options);
    n->options[0] = before, n->options[1] = after, n->n_options = 2, n->when = when;
    return true;
}

/* After "[x": "|y|z]". */
static bool alternate_parse(struct parser *p, struct sequence *q, struct node *x) {
    struct node **options = arena_alloc(p->a, sizeof *options);
    int n = 1, cap = 1;
    options[0] = x;
    while (*p->s == '|') {
        struct sequence y;
        p->s++;
        if (n == cap) options = arena_grow(p->a, options, (size_t)n, (size_t)n * 2, sizeof *options), cap *= 2;
        options[n++] = sub(p, &y);
    }
    if (*p->s != ']') return false;
    p->s++;
    struct node *node = add(p, q, NODE_ALTERNATE);
    node->options = options, node->n_options = n;
    return true;
}

static bool square_parse(struct parser *p, struct sequence *q) {
    struct sequence x;
    p->s++;
    sub(p, &x);
    if (*p->s == ':') return edit_parse(p, q, x.first);
    if (*p->s == '|') return alternate_parse(p, q, x.first);
    if (*p->s != ']') return false;
    p->s++;
    add_text(p, q, "[", 1);
    append(q, &x);
    add_text(p, q, "]", 1);
    return true;
}

/* Up to a bracket that closes or does not fit, a colon, a bar or the end. */
static void sequence_parse(struct parser *p, struct sequence *q) {
    p->depth++;
    for (;;) {
        size_t plain = strcspn(p->s, "\\[]():|");
        if (plain) add_text(p, q, p->s, plain), p->s += plain;
        else if (*p->s == '\\' && p->s[1]) add_text(p, q, p->s, 2), p->s += 2;
        else if ((*p->s == '(' || *p->s == '[') && p->depth < MAX_DEPTH) {
            const char *start = p->s;
            if (*start == '(' ? round_parse(p, q) : square_parse(p, q)) continue;
            p->s = start;
            break;
        } else break;
    }
    p->depth--;
}

/* The whole text; brackets that do not fit stand for themselves. False: a bar or a backslash that fits nowhere. */
static bool text_parse(struct parser *p, struct sequence *q) {
    for (;;) {
        sequence_parse(p, q);
        if (!*p->s) return true;
        if (!strchr("[]():", *p->s)) return false;
        add_text(p, q, p->s++, 1);
    }
}

static size_t text_at(const struct node *n, int step, char *dst) {
    size_t bytes = 0;
    for (; n; n = n->next) {
        char *to = dst ? dst + bytes : NULL;
        if (n->kind == NODE_TEXT) {
            if (to) memcpy(to, n->text, n->bytes);
            bytes += n->bytes;
        } else if (n->kind == NODE_EDIT) bytes += text_at(n->options[step > n->when], step, to);
        else bytes += text_at(n->options[(step - 1) % n->n_options], step, to);
    }
    return bytes;
}

/* ends[k]: step k is some text's last. */
static void mark_ends(const struct node *n, int n_steps, bool *ends) {
    for (; n; n = n->next) {
        if (n->kind == NODE_EDIT && n->when >= 1) ends[n->when] = true;
        for (int i = 1; n->kind == NODE_ALTERNATE && i <= n_steps; i++) ends[i] = true;
        for (int i = 0; i < n->n_options; i++) mark_ends(n->options[i], n_steps, ends);
    }
}

int prompt_schedule(struct arena *a, const char *text, int n_steps, struct prompt_stage **out) {
    struct arena *scratch = arena_create(a);
    struct parser p = {.a = scratch, .s = text, .n_steps = n_steps};
    struct sequence q = {NULL, &q.first};
    bool fits = text_parse(&p, &q), *ends = arena_alloc(scratch, (size_t)n_steps + 1);
    if (fits) mark_ends(q.first, n_steps, ends);
    ends[n_steps] = true;
    *out = arena_alloc_n(a, (size_t)n_steps, sizeof **out);
    int n = 0;
    for (int step = 1; step <= n_steps; step++) {
        if (!ends[step]) continue;
        char *own = fits ? arena_alloc(a, text_at(q.first, step, NULL) + 1) : arena_strdup(a, text);
        if (fits) text_at(q.first, step, own);
        (*out)[n++] = (struct prompt_stage){step, own};
    }
    arena_destroy(&scratch);
    return n;
}

/* ---- AND ---- */

static bool is_word_byte(char c) { return isalnum((unsigned char)c) || c == '_' || (unsigned char)c >= 0x80; }

static const char *find_and(const char *text, const char *s) {
    for (const char *p = s; (p = strstr(p, "AND")); p++)
        if ((p == text || !is_word_byte(p[-1])) && !is_word_byte(p[3])) return p;
    return s + strlen(s);
}

/* A weight at the end, ": 0.7"; white space before it goes. */
static struct prompt_term term(struct arena *a, const char *s, size_t bytes) {
    struct prompt_term t = {NULL, 1};
    size_t end = bytes;
    while (end && isspace((unsigned char)s[end - 1])) end--;
    size_t first = end;
    while (first && (isdigit((unsigned char)s[first - 1]) || s[first - 1] == '.')) first--;
    const char *dot = memchr(s + first, '.', end - first);
    bool number = end > first && !(dot && memchr(dot + 1, '.', end - first - (size_t)(dot + 1 - s - first))) &&
                  !(end - first == 1 && dot);
    if (number && first && (s[first - 1] == '+' || s[first - 1] == '-')) first--;
    size_t colon = first;
    while (colon && isspace((unsigned char)s[colon - 1])) colon--;
    if (number && colon && s[colon - 1] == ':') {
        double v = strtod(arena_strndup(a, s + first, end - first), NULL);
        if (isfinite(v)) t.weight = v, end = colon - 1;
        while (end && isspace((unsigned char)s[end - 1])) end--;
    }
    t.text = arena_strndup(a, s, end);
    return t;
}

int prompt_split_and(struct arena *a, const char *text, struct prompt_term **out) {
    int n = 1;
    for (const char *s = text; *(s = find_and(text, s)); s += 3) n++;
    *out = arena_alloc_n(a, (size_t)n, sizeof **out);
    const char *s = text;
    for (int i = 0; i < n; i++) {
        const char *end = find_and(text, s);
        (*out)[i] = term(a, s, (size_t)(end - s));
        s = end + 3;
    }
    return n;
}
