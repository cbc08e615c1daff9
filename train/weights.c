/* The weights that are saved and drawn, where they are not the ones that train: a moving average takes their place
 * on the device for as long as it is looked at. */
#include <assert.h>
#include <math.h>

#include "train/trainer_priv.h"

float train_ema_decay(float most, int k) {
    if (k < 1) return 0;
    return fminf(most, (float)k / (float)(9 + k));
}

/* One bank's bytes over the adapter's. */
static bool put(struct trainer *t, int chunk, struct gpu_set *from, void *room, struct error *err) {
    return gpu_set_read_raw(from, chunk, room, err) && gpu_set_write_raw(t->adapter->data, chunk, room, err);
}

bool train_weights_show(struct trainer *t, struct error *err) {
    assert(!t->shown);
    if (!t->ema || t->step == 0) return true;
    struct gpu_set *data = t->adapter->data;
    int n = t->adapter->stack->set->n_chunks;
    t->shown_arena = arena_create(NULL);
    t->shown = arena_alloc_n(t->shown_arena, (size_t)n, sizeof *t->shown);
    for (int c = 0; c < n; c++) {
        size_t bytes = (size_t)gpu_set_chunk_bytes(data, c);
        t->shown[c] = arena_alloc(t->shown_arena, bytes);
        if (!gpu_set_read_raw(data, c, t->shown[c], err) || !put(t, c, t->ema, arena_alloc(t->shown_arena, bytes), err)) return false;
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
