#include "lora/blocks.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/text.h"

static const int form_17[] = {0, 2, 3, 5, 6, 8, 9, 13, 17, 18, 19, 20, 21, 22, 23, 24, 25};
static const int form_12[] = {0, 5, 6, 8, 9, 13, 14, 15, 16, 17, 18, 19};
static const int form_20[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22};

static bool parse_factor(const char *text, float *out) {
    char *end;
    double v = strtod(text, &end);
    while (*end == ' ') end++;
    *out = (float)v;
    return end != text && !*end && isfinite(v) && fabs(v) <= 100;
}

/* Two digits of a block's number. */
static bool parse_index(const char **s, int *out) {
    char *end;
    if (**s < '0' || **s > '9') return false;
    long v = strtol(*s, &end, 10);
    if (v < 0 || v > 11 || end - *s > 2) return false;
    *s = end, *out = (int)v;
    return true;
}

/* "IN04", "OUT03-08", "OUT", "MID", "M00", "BASE", "*" -> blocks first..last. */
static bool parse_name(const char *s, int *first, int *last) {
    int from, to, base = !strncmp(s, "IN", 2) ? LORA_BLOCK_IN : !strncmp(s, "OUT", 3) ? LORA_BLOCK_OUT : -1;
    if (!strcmp(s, "*")) return *first = 0, *last = LORA_N_BLOCKS - 1, true;
    if (!strcmp(s, "BASE")) return *first = *last = LORA_BLOCK_BASE, true;
    if (!strcmp(s, "MID") || !strcmp(s, "M00")) return *first = *last = LORA_BLOCK_MIDDLE, true;
    if (base < 0) return false;
    s += base == LORA_BLOCK_IN ? 2 : 3;
    if (!*s) return *first = base, *last = base + 11, true;
    if (!parse_index(&s, &from)) return false;
    to = from;
    if (*s == '-' && (s++, !parse_index(&s, &to))) return false;
    *first = base + from, *last = base + to;
    return !*s && from <= to;
}

static int split_part(const char *name) {
    return !strcmp(name, "CONTENT") ? LORA_SPLIT_CONTENT : !strcmp(name, "STYLE") ? LORA_SPLIT_STYLE : -1;
}

static bool take_named(struct lora_blocks *b, char *item, struct error *e) {
    char *value = strchr(item, '=');
    int first = 0, last = -1;
    float factor;
    *value++ = 0;
    while (*item == ' ') item++;
    int part = split_part(item);
    if (part < 0 && !parse_name(item, &first, &last))
        return error_set(e, "There is no block \"%s\"; they are BASE, IN00 to IN11, M00, OUT00 to OUT11, ranges like OUT03-08, "
                            "IN, MID, OUT or *, and a B-LoRA's CONTENT and STYLE.",
                         TEXT_SHOW(item));
    if (!parse_factor(value, &factor))
        return error_set(e, "The strength of block %s reads \"%s\", which is no number.", item, TEXT_SHOW(value));
    if (part >= 0) b->split[part] = factor, b->has_split[part] = true;
    for (int i = first; i <= last; i++) b->factor[i] = factor;
    return true;
}

static bool place_values(struct lora_blocks *b, const float *values, int n, struct error *e) {
    const int *form = n == 17 ? form_17 : n == 12 ? form_12 : n == 20 ? form_20 : NULL;
    if (!form && n != LORA_N_BLOCKS)
        return error_set(e, "Block strengths are 17 or 26 numbers for Stable Diffusion 1 and 2, 12 or 20 for SDXL, not %d; or "
                            "names, like IN04=0.5,OUT=0.", n);
    for (int i = 0; i < LORA_N_BLOCKS; i++) b->factor[i] = 1;
    for (int i = 0; i < n; i++) b->factor[form ? form[i] : i] = values[i];
    b->n_values = n;
    return true;
}

bool lora_blocks_parse(const char *text, struct lora_blocks *out, struct error *e) {
    struct arena *a = arena_create(NULL);
    float values[LORA_N_BLOCKS + 1];
    int n = 0, named = 0;
    bool ok = true;
    *out = (struct lora_blocks){0};
    for (int i = 0; i < LORA_N_BLOCKS; i++) out->factor[i] = 1;
    for (char *item = arena_strdup(a, text), *next; ok && item; item = next) {
        if ((next = strchr(item, ','))) *next++ = 0;
        if (strchr(item, '=')) ok = take_named(out, item, e), named++;
        else if (n > LORA_N_BLOCKS || !parse_factor(item, &values[n++]))
            ok = error_set(e, "The block strengths \"%s\" are neither numbers nor names like IN04=0.5.", TEXT_SHOW(text));
    }
    arena_destroy(&a);
    if (ok && n && named)
        return error_set(e, "The block strengths \"%s\" mix numbers and names; use one of them.", TEXT_SHOW(text));
    return ok && (named || place_values(out, values, n, e));
}

bool lora_blocks_fit(const struct lora_blocks *b, bool xl, struct error *e) {
    if (!b->n_values || xl == (b->n_values == 12 || b->n_values == 20)) return true;
    return error_set(e, "%d block strengths are those of %s, and this model is %s: give %s numbers.", b->n_values,
                     xl ? "Stable Diffusion 1 and 2" : "SDXL", xl ? "an SDXL" : "no SDXL", xl ? "12 or 20" : "17 or 26");
}

bool lora_blocks_settle(struct lora_blocks *b, const struct lora_model *model, struct error *e) {
    struct lora_split places;
    if (!b->has_split[LORA_SPLIT_CONTENT] && !b->has_split[LORA_SPLIT_STYLE]) return true;
    if (!lora_split_find(model, &places, e)) return false;
    for (int i = 0; i < LORA_SPLIT_PARTS; i++)
        if (b->has_split[i]) b->factor[places.block[i]] = b->split[i];
    return true;
}

int lora_block_of(const struct unet_ldm *ldm, enum lora_part part, const char *path) {
    if (part != LORA_UNET) return LORA_BLOCK_BASE;
    struct arena *a = arena_create(NULL);
    const char *own = lora_ldm_path(ldm, path, a);
    int n = -1, block = LORA_BLOCK_BASE;
    if (own && sscanf(own, "input_blocks.%d.", &n) == 1) block = LORA_BLOCK_IN + n;
    else if (own && sscanf(own, "output_blocks.%d.", &n) == 1) block = LORA_BLOCK_OUT + n;
    else if (own && !strncmp(own, "middle_block", 12)) block = LORA_BLOCK_MIDDLE;
    arena_destroy(&a);
    return n > 11 ? LORA_BLOCK_BASE : block;
}
