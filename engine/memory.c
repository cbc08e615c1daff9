#include "engine/memory.h"

#include <assert.h>

#include "base/log.h"

enum { SLACK_BYTES = 1 << 16 }; /* rounding of the few buffers that a program takes */

static double mib(int64_t bytes) { return (double)bytes / 1048576; }

int64_t memory_part_bytes(const struct engine *e, enum engine_part part) {
    const struct tensor_set *s = engine_part_params(e, part)->set;
    int64_t n = 0;
    for (int i = 0; i < s->n_chunks; i++) n += s->chunk_texels[i] * (int64_t)tensor_texel_bytes(s->dtype) + 512;
    return n;
}

int64_t memory_left(const struct engine *e, enum engine_part part) {
    int64_t left = gpu_device_memory_total(e->dev) - gpu_device_memory_used(e->dev) - e->reserved_bytes;
    for (int i = 0; i < ENGINE_PARTS; i++)
        if (e->parts[i] && (!e->pins[i] || i == (int)part)) left += gpu_set_bytes(e->parts[i]);
    return left;
}

void memory_make_room(struct engine *e, enum engine_part except, int64_t bytes) {
    static const enum engine_part order[] = {ENGINE_TEXT_2, ENGINE_TEXT, ENGINE_VAE, ENGINE_UNET};
    for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
        if (gpu_device_memory_total(e->dev) - gpu_device_memory_used(e->dev) >= bytes) return;
        if (order[i] == except || !e->parts[order[i]] || e->pins[order[i]]) continue;
        log_debug("%s leaves the device", engine_part_params(e, order[i])->set->name);
        engine_unload(e, order[i]);
    }
}

static bool measure(struct engine *e, struct graph *g, bool no_prepare, struct memory_choice *c, struct gpu_memory_use *use,
                    struct error *err) {
    struct gpu_program_params p = {.no_prepare = no_prepare, .force_kernel = e->params.force_kernel};
    if (!gpu_program_measure(e->dev, g, &p, use, err)) return false;
    c->no_prepare = no_prepare;
    c->activation_bytes = use->activations, c->io_bytes = use->io, c->prepared_bytes = use->prepared;
    return true;
}

/* Weights of a set that stay on the device in any case (gpu_set_create_streamed). */
static int64_t least_resident(struct engine *e, enum engine_part part) {
    return gpu_set_streamed_least(engine_part_params(e, part)->set);
}

static bool stream(struct engine *e, struct graph *g, enum engine_part part, int64_t left, struct memory_choice *c) {
    int64_t all = memory_part_bytes(e, part), least = least_resident(e, part);
    int64_t ring = gpu_program_ring_least(g, engine_part_params(e, part)->set);
    int64_t spare = left - (c->activation_bytes + c->io_bytes + least + ring);
    if (spare < 0) return false;
    c->streamed = true;
    c->ring_bytes = ring + (spare / 8 < ring ? spare / 8 : ring); /* larger pieces, fewer waits; the rest stays put */
    c->weight_bytes = least + spare - (c->ring_bytes - ring);
    c->away_bytes = all - c->weight_bytes;
    return true;
}

/* The part is in use: it stays as it is. */
static bool beside(struct engine *e, enum engine_part part, int64_t left, struct graph *g, struct memory_choice *c,
                   struct gpu_memory_use *use, struct error *err) {
    c->weight_bytes = gpu_set_bytes(e->parts[part]);
    c->streamed = gpu_set_is_streamed(e->parts[part]);
    if (c->streamed) c->ring_bytes = gpu_program_ring_least(g, engine_part_params(e, part)->set);
    if (!measure(e, g, c->streamed, c, use, err)) return false;
    return memory_choice_bytes(c) <= left || measure(e, g, true, c, use, err);
}

bool memory_choose(struct engine *e, struct graph *g, enum engine_part part, int64_t left, const char *name, const char *hint,
                   struct memory_choice *c, struct error *err) {
    struct gpu_memory_use use;
    *c = (struct memory_choice){0};
    left -= SLACK_BYTES;
    if (e->pins[part] && e->parts[part]) {
        if (!beside(e, part, left, g, c, &use, err)) return false;
    } else {
        c->weight_bytes = memory_part_bytes(e, part);
        if (!measure(e, g, false, c, &use, err)) return false;
        if (memory_choice_bytes(c) > left && !measure(e, g, true, c, &use, err)) return false;
        if (memory_choice_bytes(c) > left && stream(e, g, part, left, c)) return true;
    }
    if (memory_choice_bytes(c) <= left) return true;
    int64_t ring = gpu_program_ring_least(g, engine_part_params(e, part)->set);
    int64_t least = c->activation_bytes + c->io_bytes + ring + least_resident(e, part) + SLACK_BYTES;
    return error_set(err, "%s needs at least %.1f MiB on %s, with weights coming in turn, and %.1f MiB are free; most is live "
                          "at %s (%s). %s", name, mib(least), gpu_device_name(e->dev), mib(left), use.peak_label, use.peak_op,
                     hint ? hint : "Allow more with --memory.");
}

bool memory_load(struct engine *e, enum engine_part part, const struct memory_choice *c, struct error *err) {
    bool as_it_is = e->parts[part] && (e->pins[part] || gpu_set_is_streamed(e->parts[part]) == c->streamed);
    if (as_it_is && c->streamed && !e->pins[part] && gpu_set_bytes(e->parts[part]) > c->weight_bytes) as_it_is = false;
    if (e->parts[part] && !as_it_is) engine_unload(e, part);
    int64_t loaded = e->parts[part] ? gpu_set_bytes(e->parts[part]) : 0;
    memory_make_room(e, part, memory_choice_bytes(c) - (as_it_is ? loaded : 0) + SLACK_BYTES);
    if (as_it_is) return true;
    if (!c->streamed) return engine_load(e, part, err);
    log_info("%s: %.0f of %.0f MiB stay on the device, the rest comes in turn (slower)", engine_part_params(e, part)->set->name,
             mib(c->weight_bytes), mib(c->weight_bytes + c->away_bytes));
    return engine_load_streamed(e, part, c->weight_bytes, err);
}
