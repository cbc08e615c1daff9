/* The weights that are saved and drawn, where they are not the ones that train: a moving average takes their place
 * on the device for as long as it is looked at. */
#include <assert.h>
#include <math.h>

#include "train/trainer_priv.h"

float train_ema_decay(float most, int k) {
    if (k < 1) return 0;
    return fminf(most, (float)k / (float)(9 + k));
}

static bool read_judged(struct trainer *t, int chunk, void *room, bool *has, struct error *err) {
    *has = t->ema != NULL;
    if (t->ema) return gpu_set_read_raw(t->ema, chunk, room, err);
    return optimiser_judged(t->optimiser, chunk, room, has, err);
}

bool train_weights_show(struct trainer *t, struct error *err) {
    assert(!t->shown);
    if (t->step == 0) return true;
    struct gpu_set *data = t->adapter->data;
    int n = t->adapter->stack->set->n_chunks;
    t->shown_arena = arena_create(NULL);
    t->shown = arena_alloc_n(t->shown_arena, (size_t)n, sizeof *t->shown);
    for (int c = 0; c < n; c++) {
        size_t bytes = (size_t)gpu_set_chunk_bytes(data, c);
        void *room = arena_alloc(t->shown_arena, bytes), *kept = arena_alloc(t->shown_arena, bytes);
        bool has;
        if (!read_judged(t, c, room, &has, err)) return false;
        if (!has) return true;
        if (!gpu_set_read_raw(data, c, kept, err)) return false;
        t->shown[c] = kept;
        if (!gpu_set_write_raw(data, c, room, err)) return false;
    }
    return true;
}

bool train_weights_hide(struct trainer *t, struct error *err) {
    bool ok = true;
    for (int c = 0; t->shown && c < t->adapter->stack->set->n_chunks; c++)
        if (t->shown[c]) ok = ok && gpu_set_write_raw(t->adapter->data, c, t->shown[c], err);
    t->shown = NULL;
    arena_destroy(&t->shown_arena);
    return ok;
}
