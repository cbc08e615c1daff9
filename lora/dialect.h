/* How files spell the tensors of a module. */
#ifndef ATELIER_LORA_DIALECT_H
#define ATELIER_LORA_DIALECT_H

#include <stdbool.h>

struct arena;

/* A tensor's name taken apart. */
struct lora_key {
    const char *module;  /* normalised, as lora_keys_find wants it; memory from the arena */
    const char *kind;    /* "lora", "loha", ...; NULL for what several kinds have: alpha, bias, magnitude */
    const char *slot;    /* one of the kind's slots, or "alpha" */
    const char *dialect; /* whose spelling it is; NULL where several share it */
    int precedence;      /* where a module's tensors name several kinds, the highest is meant */
};

/* False for a name that belongs to no adapter known. */
bool lora_key_parse(const char *name, struct lora_key *out, struct arena *a);

/* The other way round: what a slot's tensor ends in, as PEFT or else kohya and LyCORIS write it (".hada_w1_a"); NULL where
 * they have no such tensor. */
const char *lora_key_ending(const char *kind, const char *slot, bool peft);

#endif
