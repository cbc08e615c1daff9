#pragma once
/* Which layers a training run adapts. */
#include "nn/target.h"

/* attn: the attention projections (diffusers' default). attn-mlp: every linear and 1x1 layer of the
 * transformers (kohya's default). all: also the convolutions, shortcuts and time projections of the
 * resnets, and the down- and upsamplers (kohya with conv_dim). cross-kv: what cross-attention makes of the text (Custom
 * Diffusion). */
enum lora_selection { LORA_SELECT_ATTN, LORA_SELECT_ATTN_MLP, LORA_SELECT_ALL, LORA_SELECT_CROSS_KV };

/* "attn", "attn-mlp", "all", "cross-kv"; false with a sentence otherwise. */
bool lora_selection_parse(const char *text, enum lora_selection *out, struct error *e);
/* Whether a UNet or text encoder layer belongs to the selection. */
bool lora_selection_has(enum lora_selection selection, const char *path);
