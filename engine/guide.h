#pragma once
/* What the UNet is told at every step of one picture, and how its answers become one prediction. The UNet looks at `images` pairs
 * of context and strengths at once; plain guidance is two of them. Text editing, AND and strengths that change only
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
    const float *map;      /* [pixels of the latent], 0..1: how much the region covers each */
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
    /* Every region's prompt predicts the whole picture; the predictions are joined by the maps, the prompt's own taking what is
     * left (Bar-Tal et al., MultiDiffusion, 2023). Where maps add up to more than 1 they are scaled down. Only with GUIDE_SUM. */
    const struct guide_region *regions;
    int n_regions, n_pixels;
};
struct guide {
    struct guide_params params;
    int images, tokens;
    bool joined;  /* base counts: base + cfg*(goal - base); else goal alone */
    float **maps; /* [images]: the region's share of every pixel; NULL without regions */
    struct prompt_context *contexts;
    int n_contexts;
    int *context_of;    /* [n_steps][images] */
    float *strengths;   /* [n_steps][images][n_adapters] */
    float *base, *goal; /* [images]: shares of each answer in the two that guidance joins, base + cfg*(goal - base) */
};
/* Encodes what the steps need. Everything lives in `a`. LoRAs on the text encoders act there with the strength of the first step
 * in which they are on; in switch and composite each by itself. False, with a sentence, if those two have fewer than two LoRAs. */
bool guide_create(struct prompter *p, const struct guide_params *params, struct arena *a, struct guide *out, struct error *err);
/* Whether the UNet must be told anew at `step` (from 0), having been told for step `before` (-1: nothing). */
bool guide_changes_context(const struct guide *g, int before, int step);
bool guide_changes_strength(const struct guide *g, int before, int step);
/* What to tell it: context [images][tokens][dim], pooled [images][pooled_dim]. */
void guide_fill(const struct guide *g, const struct model *m, int step, float *context, float *pooled);
/* answers [images][n] -> out [n]; out and scratch [n] must not overlap answers. */
void guide_combine(const struct guide *g, const float *answers, size_t n, float *scratch, float *out);
