/* CLIP's byte-level BPE tokenizer, from the files of a diffusers tokenizer folder (vocab.json, merges.txt, and, if
 * present, tokenizer_config.json and special_tokens_map.json). Gives the ids that Hugging Face's CLIPTokenizer gives.
 * A loaded tokenizer does not change; any thread may use it. */
#ifndef ATELIER_TEXTENC_TOKENIZER_H
#define ATELIER_TEXTENC_TOKENIZER_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct arena;
struct tokenizer;

/* NULL and a sentence when a file is missing or does not hang together (files may be hostile). */
struct tokenizer *tokenizer_load(const char *dir, struct error *e);
/* CLIP's own vocabulary, which the program carries, for model files without a tokenizer. Pads with the end token
 * (Stable Diffusion 1, SDXL's first) or with id 0, "!" (Stable Diffusion 2, SDXL's second). */
struct tokenizer *tokenizer_clip(bool pad_with_zero);
void tokenizer_destroy(struct tokenizer **t);

/* Positions of the text encoder: BOS, tokens, EOS, padding. 77 for every Stable Diffusion. */
size_t tokenizer_window(const struct tokenizer *t);
int32_t tokenizer_bos(const struct tokenizer *t);
int32_t tokenizer_eos(const struct tokenizer *t);
int32_t tokenizer_pad(const struct tokenizer *t);
int32_t tokenizer_max_id(const struct tokenizer *t); /* the token embedding needs more rows than this */

/* The id of one token spelled as in vocab.json ("cat</w>"), or -1. */
int32_t tokenizer_find(const struct tokenizer *t, const char *token);

/* Ids without BOS, EOS and padding. Stores at most max of them and returns how many the text has. Bytes that are not
 * UTF-8 count as U+FFFD. */
size_t tokenizer_encode(const struct tokenizer *t, const char *text, int32_t *ids, size_t max);

/* What tokenizer_encode_window could not place. */
struct tokenizer_cut {
    size_t n_tokens;  /* of the whole text, without BOS and EOS */
    size_t n_dropped; /* the last ones; 0 = all fit */
    char text[256];   /* beginning of the dropped part, as decoded; for a warning */
};

/* Fills the window: BOS, the first window - 2 tokens, EOS, padding. cut may be NULL. */
void tokenizer_encode_window(const struct tokenizer *t, const char *text, int32_t *ids, struct tokenizer_cut *cut);

/* Text of some ids, words separated by spaces; memory from a. Unknown ids give nothing. */
char *tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, struct arena *a);

#endif
