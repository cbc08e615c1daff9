/* A style from some dozens of pictures: what people settled on for kohya's scripts. */
#include "train/recipe.h"

static const struct recipe_default defaults[] = {
    {"steps", "2000"}, {"batch", "4"}, {"rank", "32"}, {"alpha", "16"}, {"targets", "attn-mlp"}, {"lr", "0.0001"},
    {"lr-schedule", "cosine"}, {"weighting", "min-snr"}, {"flip", ""}, {0},
};

const struct recipe recipe_style = {"style", "a style from some dozens of pictures", defaults, 0};
