/* Vocabulary lookups and the merging of one word. */
#include "textenc/tokenizer_priv.h"

#include "base/arena.h"

#include <assert.h>
#include <string.h>

/* Printable bytes stand for the character of the same number; the other 68 take U+0100 and up, in order. */
static bool is_plain_byte(int b) { return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174; }

size_t tokenizer_byte_text(uint8_t byte, char dst[2]) {
    unsigned code = byte;
    if (!is_plain_byte(byte)) {
        code = 0x100;
        for (int b = 0; b < byte; b++) code += !is_plain_byte(b);
    }
    if (code < 0x80) {
        dst[0] = (char)code;
        return 1;
    }
    dst[0] = (char)(0xc0 | code >> 6);
    dst[1] = (char)(0x80 | (code & 0x3f));
    return 2;
}

static size_t hash_text(const char *text, size_t bytes) {
    uint64_t h = 14695981039346656037ull;
    for (size_t i = 0; i < bytes; i++) h = (h ^ (uint8_t)text[i]) * 1099511628211ull;
    return (size_t)(h ^ h >> 32);
}

static size_t hash_pair(int32_t left, int32_t right) {
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15ull;
    return (size_t)(h ^ h >> 29);
}

int32_t tokenizer_lookup(const struct tokenizer *t, const char *text, size_t bytes) {
    for (size_t i = hash_text(text, bytes) & t->vocab_mask; t->vocab[i].text; i = (i + 1) & t->vocab_mask)
        if (t->vocab[i].bytes == bytes && memcmp(t->vocab[i].text, text, bytes) == 0) return t->vocab[i].id;
    return -1;
}

void tokenizer_vocab_add(struct tokenizer *t, const char *text, size_t bytes, int32_t id) {
    size_t i = hash_text(text, bytes) & t->vocab_mask;
    while (t->vocab[i].text) i = (i + 1) & t->vocab_mask;
    t->vocab[i] = (struct vocab_slot){text, (uint32_t)bytes, id};
}

static const struct merge_slot *find_merge(const struct tokenizer *t, int32_t left, int32_t right) {
    for (size_t i = hash_pair(left, right) & t->merge_mask; t->merges[i].left >= 0; i = (i + 1) & t->merge_mask)
        if (t->merges[i].left == left && t->merges[i].right == right) return &t->merges[i];
    return NULL;
}

/* The first of two equal merges counts. */
void tokenizer_merge_add(struct tokenizer *t, int32_t left, int32_t right, int32_t merged, uint32_t rank) {
    if (find_merge(t, left, right)) return;
    size_t i = hash_pair(left, right) & t->merge_mask;
    while (t->merges[i].left >= 0) i = (i + 1) & t->merge_mask;
    t->merges[i] = (struct merge_slot){left, right, merged, rank};
}

void tokenizer_fill_bytes(struct tokenizer *t) {
    for (int b = 0; b < 256; b++) {
        char text[8];
        size_t bytes = tokenizer_byte_text((uint8_t)b, text);
        memcpy(text + bytes, "</w>", 4);
        int32_t inside = tokenizer_lookup(t, text, bytes), last = tokenizer_lookup(t, text, bytes + 4);
        t->byte_id[b] = inside >= 0 ? inside : t->unk;
        t->last_byte_id[b] = last >= 0 ? last : t->unk;
    }
}

void tokenizer_push(struct id_list *out, int32_t id) {
    if (out->n == out->cap) {
        size_t cap = out->cap ? 2 * out->cap : 128;
        out->ids = arena_grow(out->arena, out->ids, out->n, cap, sizeof *out->ids);
        out->cap = cap;
    }
    out->ids[out->n++] = id;
}

/* Symbols of a word form a list; mergeable neighbours wait in a heap, lowest rank and then leftmost first. Entries
 * are not removed when a neighbour changes, but found stale when they come up. */
struct symbol {
    int32_t id; /* -1 = merged into the one before */
    int32_t before, after;
};

struct candidate {
    uint32_t rank;
    int32_t at, merged;
};

struct merger {
    const struct tokenizer *t;
    struct symbol *symbols;
    struct candidate *heap;
    size_t n_heap;
};

static bool comes_first(struct candidate a, struct candidate b) {
    return a.rank != b.rank ? a.rank < b.rank : a.at < b.at;
}

static void heap_push(struct merger *m, struct candidate c) {
    size_t i = m->n_heap++;
    for (; i && comes_first(c, m->heap[(i - 1) / 2]); i = (i - 1) / 2) m->heap[i] = m->heap[(i - 1) / 2];
    m->heap[i] = c;
}

static struct candidate heap_pop(struct merger *m) {
    struct candidate top = m->heap[0], last = m->heap[--m->n_heap];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < m->n_heap; i = child) {
        if (child + 1 < m->n_heap && comes_first(m->heap[child + 1], m->heap[child])) child++;
        if (!comes_first(m->heap[child], last)) break;
        m->heap[i] = m->heap[child];
    }
    m->heap[i] = last;
    return top;
}

static const struct merge_slot *merge_at(const struct merger *m, int32_t at) {
    const struct symbol *s = &m->symbols[at];
    if (s->id < 0 || s->after < 0) return NULL;
    return find_merge(m->t, s->id, m->symbols[s->after].id);
}

static void offer(struct merger *m, int32_t at) {
    const struct merge_slot *found = at >= 0 ? merge_at(m, at) : NULL;
    if (found) heap_push(m, (struct candidate){found->rank, at, found->merged});
}

void tokenizer_encode_word(const struct tokenizer *t, const uint8_t *word, size_t bytes, struct id_list *out) {
    if (bytes == 0) return;
    assert(bytes < INT32_MAX / 4);
    struct arena *scratch = arena_create(NULL);
    struct merger m = {.t = t};
    m.symbols = arena_alloc_n(scratch, bytes, sizeof *m.symbols);
    m.heap = arena_alloc_n(scratch, 3 * bytes, sizeof *m.heap); /* n - 1 at first, at most two more per merge */
    int32_t n = (int32_t)bytes;
    for (int32_t i = 0; i < n; i++)
        m.symbols[i] = (struct symbol){i == n - 1 ? t->last_byte_id[word[i]] : t->byte_id[word[i]], i - 1,
                                       i == n - 1 ? -1 : i + 1};
    for (int32_t i = 0; i < n; i++) offer(&m, i);
    while (m.n_heap) {
        struct candidate c = heap_pop(&m);
        const struct merge_slot *now = merge_at(&m, c.at);
        if (!now || now->merged != c.merged) continue;
        struct symbol *left = &m.symbols[c.at], *right = &m.symbols[left->after];
        left->id = c.merged;
        right->id = -1;
        left->after = right->after;
        if (left->after >= 0) m.symbols[left->after].before = c.at;
        offer(&m, left->before);
        offer(&m, c.at);
    }
    for (int32_t i = 0; i >= 0; i = m.symbols[i].after) tokenizer_push(out, m.symbols[i].id);
    arena_destroy(&scratch);
}
