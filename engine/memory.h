#pragma once
/* Who is on the device when, and what is done where not all fits: parts that no program uses leave; kernels that prepare
 * weights give way to those that do not; at last the weights come to the device in turn. */
#include "engine/engine.h"

/* What a program and the weights of its part take on the device. */
struct memory_choice {
    bool no_prepare, streamed;
    int64_t weight_bytes, away_bytes; /* of the part: on the device; with the host */
    int64_t ring_bytes, activation_bytes, io_bytes, prepared_bytes;
};
static inline int64_t memory_choice_bytes(const struct memory_choice *c) {
    return c->weight_bytes + c->ring_bytes + c->activation_bytes + c->io_bytes + c->prepared_bytes;
}
/* Bytes of a part's weights when all are there. */
int64_t memory_part_bytes(const struct engine *e, enum engine_part part);
/* What is free, or becomes free when parts that nobody uses leave; `part` itself counts as gone unless it is in use. */
int64_t memory_left(const struct engine *e, enum engine_part part);
/* The fastest way that takes at most `left` bytes; the tape must be pruned. False with what would be needed. */
bool memory_choose(struct engine *e, struct graph *g, enum engine_part part, int64_t left, const char *name, const char *hint,
                   struct memory_choice *out, struct error *err);
/* Loads the part as chosen; others leave as far as needed for that and for the rest of the choice. */
bool memory_load(struct engine *e, enum engine_part part, const struct memory_choice *c, struct error *err);
/* Unused parts leave until so much is free, or none is left. */
void memory_make_room(struct engine *e, enum engine_part except, int64_t bytes);
/* While a program uses a part it stays. */
static inline void memory_pin(struct engine *e, enum engine_part part) { e->pins[part]++; }
static inline void memory_unpin(struct engine *e, enum engine_part part) { e->pins[part]--; }
