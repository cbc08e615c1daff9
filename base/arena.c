#include "base/arena.h"

#include <assert.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_BYTES = 16384, BIG_BYTES = BLOCK_BYTES / 4 };

/* Header of a malloc'd block; payload follows at a 16-byte boundary. */
struct block {
    struct block *next;
    size_t pad;
};

struct arena {
    struct arena *parent, *child, *prev, *next; /* siblings form a doubly linked list */
    struct block *blocks;
    uint8_t *at;
    size_t left;
};

static void *must(void *p, size_t bytes) {
    if (!p) {
        fprintf(stderr, "atelier: out of host memory: could not get %zu bytes; close other programs or use smaller sizes\n",
                bytes);
        abort();
    }
    return p;
}

struct arena *arena_create(struct arena *parent) {
    struct arena *a = must(calloc(1, sizeof *a), sizeof *a);
    a->parent = parent;
    if (parent) {
        a->next = parent->child;
        if (a->next) a->next->prev = a;
        parent->child = a;
    }
    return a;
}

/* Children are unlinked by their parent's death, so only the top of a dying tree touches its siblings. */
static void destroy_tree(struct arena *a) {
    while (a->child) {
        struct arena *c = a->child;
        a->child = c->next;
        destroy_tree(c);
    }
    while (a->blocks) {
        struct block *b = a->blocks;
        a->blocks = b->next;
        free(b);
    }
    free(a);
}

void arena_destroy(struct arena **pa) {
    struct arena *a = *pa;
    if (!a) return;
    *pa = NULL;
    if (a->prev) a->prev->next = a->next;
    else if (a->parent) a->parent->child = a->next;
    if (a->next) a->next->prev = a->prev;
    destroy_tree(a);
}

static uint8_t *block_add(struct arena *a, size_t bytes) {
    struct block *b = must(calloc(1, sizeof *b + bytes), bytes);
    b->next = a->blocks;
    a->blocks = b;
    return (uint8_t *)(b + 1);
}

void *arena_alloc(struct arena *a, size_t bytes) {
    assert(a);
    if (bytes > SIZE_MAX / 2) must(NULL, bytes);
    bytes = bytes ? (bytes + 15) & ~(size_t)15 : 16;
    if (bytes > BIG_BYTES) return block_add(a, bytes);
    if (bytes > a->left) {
        a->at = block_add(a, BLOCK_BYTES);
        a->left = BLOCK_BYTES;
    }
    void *p = a->at;
    a->at += bytes;
    a->left -= bytes;
    return p;
}

void *arena_alloc_n(struct arena *a, size_t n, size_t elem_bytes) {
    size_t bytes;
    if (__builtin_mul_overflow(n, elem_bytes, &bytes)) must(NULL, SIZE_MAX);
    return arena_alloc(a, bytes);
}

void *arena_grow(struct arena *a, const void *old, size_t old_n, size_t new_n, size_t elem_bytes) {
    assert(new_n >= old_n);
    void *p = arena_alloc_n(a, new_n, elem_bytes);
    if (old_n) memcpy(p, old, old_n * elem_bytes);
    return p;
}

char *arena_strndup(struct arena *a, const char *s, size_t bytes) {
    char *p = arena_alloc(a, bytes + 1);
    memcpy(p, s, bytes);
    return p;
}

char *arena_strdup(struct arena *a, const char *s) { return arena_strndup(a, s, strlen(s)); }

char *arena_printf(struct arena *a, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    assert(n >= 0);
    char *p = arena_alloc(a, (size_t)n + 1);
    va_start(ap, fmt);
    vsnprintf(p, (size_t)n + 1, fmt, ap);
    va_end(ap);
    return p;
}
