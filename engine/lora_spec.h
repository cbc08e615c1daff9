/* How strongly a LoRA acts, as people write it: STRENGTH[@STEPS][:BLOCKS]
 *   0.8             always
 *   0.2..1.0        from 0.2 in the first step to 1.0 in the last
 *   0.8@0-40%       in the first 40% of the steps, else off; 0.2..1@50-100% alike
 *   0.8:IN=0,M00=2  times factors per block, by name or as 12, 17, 20 or 26 numbers (lora/blocks.h) */
#ifndef ATELIER_ENGINE_LORA_SPEC_H
#define ATELIER_ENGINE_LORA_SPEC_H

#include "engine/guide.h"

struct lora_spec {
    float strength;
    struct guide_course course; /* {1,1,0,1} where constant */
    bool has_blocks;
    struct lora_blocks blocks;
    const char *details; /* the text if it is more than a number, for recipes; else NULL */
};
/* False with a sentence; text "" is strength 1. details lives in `a`. */
bool lora_spec_parse(const char *text, struct arena *a, struct lora_spec *out, struct error *e);

#endif
