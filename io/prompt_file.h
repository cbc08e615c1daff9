/* A file of prompts, one a line, as kohya's trainers read them for samples:
 *
 *   # comment
 *   a fox in snow --n blurry --w 512 --h 768 --d 1 --l 7.5 --s 28 --ss euler_a
 *   a cup <lora:ink:0.8> --lora glaze.safetensors:0.5
 *
 * n: negative prompt, w and h: pixels, d: seed, l: guidance, s: steps, ss: sampler; lora is ours and may be repeated. */
#ifndef ATELIER_IO_PROMPT_FILE_H
#define ATELIER_IO_PROMPT_FILE_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct arena;

/* Absent: NULL, 0, false. */
struct prompt_line {
    int number;         /* in the file, from 1 */
    const char *prompt; /* with its <lora:...>, without options */
    const char *negative, *sampler; /* sampler: as written */
    int w, h, steps;
    bool has_seed, has_cfg;
    uint64_t seed;
    double cfg;
    const char **loras; /* FILE[:STRENGTH], as written */
    int n_loras;
};

enum { PROMPT_FILE_MAX_LINES = 10000 };

/* Texts live in a. False, with the line in the sentence, for unknown options and values out of range, for text that is not
 * UTF-8, and where there is no prompt at all. `name` serves messages. */
bool prompt_file_read(struct arena *a, const char *path, struct prompt_line **out, int *n, struct error *e);
bool prompt_file_parse(struct arena *a, const void *data, size_t bytes, const char *name, struct prompt_line **out, int *n,
                       struct error *e);
/* One such line that stands alone, `number` 0. `name`: the option that it was given with. */
bool prompt_line_parse(struct arena *a, const char *text, const char *name, struct prompt_line *out, struct error *e);

#endif
