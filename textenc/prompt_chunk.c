/* Weighted text to windows of token ids, as A1111 fills them. */
#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "base/arena.h"
#include "textenc/prompt.h"
#include "textenc/tokenizer.h"

/* One position to be filled. */
struct item {
    int32_t id;
    float weight;
    int run, word, vector; /* word -1: an ordinary token */
};
struct name_ids {
    int32_t *ids;
    size_t n;
};
struct filler {
    struct arena *a;
    const struct prompt_chunk_params *p;
    struct prompt_chunks *out;
    struct name_ids *names; /* per word */
    struct item *items;     /* [room]: the window being filled */
    int n, room, last_comma;
    int32_t comma;
};

static void put(struct prompt_chunk *c, int at, const struct item *it) {
    c->ids[at] = it->id, c->weights[at] = it->weight, c->runs[at] = it->run;
    if (it->weight != 1) c->weighted = true;
    if (it->word >= 0) c->splices[c->n_splices++] = (struct prompt_splice){at, it->word, it->vector};
}

static void close_window(struct filler *f) {
    const struct tokenizer *t = f->p->tokenizer;
    size_t window = tokenizer_window(t);
    struct prompt_chunks *out = f->out;
    out->items = arena_grow(f->a, out->items, (size_t)out->n, (size_t)out->n + 1, sizeof *out->items);
    struct prompt_chunk *c = &out->items[out->n++];
    c->ids = arena_alloc_n(f->a, window, sizeof *c->ids);
    c->weights = arena_alloc_n(f->a, window, sizeof *c->weights);
    c->runs = arena_alloc_n(f->a, window, sizeof *c->runs);
    c->splices = arena_alloc_n(f->a, window, sizeof *c->splices);
    for (int i = 0; i < (int)window; i++) {
        int32_t id = i == 0 ? tokenizer_bos(t) : i == f->n + 1 ? tokenizer_eos(t) : tokenizer_pad(t);
        put(c, i, i > 0 && i <= f->n ? &f->items[i - 1] : &(struct item){id, 1, -1, -1, 0});
    }
    f->n = 0;
    f->last_comma = -1;
}

/* What follows the last comma moves to the next window, if that is not much. */
static void backtrack(struct filler *f, int limit) {
    int kept = f->last_comma + 1, moved = f->n - kept;
    if (limit <= 0 || f->n < f->room || f->last_comma < 0 || f->n - f->last_comma > limit) return;
    struct item *tail = arena_alloc_n(f->a, (size_t)moved + 1, sizeof *tail);
    memcpy(tail, f->items + kept, (size_t)moved * sizeof *tail);
    f->n = kept;
    close_window(f);
    memcpy(f->items, tail, (size_t)moved * sizeof *tail);
    f->n = moved;
}

/* The word whose name stands at ids, the longest where several do; -1 for none. */
static int word_at(const struct filler *f, const int32_t *ids, size_t n) {
    int found = -1;
    for (int w = 0; w < f->p->n_words; w++) {
        const struct name_ids *name = &f->names[w];
        if (!name->n || name->n > n || memcmp(name->ids, ids, name->n * sizeof *ids)) continue;
        if (found < 0 || name->n > f->names[found].n) found = w;
    }
    return found;
}

static int32_t *tokens(struct arena *a, const struct tokenizer *t, const char *text, size_t *n) {
    *n = tokenizer_encode(t, text, NULL, 0);
    int32_t *ids = arena_alloc_n(a, *n + 1, sizeof *ids);
    tokenizer_encode(t, text, ids, *n);
    return ids;
}

/* A word's vectors stay in one window. Their ids do not count: the vectors replace the embeddings. */
static void add_word(struct filler *f, int word, float weight, int run) {
    int n = f->p->words[word].n;
    if (n > f->room) n = f->room;
    if (f->n + n > f->room) close_window(f);
    for (int v = 0; v < n; v++) f->items[f->n++] = (struct item){0, weight, run, word, v};
}

static void add_text(struct filler *f, const char *text, const struct prompt_run *r, int index) {
    int limit = f->p->comma_backtrack ? f->p->comma_backtrack : 20;
    size_t n;
    int32_t *ids = tokens(f->a, f->p->tokenizer, text, &n);
    for (size_t i = 0; i < n;) {
        if (ids[i] == f->comma) f->last_comma = f->n;
        else backtrack(f, limit);
        if (f->n == f->room) close_window(f);
        int word = word_at(f, ids + i, n - i);
        if (word >= 0) {
            add_word(f, word, (float)r->weight, index);
            f->out->n_tokens += (size_t)f->p->words[word].n;
            i += f->names[word].n;
        } else {
            f->items[f->n++] = (struct item){ids[i++], (float)r->weight, index, -1, 0};
            f->out->n_tokens++;
        }
    }
}

/* Punctuation runs into what stands beside it and makes other tokens of it: "<new1>," ends in ">,". A name that begins
 * and ends so is therefore looked for in the text, as in diffusers. Returns its place and length; NULL for none. */
static const char *find_mark(const struct filler *f, const char *text, size_t *length) {
    const char *first = NULL;
    for (int w = 0; w < f->p->n_words; w++) {
        const char *name = f->p->words[w].name;
        size_t n = strlen(name);
        if (!n || !ispunct((unsigned char)name[0]) || !ispunct((unsigned char)name[n - 1])) continue;
        const char *at = text;
        while (*at && strncasecmp(at, name, n) != 0) at++;
        if (*at && (!first || at < first || (at == first && n > *length))) first = at, *length = n;
    }
    return first;
}

static void add_run(struct filler *f, const struct prompt_run *r, int index) {
    const char *text = r->text, *mark;
    size_t length = 0;
    while ((mark = find_mark(f, text, &length))) {
        add_text(f, arena_strndup(f->a, text, (size_t)(mark - text)), r, index);
        add_text(f, arena_strndup(f->a, mark, length), r, index);
        text = mark + length;
    }
    add_text(f, text, r, index);
}

/* One window only: the rest is counted and shown. */
static void keep_first(struct filler *f) {
    struct prompt_chunks *out = f->out;
    size_t room = (size_t)f->room, cap = 64, n = 0;
    int32_t *rest = arena_alloc_n(f->a, cap, sizeof *rest);
    for (int c = 1; c < out->n; c++)
        for (size_t i = 1; i <= room && n < cap; i++)
            if (out->items[c].runs[i] >= 0) rest[n++] = out->items[c].ids[i];
    size_t kept = 0;
    for (size_t i = 1; i <= room; i++) kept += out->items[0].runs[i] >= 0;
    out->n_dropped = out->n_tokens - kept;
    out->dropped = tokenizer_decode(f->p->tokenizer, rest, n, f->a);
    out->n = 1;
}

void prompt_chunk(struct arena *a, const struct prompt_runs *runs, const struct prompt_chunk_params *p,
                  struct prompt_chunks *out) {
    *out = (struct prompt_chunks){.dropped = ""};
    struct prompt_chunk_params own = *p;
    if (!p->split) own.comma_backtrack = -1;
    struct filler f = {.a = a, .p = &own, .out = out, .room = (int)tokenizer_window(p->tokenizer) - 2, .last_comma = -1,
                       .comma = tokenizer_find(p->tokenizer, ",</w>")};
    f.items = arena_alloc_n(a, (size_t)f.room, sizeof *f.items);
    f.names = arena_alloc_n(a, (size_t)p->n_words + 1, sizeof *f.names);
    for (int w = 0; w < p->n_words; w++) f.names[w].ids = tokens(a, p->tokenizer, p->words[w].name, &f.names[w].n);
    for (int i = 0; i < runs->n; i++) {
        if (runs->items[i].is_break) close_window(&f);
        else add_run(&f, &runs->items[i], i);
    }
    if (f.n || !out->n) close_window(&f);
    if (!p->split && out->n > 1) keep_first(&f);
}
