#include "lora/split.h"

#include <string.h>

#include "lora/blocks.h"

/* Block of the layers below a path; -1: there are none. */
static int block_below(const struct lora_model *model, const char *path) {
    const struct nn_target_list *layers = model->targets[LORA_UNET];
    struct unet_ldm ldm;
    size_t n = strlen(path);
    lora_ldm_measure(&ldm, layers);
    for (int i = 0; i < layers->n; i++)
        if (!strncmp(layers->items[i].path, path, n) && layers->items[i].path[n] == '.')
            return lora_block_of(&ldm, LORA_UNET, layers->items[i].path);
    return -1;
}

bool lora_split_find(const struct lora_model *model, struct lora_split *out, struct error *e) {
    static const struct lora_split xl = {{"up_blocks.0.attentions.0", "up_blocks.0.attentions.1"},
                                         "up_blocks.0.attentions.0,up_blocks.0.attentions.1", {0}};
    static const struct lora_split other = {{"up_blocks.0.attentions.1", "up_blocks.1.attentions.0"},
                                            "up_blocks.0.attentions.1,up_blocks.1.attentions.0", {0}};
    *out = model->targets[LORA_TEXT_2] ? xl : other;
    bool found = true;
    for (int i = 0; i < LORA_SPLIT_PARTS; i++) found &= (out->block[i] = block_below(model, out->path[i])) >= 0;
    if (found) return true;
    return error_set(e, "B-LoRA splits content and style in SDXL's first up block, and this model has no attention there: "
                        "use SDXL or a model built like it.");
}
