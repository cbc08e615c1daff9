#include "checkpoint/report.h"

#include <assert.h>
#include <string.h>

#include "base/arena.h"
#include "checkpoint/kind.h"

struct checkpoint_report *checkpoint_report_create(void) {
    struct arena *a = arena_create(NULL);
    struct checkpoint_report *r = arena_alloc(a, sizeof *r);
    r->arena = a;
    return r;
}

void checkpoint_report_destroy(struct checkpoint_report **p) {
    if (!*p) return;
    struct arena *a = (*p)->arena;
    *p = NULL;
    arena_destroy(&a);
}

static struct checkpoint_file_report *entry(struct checkpoint_report *r, const struct st_file *f) {
    for (int i = 0; i < r->n_files; i++)
        if (r->files[i].file == f) return &r->files[i];
    assert(r->n_files < CHECKPOINT_FILES);
    struct checkpoint_file_report *e = &r->files[r->n_files++];
    *e = (struct checkpoint_file_report){.path = arena_strdup(r->arena, st_path(f)), .n_tensors = st_count(f), .file = f,
                                         .used = arena_alloc_n(r->arena, st_count(f), sizeof *e->used)};
    return e;
}

static const char **append(struct arena *a, const char **list, int n, const char *const *more, int n_more) {
    const char **all = arena_grow(a, list, (size_t)n, (size_t)(n + n_more), sizeof *all);
    for (int i = 0; i < n_more; i++) all[n + i] = arena_strdup(a, more[i]);
    return all;
}

void checkpoint_report_bind(struct checkpoint_report *r, const struct st_file *f, const struct nn_bind_report *b) {
    struct checkpoint_file_report *e = entry(r, f);
    for (int i = 0; i < b->n_used; i++) {
        bool *used = &e->used[b->used[i] - st_at(f, 0)]; /* the tensors are one array, in file order */
        e->n_used += !*used;
        *used = true;
    }
    r->missing = append(r->arena, r->missing, r->n_missing, b->missing, b->n_missing);
    r->misfit = append(r->arena, r->misfit, r->n_misfit, b->misfit, b->n_misfit);
    r->n_missing += b->n_missing, r->n_misfit += b->n_misfit;
}

static void ignore(struct checkpoint_report *r, struct checkpoint_file_report *e, const char *name, const char *why) {
    int i = 0;
    while (i < e->n_reasons && strcmp(e->ignored[i].why, why)) i++;
    assert(i < CHECKPOINT_REASONS); /* the table of reasons has fewer texts */
    if (i == e->n_reasons) {
        e->n_reasons++;
        e->ignored[i].why = why;
        e->ignored[i].example = arena_strdup(r->arena, name);
    }
    e->ignored[i].n++;
}

void checkpoint_report_end(struct checkpoint_report *r, int last_layer) {
    for (int k = 0; k < r->n_files; k++) {
        struct checkpoint_file_report *e = &r->files[k];
        e->unknown = arena_alloc_n(r->arena, e->n_tensors - e->n_used, sizeof *e->unknown);
        for (size_t i = 0; i < e->n_tensors; i++) {
            const char *name = st_at(e->file, i)->name, *why = e->used[i] ? NULL : checkpoint_ignored(name, last_layer);
            if (why) ignore(r, e, name, why);
            else if (!e->used[i]) e->unknown[e->n_unknown++] = arena_strdup(r->arena, name);
        }
    }
}

size_t checkpoint_report_unknown(const struct checkpoint_report *r) {
    size_t n = 0;
    for (int i = 0; i < r->n_files; i++) n += r->files[i].n_unknown;
    return n;
}
