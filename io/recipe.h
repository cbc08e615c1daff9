/* How a picture was made, as the text that A1111 and its peers put under "parameters" in a PNG:
 *
 *   a fox <lora:ink:0.8>
 *   Negative prompt: blurry
 *   Steps: 20, Sampler: Euler a, Schedule type: Karras, CFG scale: 7, Seed: 1, Size: 128x128, ...
 */
#ifndef ATELIER_IO_RECIPE_H
#define ATELIER_IO_RECIPE_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct arena;

struct recipe_lora {
    const char *name; /* file name without folder and extension */
    double strength;
    const char *hash; /* NULL = unknown; 12 hex digits as a rule */
    const char *details; /* STRENGTH[@STEPS][:BLOCKS] where there is more than a number (engine/lora_spec.h), else NULL */
    bool has_strength; /* `strength` counts, not the one in `details`; recipe_parse and recipe_cut_loras set it for numbers */
};

struct recipe_field {
    const char *key, *value;
};

/* Absent: NULL, 0, false. Strings live in the arena that made the recipe (or with the caller). */
struct recipe {
    const char *prompt, *negative; /* the prompt without <lora:...> */
    struct recipe_lora *loras;
    size_t n_loras;
    int steps, w, h;
    bool has_cfg, has_seed;
    double cfg;
    uint64_t seed;
    const char *sampler, *schedule; /* as written in the text */
    const char *model, *model_hash, *version;
    struct recipe_field *extra; /* fields with other names, in order */
    size_t n_extra;
};

/* Text for the PNG. Line breaks at the ends of prompts are dropped, since the form cannot keep them. */
char *recipe_format(struct arena *a, const struct recipe *r);

/* Reads such a text, also from other programs: unknown fields go to extra, odd values are left absent. Fails only if
 * there is no line of settings at all. */
bool recipe_parse(struct arena *a, const char *text, struct recipe *out, struct error *e);

/* One more extra field; the texts must live as long as the recipe. */
void recipe_add(struct arena *a, struct recipe *r, const char *key, const char *value);

/* Value of an extra field, NULL without one. */
const char *recipe_extra(const struct recipe *r, const char *key);

/* Cuts <lora:name>, <lora:name:0.8> and <lora:name:te=0.5:unet=1> (also lyco) out of a prompt. The unet's number
 * counts; without numbers it is 1. Block strengths as lora-block-weight writes them, <lora:name:1:1,0,0.5,...> or
 * lbw=IN04=0.5, and strengths over the steps, <lora:name:0.2..1>, become details. What does not fit the form stays as it
 * stands. Returns the cleaned prompt. */
char *recipe_cut_loras(struct arena *a, const char *prompt, struct recipe_lora **loras, size_t *n);

#endif
