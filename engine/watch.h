#pragma once
/* What chosen layers read while a program runs, summed up: for every row x of a layer's input, the sum of x x', which is
 * all that least squares over those inputs needs. A watch stands between a model's builder and an adapter's hook; layers that
 * read the same value share a sum. Sums are made in f32 on the device, run by run, and added up in double here. One thread. */
#include "gpu/program.h"
#include "nn/target.h"

struct watch_layer {
    const struct nn_target *target;
    int same;     /* the first layer that reads the same value: its sum is this one's; -1 before the tape was built once */
    double *gram; /* [in][in]; NULL before watch_read, and where `same` is another layer */
};
struct watch {
    struct arena *arena;
    struct watch_layer *layers;
    int n;
    bool list_only; /* only finds out who shares what; nothing is added to the tape */
    /* Of the tape being built or run. */
    int *inputs, *outputs; /* per layer: the value that it reads; its sum, or -1 */
    const struct nn_hook *inner;
    struct nn_hook hook;
};
/* Whether a layer is a plain matrix over rows: linear, or a convolution of one pixel. Only those can be watched. */
bool watch_can(const struct nn_target *t);
struct watch *watch_create(struct arena *parent, const struct nn_target *const *targets, int n);
/* Bytes of all different sums, as far as `same` is known. */
int64_t watch_bytes(const struct watch *w);
/* The hook for a tape; inner (NULL: none) is asked first and must outlive the building. */
const struct nn_hook *watch_begin(struct watch *w, const struct nn_hook *inner);
/* After each run of that tape's program. */
void watch_read(struct watch *w, struct gpu_program *prog);
const double *watch_gram(const struct watch *w, const struct nn_target *t); /* NULL: not watched */
