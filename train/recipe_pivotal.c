/* A new word and a LoRA at once: the word says which, the LoRA draws what words alone cannot. Papers: Gal et al. 2022 and, for
 * the pivot, Roich et al. 2021; peer: diffusers' train_dreambooth_lora_sdxl_advanced.py, where both learn together too. */
#include "train/recipe.h"
#include "train/trainer.h"

static const struct recipe_default defaults[] = {
    {"steps", "1000"}, {"batch", "1"}, {"rank", "16"}, {"targets", "attn"}, {"lr", "0.0001"}, {"token-lr", "0.0003"},
    {"token-vectors", "2"}, {"lr-schedule", "constant"}, {0},
};

static bool prepare(struct train_params *p, const struct model *m, struct error *e) {
    if (p->kind == TRAIN_NONE)
        return error_set(
            e, "--recipe pivotal learns a LoRA too; --recipe textual-inversion learns words alone.");
    return p->n_words > 0 ||
           error_set(e,
                     "--recipe pivotal needs the new word: --token '<new1>=cat', which your captions have.");
}

const struct recipe recipe_pivotal = {"pivotal", "a new word and a LoRA that learn together (pivotal tuning)",
                                      defaults, prepare};
