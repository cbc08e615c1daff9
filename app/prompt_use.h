/* How `atelier generate` reads prompts: style, clip skip, learnt words; as options and in recipes. */
#ifndef ATELIER_APP_PROMPT_USE_H
#define ATELIER_APP_PROMPT_USE_H

#include "app/options.h"
#include "io/recipe.h"
#include "textenc/embedding.h"
#include "textenc/prompt.h"

struct model;

struct prompt_use {
    const char *style; /* set before parsing: prompt_use_defaults */
    int clip_skip;     /* 0: the model's own */
    struct option_list embeddings;
    struct embedding_list words; /* once loaded */
    const char *hashes;          /* "word: hash, ..." for the recipe, or NULL */
};
void prompt_use_defaults(struct prompt_use *u);
struct option_table prompt_use_table(struct prompt_use *u);
enum prompt_style prompt_use_style(const struct prompt_use *u);

struct lora_file;
/* Reads the embedding files for the model's text encoders, then the words that the n LoRA files carry along; everything lives
 * in `a`. */
bool prompt_use_load(struct prompt_use *u, const struct model *m, struct lora_file *const *loras, int n, struct arena *a,
                     struct error *e);

/* Fields for a recipe, and back. `given` tells which options the user gave; files of learnt words are looked for in dir. A
 * recipe of another program is in A1111's style. */
void prompt_use_write(const struct prompt_use *u, struct arena *a, struct recipe *r);
struct prompt_use_given {
    bool style, clip_skip, embeddings;
};
bool prompt_use_read(struct prompt_use *u, struct arena *a, const struct recipe *r, const struct prompt_use_given *given,
                     const char *dir, struct error *e);

#endif
