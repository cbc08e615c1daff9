/* How fast this device multiplies, for estimates before long work. */
#include "engine/engine.h"
#include "base/os.h"

/* Share of one large product's rate that whole models reach; from the CPU device, the only one measured. */
static const double MODEL_SHARE = 0.5;

double engine_estimate_seconds(struct engine *e, double flops) {
    struct arena *a = arena_create(e->arena);
    struct graph *g = graph_create(a, gpu_device_storage(e->dev));
    int x = graph_io(g, "x", (struct shape){1, 1, 1024, 640}), w = graph_io(g, "w", (struct shape){1, 1, 640, 640});
    graph_output(g, "y", graph_linear(g, x, w, -1, -1));
    struct gpu_program_params p = {.name = "The speed probe"};
    struct error ignored;
    struct gpu_program *prog = gpu_program_create(e->dev, g, &p, &ignored);
    double best = 0;
    for (int i = 0; prog && i < 4; i++) { /* the first run compiles */
        double start = os_now_seconds();
        if (!gpu_program_run(prog, &ignored)) break;
        double seconds = os_now_seconds() - start;
        if (i && (!best || seconds < best)) best = seconds;
    }
    double rate = best > 0 ? gpu_graph_flops(g) / best * MODEL_SHARE : 0;
    gpu_program_destroy(&prog);
    arena_destroy(&a);
    return rate > 0 ? flops / rate : 0;
}
