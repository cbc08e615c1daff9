/* CLIP's merges.txt as part of the program (assets/model/tokenizer, MIT licence of OpenAI's CLIP beside it). */
#ifndef ATELIER_TEXTENC_CLIP_MERGES_H
#define ATELIER_TEXTENC_CLIP_MERGES_H

#include <stddef.h>

/* Lines of "left right", the first of them a comment; lives as long as the program. */
const char *clip_merges(size_t *bytes);

#endif
