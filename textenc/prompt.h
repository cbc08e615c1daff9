#pragma once
/* What a prompt says besides its words. Three ways of writing weights are in use, and the same text means different
 * things in them, so that the style is always stated:
 *   diffusers  none: every character is text, and what does not fit the window is dropped.
 *   a1111      (x) [x] (x:1.3) \( BREAK, windows as many as needed; [a:b:0.5], [a|b] and AND before that.
 *   compel     x++ (x y)1.3 "x y"- ("a", "b").blend(1, 2) ("a", "b").and(); one window, as compel's default.
 * Everything here is host work on text; memory comes from the arena given. Any thread. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct arena;
struct tokenizer;

enum prompt_style { PROMPT_DIFFUSERS, PROMPT_A1111, PROMPT_COMPEL, PROMPT_N_STYLES };
const char *prompt_style_name(enum prompt_style s); /* "diffusers", "a1111", "compel" */
bool prompt_style_find(const char *name, enum prompt_style *out);

/* Text of one weight. */
struct prompt_run {
    const char *text;
    double weight;
    bool is_break; /* BREAK: the window ends here; no text */
};
struct prompt_runs {
    struct prompt_run *items;
    int n;
};
/* Runs that are encoded together, and how much of the result counts. */
struct prompt_text {
    struct prompt_runs runs;
    double weight;
};
/* Texts of which one context is mixed: sum of weight * encoding. One text of weight 1 as a rule. */
struct prompt_part {
    struct prompt_text *texts;
    int n_texts;
    double weight; /* towards (above 0: away from) the empty prompt's encoding: empty + weight * (own - empty) */
};
/* Parts whose contexts stand one after the other. One as a rule. */
struct prompt {
    enum prompt_style style;
    struct prompt_part *parts;
    int n_parts;
};

/* An empty text is one empty run. Fails only for what compel knows and we do not (.swap, loras), with a sentence. */
bool prompt_parse(struct arena *a, enum prompt_style style, const char *text, struct prompt *out, struct error *e);

/* A1111's attention brackets alone; never fails. The grammar and its oddities: A1111's prompt_parser.py. */
struct prompt_runs prompt_parse_a1111(struct arena *a, const char *text);
/* compel's prompt_parser.py, version 2. */
bool prompt_parse_compel(struct arena *a, const char *text, struct prompt *out, struct error *e);

/* ---- What changes from step to step (a1111) ---- */

struct prompt_stage {
    int last; /* the last step, counted from 1, that uses the text */
    const char *text;
};
/* [from:to:when], [to:when], [from::when] and [a|b|c] resolved for n_steps steps. A `when` with a point is a share of
 * the steps, else a step. The last stage ends with n_steps. A text that does not parse is one stage as it stands. */
int prompt_schedule(struct arena *a, const char *text, int n_steps, struct prompt_stage **out);

/* "x AND y :0.5": texts and their weights, one where there is no AND. */
struct prompt_term {
    const char *text;
    double weight;
};
int prompt_split_and(struct arena *a, const char *text, struct prompt_term **out);

/* True where plain text looks as if it was meant for a1111 ("(x:1.2)", BREAK): worth a hint. */
bool prompt_looks_a1111(const char *text);

/* ---- Windows of token ids ---- */

/* A learnt word: `n` vectors in place of its name's tokens. */
struct prompt_word {
    const char *name;
    int n;
};
struct prompt_chunk_params {
    const struct tokenizer *tokenizer;
    bool split;           /* windows as many as needed (a1111); else one, and the rest is dropped */
    int comma_backtrack;  /* at most so many tokens move to the next window with the last comma; 0: 20, -1: none */
    const struct prompt_word *words;
    int n_words;
};
struct prompt_splice {
    int at;            /* position in the window */
    int word, vector;  /* which word's vector stands there */
};
struct prompt_chunk {
    int32_t *ids;   /* [window]: BOS, tokens, EOS, padding */
    float *weights; /* [window], 1 for what is no text */
    int *runs;      /* [window]: the run that a token came from, -1 for what is no text */
    bool weighted;  /* some weight is not 1 */
    struct prompt_splice *splices;
    int n_splices;
};
struct prompt_chunks {
    struct prompt_chunk *items;
    int n;
    size_t n_tokens, n_dropped; /* of the whole text; what one window could not take */
    const char *dropped;        /* beginning of that part, as decoded */
};
void prompt_chunk(struct arena *a, const struct prompt_runs *runs, const struct prompt_chunk_params *p,
                  struct prompt_chunks *out);
