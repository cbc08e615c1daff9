#include "lora/split.h"

#include <string.h>

bool lora_split_check(const struct lora_model *model, struct error *e) {
    static const char *const places[] = {"up_blocks.0.attentions.0.", "up_blocks.0.attentions.1."};
    const struct nn_target_list *layers = model->targets[LORA_UNET];
    int found = 0;
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < layers->n; i++)
            if (!strncmp(layers->items[i].path, places[k], strlen(places[k]))) {
                found++;
                break;
            }
    if (found == 2) return true;
    return error_set(e, "B-LoRA splits content and style in SDXL's first up block, and this model has no attention there: "
                        "use SDXL or a model built like it.");
}
