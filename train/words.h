/* New words for the text encoders: vectors that train, in place of rows of the token tables, which stay as they are.
 * Papers: Gal et al., An Image is Worth One Word, 2022 (textual inversion); Kumari et al., Multi-Concept Customization of
 * Text-to-Image Diffusion, 2023 (with layers that train along). Peer: diffusers' textual_inversion.py, which adds tokens
 * to the vocabulary; here too a vector's id is the vocabulary's size and more. */
#ifndef ATELIER_TRAIN_WORDS_H
#define ATELIER_TRAIN_WORDS_H

#include "base/error.h"
#include "textenc/clip_extras.h"
#include "textenc/embedding.h"

struct graph;
struct lora_stack;
struct st_writer;
struct trainer;

enum { TRAIN_MAX_WORDS = 16, TRAIN_MAX_VECTORS = 64 };

/* A word to be learned. */
struct train_word {
    const char *name; /* as captions and prompts have it; no word that the model knows */
    const char *init; /* words, of one token each, that its vectors begin as, spread over them; NULL: drawn by chance,
                       * with the spread of the model's own words */
    int n;            /* vectors, 1 to TRAIN_MAX_VECTORS */
};

/* A text encoder's inputs for them on a tape. */
struct train_words_inputs {
    int one_hot, keep, places; /* {b,1,T,vectors}, {b,1,T,width}, {b,1,T,1}; -1 without new words */
};
/* The trainer's part of it. */
struct train_words {
    struct prompt_word *names; /* as prompts are cut */
    int *first;                /* [n]: the word's first vector */
    int n, total;              /* words; vectors of all of them */
    int own[EMBEDDING_TOWERS]; /* the vectors in the stack, {1,1,width,total} */
    float *one_hot[EMBEDDING_TOWERS], *keep[EMBEDDING_TOWERS], *places; /* inputs of a batch */
};

/* Checks names and captions, finds the start, adds the vectors to the stack. Nothing to do without words. */
bool train_words_create(struct trainer *t, struct lora_stack *stack, struct error *err);
void train_words_allocate(struct trainer *t);
/* A caption as text encoder `which` sees it: a window of ids, those of the new words' vectors from the vocabulary's size on. */
struct tokenizer_cut;
void train_words_encode(const struct trainer *t, int which, const char *caption, int32_t *ids, struct tokenizer_cut *cut);
/* Inputs on the tape and what the text encoder is told with them; after the adapter is sealed. */
void train_words_build(struct trainer *t, struct graph *g, int which, struct clip_extras *extras);
/* A window of ids for slot b of the batch. dst: the same with ids of the vocabulary alone, as the table is read. */
void train_words_place(struct trainer *t, int which, int b, const int32_t *ids, float *dst);
void train_words_write(struct trainer *t);

/* The vectors as they are on the device now, for generator and files. list->arena is the caller's. */
bool train_words_read(struct trainer *t, struct embedding_list *list, struct error *err);
/* Into a LoRA file: kohya's bundle_emb. */
void train_words_bundle(const struct trainer *t, const struct embedding_list *list, struct st_writer *w);
/* Into a file of their own: tensors called like the words, as diffusers reads them and A1111 too; for two text encoders
 * clip_l and clip_g, which do not say the word: several words are then called as in a bundle. */
void train_words_save(const struct trainer *t, const struct embedding_list *list, struct st_writer *w);

#endif
