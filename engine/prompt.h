#pragma once
/* Prompts to what the UNet looks at: parsed in a style, cut into windows, encoded, weighted, joined. What was encoded is
 * kept while the strengths of LoRAs on the text encoders stay the same. Belongs to the engine's thread. */
#include "engine/adapter.h"
#include "textenc/embedding.h"
#include "textenc/prompt.h"

struct prompter_params {
    enum prompt_style style;
    /* As A1111 counts, from the last layer of the original model: 1 is SD1's own, 2 that of SD2 and SDXL. 0: the model's. */
    int clip_skip;
    const struct adapter *adapter; /* NULL: none */
    const struct embedding_list *words; /* learnt words, for the model's text encoders; NULL: none. Must outlive the prompter */
};
struct prompt_context {
    const float *rows;                   /* [tokens][model_context_dim] */
    const float *pooled;                 /* [model_pooled_dim] */
    const int32_t *ids[MODEL_MAX_TEXTS]; /* [tokens] */
    int tokens;                          /* a multiple of the window */
};
struct prompter;
/* NULL with a sentence if the model has not that many layers to skip. */
struct prompter *prompter_create(struct engine *e, const struct prompter_params *p, struct error *err);
void prompter_destroy(struct prompter **p);

/* Forgets what was encoded: LoRA or words have other numbers now. */
void prompter_forget(struct prompter *p);

/* Whether strengths matter: there is a LoRA on a text encoder. */
bool prompter_heeds_strength(const struct prompter *p);

/* Encodes n prompts. Shorter ones are filled up with windows of the empty prompt to the longest, as A1111's option "pad prompt
 * and negative prompt" and compel do. A text of NULL is a negative prompt that was not given: zeros where the model wants that
 * (SDXL), else "". strength [adapters]. Results live in `a`. What one window could not take is logged. */
bool prompter_encode(struct prompter *p, const char *const *texts, int n, const float *strength, struct arena *a,
                     struct prompt_context *out, struct error *err);
