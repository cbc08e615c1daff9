/* B-LoRA: one picture, learnt in two places of the UNet that can be used apart afterwards, one for what is shown and one
 * for how. Paper: Frenkel et al. 2024, whose settings these are. */
#include "engine/adapter.h"
#include "lora/split.h"
#include "train/recipe.h"
#include "train/trainer.h"

static const struct recipe_default defaults[] = {
    {"steps", "1000"}, {"batch", "1"}, {"rank", "0"}, {"targets", "attn"}, {"lr", "5e-05"}, {"lr-schedule", "constant"}, {0},
};

/* Rank 64 for SDXL's 1280 channels, and as much of a smaller model. */
static bool prepare(struct train_params *p, const struct model *m, struct error *e) {
    struct lora_model layers = adapter_lora_model(m);
    struct lora_split places;
    if (!lora_split_find(&layers, &places, e)) return false;
    if (!p->blocks) p->blocks = places.both;
    int channels = m->unet.up[0].channels, rank = (channels * 64 / 1280 + 3) / 4 * 4;
    if (!p->rank) p->rank = rank < 4 ? 4 : rank > 1024 ? 1024 : rank;
    return true;
}

const struct recipe recipe_b_lora = {"b-lora", "one picture's content and style, to be used apart (B-LoRA)", defaults, prepare};
