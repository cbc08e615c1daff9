#pragma once
/* Parts of the text tower that only some prompts need. */
#include "textenc/clip_build.h"

/* Learnt words: rows of the token table with some of them replaced, then positions. */
int clip_embed_own(struct graph *g, int ids, int tokens, int positions, const struct clip_extras *x);

/* Causal attention in which some keys are not looked at. The mask is one more channel of every head: queries hold 1
 * there, keys 0 or CLIP_UNSEEN, so that no kernel needs to know of masks. */
int clip_attention_unseen(struct graph *g, const struct clip_config *cfg, int q, int k, int v, float scale,
                          const struct clip_extras *x);
