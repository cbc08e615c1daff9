/* Where a command that only reads and writes LoRA files gets the names of layers from: --model, or a family's usual layers. */
#ifndef ATELIER_APP_LAYERS_H
#define ATELIER_APP_LAYERS_H

#include "engine/skeleton.h"

struct layers {
    struct model *model;       /* NULL without --model */
    struct skeleton *skeleton; /* NULL with it */
    struct lora_model names;
};
/* model NULL: the only family that all the LoRA files fit. */
bool layers_open(struct layers *l, const char *model, const char *const *loras, int n, struct error *e);
void layers_close(struct layers *l);

#endif
