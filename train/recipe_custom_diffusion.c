/* Keys and values of cross-attention, whole, and a word in front of the class that tells the subject from it; class pictures
 * keep the class. Paper: Kumari et al., Multi-Concept Customization of Text-to-Image Diffusion, 2023, whose settings these
 * are; peer: diffusers' train_custom_diffusion.py. */
#include "train/recipe.h"
#include "train/trainer.h"

static const struct recipe_default defaults[] = {
    {"kind", "full"},
    {"targets", "cross-kv"},
    {"steps", "250"},
    {"batch", "8"},
    {"lr", "8e-05"},
    {"lr-schedule", "constant"},
    {0},
};

static bool prepare(struct train_params *p, const struct model *m, struct error *e) {
    if (p->kind != TRAIN_FULL || p->targets != LORA_SELECT_CROSS_KV)
        return error_set(e, "--recipe custom-diffusion is --kind full on --targets cross-kv; for others do "
                            "without the recipe.");
    if (!p->n_words)
        return error_set(e, "--recipe custom-diffusion needs a word that tells the subject from its class: "
                            "--token '<new1>' and captions such as "
                            "\"<new1> cat\".");
    if (p->class_prompt || p->class_data || !(p->prior_weight > 0)) return true;
    return error_set(e, "--recipe custom-diffusion needs --class-prompt, what the subject is one of: \"cat\" "
                        "for \"<new1> cat\"; "
                        "--prior-weight 0 does without, and the class turns into the subject.");
}

const struct recipe recipe_custom_diffusion = {
    "custom-diffusion", "a subject in the keys and values of cross-attention (Custom Diffusion)", defaults,
    prepare};
