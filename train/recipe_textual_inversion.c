/* A new word and nothing else: its vector is learnt through the model as it is. Paper: Gal et al., An Image is Worth One Word,
 * 2022; peer: diffusers' textual_inversion.py, whose settings these are. */
#include "train/recipe.h"
#include "train/trainer.h"

static const struct recipe_default defaults[] = {
    {"kind", "none"}, {"steps", "3000"}, {"batch", "4"}, {"lr", "0.002"}, {"lr-schedule", "constant"}, {0},
};

static bool prepare(struct train_params *p, const struct model *m, struct error *e) {
    if (p->kind != TRAIN_NONE)
        return error_set(
            e, "--recipe textual-inversion learns words alone; --recipe pivotal learns a LoRA with them.");
    return p->n_words > 0 || error_set(e, "--recipe textual-inversion needs the new word: --token "
                                          "'<new1>=cat', which your captions have.");
}

const struct recipe recipe_textual_inversion = {
    "textual-inversion", "a new word for what the pictures show, without a LoRA", defaults, prepare};
