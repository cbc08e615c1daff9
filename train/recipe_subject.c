/* DreamBooth as a LoRA: a few pictures of one subject under a rare word, and pictures of its class that the model drew
 * itself, so that it goes on drawing them. Paper: Ruiz et al. 2022; peer: diffusers' train_dreambooth_lora. */
#include "train/trainer.h"
#include "train/recipe.h"

static const struct recipe_default defaults[] = {
    {"steps", "1000"}, {"batch", "1"}, {"rank", "16"}, {"targets", "attn-mlp"}, {"lr", "0.0001"}, {"lr-schedule", "constant"},
    {0},
};

static bool prepare(struct train_params *p, const struct model *m, struct error *e) {
    (void)m;
    if (p->class_prompt || p->class_data || !(p->prior_weight > 0)) return true;
    return error_set(e, "--recipe subject needs --class-prompt, what the subject is one of: \"dog, flat\" for \"sks dog, "
                        "flat\"; --prior-weight 0 does without, and the class turns into the subject.");
}

const struct recipe recipe_subject = {"subject", "one subject from a few pictures, beside its class (DreamBooth)", defaults,
                                      prepare};
