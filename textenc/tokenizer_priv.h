/* Parts of the tokenizer: tokenizer.c loads and frames, tokenizer_text.c normalises and splits, tokenizer_bpe.c merges. */
#ifndef ATELIER_TEXTENC_TOKENIZER_PRIV_H
#define ATELIER_TEXTENC_TOKENIZER_PRIV_H

#include "textenc/tokenizer.h"

#include <stdbool.h>

/* Text -> id, open addressing. */
struct vocab_slot {
    const char *text; /* NULL = free */
    uint32_t bytes;
    int32_t id;
};

/* Pair of ids -> merged id and its rank, open addressing. */
struct merge_slot {
    int32_t left, right; /* left -1 = free */
    int32_t merged;
    uint32_t rank; /* lower merges first */
};

/* A token taken out of the text before anything is split. */
struct special {
    const char *text;
    size_t bytes;
    int32_t id;
    bool normalized; /* looked for in the normalised text instead of the raw one */
};

struct tokenizer {
    struct arena *arena;
    struct vocab_slot *vocab;
    size_t vocab_mask;
    struct merge_slot *merges;
    size_t merge_mask;
    const char **token_of; /* [max_id + 1], NULL where an id is unused */
    int32_t max_id, bos, eos, pad, unk;
    size_t window;
    struct special *specials;
    size_t n_specials;
    int32_t byte_id[256], last_byte_id[256]; /* one-byte tokens, inside and at the end of a word; unk if missing */
};

struct id_list {
    struct arena *arena;
    int32_t *ids;
    size_t n, cap;
};

/* tokenizer_bpe.c */
size_t tokenizer_byte_text(uint8_t byte, char dst[2]); /* a byte's character in the vocabulary; returns its length */
int32_t tokenizer_lookup(const struct tokenizer *t, const char *text, size_t bytes); /* -1 = absent */
void tokenizer_vocab_add(struct tokenizer *t, const char *text, size_t bytes, int32_t id);
void tokenizer_merge_add(struct tokenizer *t, int32_t left, int32_t right, int32_t merged, uint32_t rank);
void tokenizer_fill_bytes(struct tokenizer *t);
void tokenizer_encode_word(const struct tokenizer *t, const uint8_t *word, size_t bytes, struct id_list *out);
void tokenizer_push(struct id_list *out, int32_t id);

/* tokenizer_text.c */
void tokenizer_encode_text(const struct tokenizer *t, const char *text, struct id_list *out);

#endif
