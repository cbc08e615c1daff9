#include "nn/bind.h"

#include <stdio.h>
#include <string.h>

#include "base/text.h"

bool nn_place_set(struct nn_place *p, const char *prefix, const char *path) {
    int n = snprintf(p->name, sizeof p->name, "%s%s", prefix, path);
    p->part = p->parts = 0;
    p->transposed = false;
    return n >= 0 && (size_t)n < sizeof p->name;
}

static bool canonical(const void *ctx, const char *path, int attempt, struct nn_place *out) {
    return attempt == 0 && nn_place_set(out, "", path);
}

char *nn_shape_text(struct shape s, char *dst, size_t bytes) {
    int k = 1;
    while (k * k < s.n) k++;
    if (s.n > 1) snprintf(dst, bytes, "[%d, %d, %d, %d]", s.w, s.c, k, k);
    else if (s.w == 1) snprintf(dst, bytes, "[%d]", s.c);
    else snprintf(dst, bytes, "[%d, %d]", s.w, s.c);
    return dst;
}

bool nn_dtype_is_weight(enum st_dtype d) {
    return d == ST_F16 || d == ST_BF16 || d == ST_F32 || d == ST_F64 || d == ST_F8_E4M3 || d == ST_F8_E5M2;
}

/* Equal rows of a tensor as a tensor of its own, over the same bytes; false if they do not divide. */
static bool cut_part(struct st_tensor *t, const struct nn_place *place) {
    if (t->rank < 1 || t->dims[0] % place->parts || t->dims[0] == 0) return false;
    t->dims[0] /= place->parts;
    t->bytes /= (size_t)place->parts;
    t->data = (const uint8_t *)t->data + (size_t)place->part * t->bytes;
    return true;
}

/* Rows become columns; small tensors only (a text projection). */
static bool turn(struct arena *a, struct st_tensor *t) {
    if (t->rank != 2) return false;
    size_t size = (size_t)st_dtype_bits(t->dtype) / 8, rows = (size_t)t->dims[0], cols = (size_t)t->dims[1];
    uint8_t *dst = arena_alloc(a, t->bytes);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++)
            memcpy(dst + (c * rows + r) * size, (const uint8_t *)t->data + (r * cols + c) * size, size);
    t->dims[0] = (int64_t)cols, t->dims[1] = (int64_t)rows;
    t->data = dst;
    return true;
}

struct binding {
    struct nn_params *p;
    const struct st_file *file;
    struct nn_naming naming;
    const struct st_tensor **used;
    const char **missing, **misfit;
    int n_used, n_missing, n_misfit;
};

static const struct st_tensor *find(const struct binding *b, const char *path, struct nn_place *place, struct nn_place *first) {
    for (int attempt = 0; b->naming.place(b->naming.ctx, path, attempt, place); attempt++) {
        if (attempt == 0) *first = *place;
        const struct st_tensor *t = st_find(b->file, place->name);
        if (t) return t;
    }
    return NULL;
}

static void bind_slot(struct binding *b, int slot) {
    struct nn_params *p = b->p;
    const struct tensor_slot *s = &p->set->slots[slot];
    struct nn_place place, first = {.name = ""};
    char want[96], have[ST_SHAPE_TEXT_BYTES];
    nn_shape_text(s->shape, want, sizeof want);
    const struct st_tensor *t = find(b, s->name, &place, &first);
    if (!t) {
        b->missing[b->n_missing++] = !first.name[0] || !strcmp(first.name, s->name)
                                         ? arena_printf(p->arena, "%s %s", s->name, want)
                                         : arena_printf(p->arena, "%s %s (as %s)", s->name, want, first.name);
        return;
    }
    b->used[b->n_used++] = t;
    struct st_tensor view = *t;
    bool whole = !place.parts && !place.transposed;
    const char *shown = TEXT_SHOW(t->name);
    if (!nn_dtype_is_weight(t->dtype)) {
        b->misfit[b->n_misfit++] = arena_printf(p->arena, "%s is stored as %s; weights must be F32, F16, BF16, F64 or F8",
                                                shown, st_dtype_name(t->dtype));
        return;
    }
    if ((place.parts && !cut_part(&view, &place)) || (place.transposed && !turn(p->arena, &view)) ||
        !nn_params_fits(&view, s->shape)) {
        char whole_text[64] = "";
        if (place.parts) snprintf(whole_text, sizeof whole_text, " in each of its %d parts", place.parts);
        b->misfit[b->n_misfit++] = arena_printf(p->arena, "%s has shape %s, but the model asks for %s%s", shown,
                                                st_tensor_shape_text(t, have), want, whole_text);
        return;
    }
    if (whole) {
        p->tensors[slot] = t;
        return;
    }
    struct st_tensor *own = arena_alloc(p->arena, sizeof *own);
    *own = view;
    p->tensors[slot] = own;
}

static bool complain(const struct binding *b, struct error *e) {
    int others = b->n_missing + b->n_misfit - 1;
    const char *path = st_path(b->file);
    char more[96] = "";
    if (others > 0) snprintf(more, sizeof more, ", and so for %d more (atelier inspect lists them)", others);
    if (b->n_misfit) return error_set(e, "%s: %s%s", path, b->misfit[0], more);
    return error_set(e, "%s has no tensor %s%s; the file is not this model's or is incomplete", path, b->missing[0], more);
}

bool nn_params_bind(struct nn_params *p, const struct st_file *file, const struct nn_naming *naming,
                          struct nn_bind_report *report, struct error *e) {
    size_t n = (size_t)p->set->n_slots;
    struct binding b = {.p = p, .file = file, .naming = {canonical, NULL}};
    if (naming && naming->place) b.naming = *naming;
    p->sealed = true;
    p->tensors = arena_alloc_n(p->arena, n, sizeof *p->tensors);
    b.used = arena_alloc_n(p->arena, n, sizeof *b.used);
    b.missing = arena_alloc_n(p->arena, n, sizeof *b.missing);
    b.misfit = arena_alloc_n(p->arena, n, sizeof *b.misfit);
    for (int i = 0; i < p->set->n_slots; i++) bind_slot(&b, i);
    if (report)
        *report = (struct nn_bind_report){.used = b.used, .missing = b.missing, .misfit = b.misfit, .n_used = b.n_used,
                                          .n_missing = b.n_missing, .n_misfit = b.n_misfit};
    return b.n_missing + b.n_misfit == 0 || complain(&b, e);
}
