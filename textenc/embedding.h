#pragma once
/* Textual inversion: words that mean vectors learnt for them instead of rows of the token table. Files of every program
 * are read, as safetensors or as torch.save wrote them:
 *   A1111         string_to_param.* [n,width] in a .pt, or emb_params [n,width]; the word is the file's name
 *   SDXL          clip_l [n,768] and clip_g [n,1280]; the word is the file's name
 *   diffusers     tensors called like their words, [width] or [n,width]
 *   pivotal       text_encoders_0, text_encoders_1 [n,width]: words <s0>, <s1>, ...; the file's name means all of them
 *   in LoRA files kohya's bundle_emb.WORD.*, cloneofsimo's tensors that the metadata marks "<embed>"
 * (Gal et al., An Image is Worth One Word, 2022) */
#include <stdbool.h>

#include "base/error.h"

struct arena;

enum { EMBEDDING_TOWERS = 2, EMBEDDING_MAX_VECTORS = 1024 };
struct embedding {
    const char *word;
    int n;                                  /* vectors, in the order in which they stand in the text */
    const float *vectors[EMBEDDING_TOWERS]; /* [n][width] per text encoder of the model; NULL beyond the last */
};
struct embedding_list {
    struct arena *arena; /* set by the caller; owns everything here */
    struct embedding *items;
    int n, cap;
};

/* Adds a file's words for a model whose text encoders have these widths, in order. text: FILE, or WORD=FILE for a file
 * that means one word and is to be called so. False with a sentence for a file that holds no vectors, is made for other
 * widths (family names are said), lacks a text encoder's part, is not finite, or repeats a word. */
bool embedding_load(struct embedding_list *list, const char *text, const int *widths, int n_towers, struct error *e);

/* The words that a LoRA file carries along (kohya's bundle_emb, or marked in its metadata); none is no error. Words that the
 * list has already stay as they are. */
bool embedding_load_bundled(struct embedding_list *list, const char *path, const int *widths, int n_towers, struct error *e);

/* NULL where there is no such word. */
const struct embedding *embedding_find(const struct embedding_list *list, const char *word);
