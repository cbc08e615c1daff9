/* Host memory with parents: everything allocated from an arena dies with it, and so do its children.
 * Not thread-safe: one arena belongs to one thread at a time. */
#ifndef ATELIER_BASE_ARENA_H
#define ATELIER_BASE_ARENA_H

#include <stddef.h>

struct arena;

/* parent may be NULL (a root). Aborts with a message when the host is out of memory. */
struct arena *arena_create(struct arena *parent);

/* Frees the arena, its allocations and all its children; NULLs the pointer. *a may be NULL. */
void arena_destroy(struct arena **a);

/* Zeroed, aligned to 16 bytes, never NULL (also for bytes == 0). */
void *arena_alloc(struct arena *a, size_t bytes);

/* n elements of the given size, overflow-checked; otherwise as arena_alloc. */
void *arena_alloc_n(struct arena *a, size_t n, size_t elem_bytes);

/* New zero-tailed block of new_n elements starting with the old_n old ones; the old block stays in the arena. */
void *arena_grow(struct arena *a, const void *old, size_t old_n, size_t new_n, size_t elem_bytes);

char *arena_strdup(struct arena *a, const char *s);
char *arena_strndup(struct arena *a, const char *s, size_t bytes);
char *arena_printf(struct arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
