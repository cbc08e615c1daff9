/* The stack's two halves: factors (stack.c) and changes of weights (stack_dense.c). */
#ifndef ATELIER_LORA_STACK_PRIV_H
#define ATELIER_LORA_STACK_PRIV_H

#include "lora/stack.h"

/* The stack's entry for a layer or norm, made if need be. */
struct lora_stack_layer *lora_stack_layer_get(struct lora_stack *s, int model, const struct nn_target *t);

/* A slot "<model>.<layer>.<what>"; -1 with a sentence where there is no more room. */
int lora_stack_slot(struct lora_stack *s, const struct lora_stack_layer *layer, const char *what, struct shape shape,
                    struct error *e);
/* At sealing: a layer's slots, then the columns behind those of all layouts. */
bool lora_stack_place_dense(struct lora_stack *s, struct lora_stack_layer *layer, struct error *e);
void lora_stack_seal_dense(struct lora_stack *s);
bool lora_stack_read_dense(const struct lora_stack *s, int slot, float *dst, struct error *e);

#endif
