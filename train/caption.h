/* Captions of comma-separated tags, varied each time they are read, as kohya's scripts do. Pure functions. */
#ifndef ATELIER_TRAIN_CAPTION_H
#define ATELIER_TRAIN_CAPTION_H

#include "base/error.h"
#include "base/rng.h"

#include <stdbool.h>
#include <stddef.h>

struct caption_params {
    bool shuffle;      /* tags in another order each time */
    int keep;          /* the first so many stay first and are never dropped */
    float tag_dropout; /* part of the other tags left out: 0..1 */
};
bool caption_params_check(const struct caption_params *p, struct error *err);
/* Whether captions change at all. */
bool caption_varies(const struct caption_params *p);

enum { CAPTION_MAX_TAGS = 1024, CAPTION_MAX_BYTES = 8192 };
/* Split at commas, trimmed, kept tags, the others shuffled and thinned, joined by ", ". What lies past the limits is
 * left out: no text encoder reads so far. */
void caption_vary(const struct caption_params *p, struct rng *dice, const char *caption, char out[CAPTION_MAX_BYTES]);

#endif
