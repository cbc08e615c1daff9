/* Parts of lora/convert.c. */
#ifndef ATELIER_LORA_CONVERT_PRIV_H
#define ATELIER_LORA_CONVERT_PRIV_H

#include "lora/convert.h"

/* What goes into one file. */
struct lora_conversion {
    const struct lora_file *file;
    const struct lora_keys *keys;
    const struct lora_module **modules; /* of all parts that go along */
    int n;
    struct arena *arena;
    struct error *e;
};

/* Why PEFT's LoRA cannot hold a module, as a clause; NULL where it can. */
const char *lora_peft_cannot(const struct lora_module *m, struct arena *a);
bool lora_convert_diffusers(const struct lora_conversion *c, const char *out);
bool lora_convert_peft(const struct lora_conversion *c, const char *out);

/* The tensor of a slot under a new name, its dimensions as a layer of that sort has them. */
void lora_convert_tensor(struct st_writer *w, const struct lora_module *m, const struct st_tensor *t, const char *name);
/* A module's tensor by the slot's name; NULL if it has none. */
const struct st_tensor *lora_convert_slot(const struct lora_module *m, const char *slot);

#endif
