#pragma once
/* What the UNet is told at every step of one picture, and how its answers become one prediction. The UNet looks at `images`
 * pairs of context and strengths at once; plain guidance is two of them. Text editing, AND and strengths that change only
 * change which pair stands where. */
#include "engine/prompt.h"

/* How several LoRAs act together (Zhong et al., Multi-LoRA Composition for Image Generation, 2024). */
enum guide_compose {
    GUIDE_SUM,       /* all at once, their changes added */
    GUIDE_SWITCH,    /* one at a time, the next one after every `every` steps, round and round */
    GUIDE_COMPOSITE, /* every one by itself in each step, and the mean of their guided predictions */
};
/* A strength in the course of the steps: from..to over the steps from share `begin` to share `end` of all, 0 elsewhere. */
struct guide_course {
    float from, to, begin, end; /* factors on the strength; {1,1,0,1} is constant */
};

/* A part of the picture with a prompt and strengths of its own. */
struct guide_region {
    const char *prompt;
    const float *strength; /* [n_adapters] */
    const float *map;      /* [map_h][map_w], 0..1: how much the region covers each part of the picture */
    int map_w, map_h;      /* any size; the latent's is the finest that counts */
};
enum { GUIDE_MAX_REGIONS = UNET_MAX_PARTS - 1 };
/* What regions do. In both, the prompt's own part is what they leave, and where maps add up to more than 1 they are scaled
 * down. */
enum guide_regions {
    /* Every image looks at all prompts, each in its part (Gu et al., Mix-of-Show, 2023, section 3.3), and LoRAs act on the
     * rows of the features that their region covers. One look at the picture, whatever the number of regions. */
    GUIDE_ATTENTION,
    /* Every prompt predicts the whole picture; the predictions are joined by the maps (MultiDiffusion, Bar-Tal 2023). */
    GUIDE_PREDICTIONS,
};

struct guide_params {
    const char *prompt, *negative; /* negative NULL: not given (prompter_encode) */
    enum prompt_style style;
    int n_steps;
    float cfg, rescale;
    bool guided;           /* with a negative prompt; else the prompt alone */
    int n_adapters;
    const float *strength; /* [n_adapters]; LoRAs of strength 0 take no part in switch and composite */
    const struct guide_course *courses; /* [n_adapters]; NULL: constant */
    enum guide_compose compose;
    int every; /* switch */
    const struct guide_region *regions; /* only with GUIDE_SUM */
    int n_regions;
    enum guide_regions regions_by;
    int w, h; /* of the latent */
};
struct guide {
    struct guide_params params;
    int images, tokens;
    bool joined;  /* base counts: base + cfg*(goal - base); else goal alone */
    float **maps; /* [images], GUIDE_PREDICTIONS: the region's share of every pixel; else NULL */
    int parts;    /* contexts that every image looks at: 1, or with GUIDE_ATTENTION the prompt and the regions */
    float *shares; /* [parts][h][w]; NULL where parts is 1 */
    bool part_strengths; /* parts have different ones */
    struct prompt_context *contexts;
    int n_contexts;
    int *context_of;    /* [n_steps][parts][images] */
    float *strengths;   /* [n_steps][images][n_adapters]; with part_strengths [n_steps][parts][n_adapters] */
    float *base, *goal; /* [images]: shares of each answer in the two that guidance joins, base + cfg*(goal - base) */
};
/* Encodes what the steps need. Everything lives in `a`. LoRAs on the text encoders act there with the strength of the first
 * step in which they are on; in switch, composite and regions each by itself. False, with a sentence, if switch or composite
 * have fewer than two LoRAs. */
bool guide_create(struct prompter *p, const struct guide_params *params, struct arena *a, struct guide *out, struct error *err);
/* Whether the UNet must be told anew at `step` (from 0), having been told for step `before` (-1: nothing). */
bool guide_changes_context(const struct guide *g, int before, int step);
bool guide_changes_strength(const struct guide *g, int before, int step);
/* What to tell it: strengths [guide_strength_rows][n_adapters], one row for every image, or part; of a part context
 * [images][tokens][dim]; pooled [images][pooled_dim], the prompt's own, with part 0. */
int guide_strength_rows(const struct guide *g);
const float *guide_strengths(const struct guide *g, int step);
void guide_fill(const struct guide *g, const struct model *m, int step, int part, float *context, float *pooled);
/* Whether images of both can be in one batch: equally many tokens and parts, and parts of the same strengths. */
bool guide_goes_with(const struct guide *a, const struct guide *b);
/* answers [images][n] -> out [n]; out and scratch [n] must not overlap answers. */
void guide_combine(const struct guide *g, const float *answers, size_t n, float *scratch, float *out);
