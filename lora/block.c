#include "lora/block.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/arena.h"
#include "base/text.h"

void lora_block_name(const struct lora_ldm *l, enum lora_part part, const char *path, char out[LORA_BLOCK_NAME_BYTES]) {
    out[0] = 0;
    if (part != LORA_UNET) {
        snprintf(out, LORA_BLOCK_NAME_BYTES, "BASE");
        return;
    }
    struct arena *a = arena_create(NULL);
    const char *ldm = lora_ldm_path(l, path, a);
    int n;
    if (ldm && sscanf(ldm, "input_blocks.%d.", &n) == 1 && n >= 0 && n < 100) snprintf(out, LORA_BLOCK_NAME_BYTES, "IN%02d", n % 100);
    else if (ldm && sscanf(ldm, "output_blocks.%d.", &n) == 1 && n >= 0 && n < 100) snprintf(out, LORA_BLOCK_NAME_BYTES, "OUT%02d", n % 100);
    else if (ldm && !strncmp(ldm, "middle_block.", 13)) snprintf(out, LORA_BLOCK_NAME_BYTES, "M00");
    arena_destroy(&a);
}

/* One item of a list, taken apart. */
struct item {
    char first[96], last[16]; /* last: "" without a range */
    bool has_value;
    long value;
};

/* The item at s; where the next one begins, or NULL after the last. False if it is none. */
static bool read_item(const char *s, struct item *out, const char **next) {
    const char *end = strchr(s, ',');
    size_t n = end ? (size_t)(end - s) : strlen(s);
    *out = (struct item){{0}};
    *next = end ? end + 1 : NULL;
    while (n && isspace((unsigned char)*s)) s++, n--;
    while (n && isspace((unsigned char)s[n - 1])) n--;
    if (!n || n >= sizeof out->first) return false;
    memcpy(out->first, s, n);
    char *value = strchr(out->first, '='), *stop;
    if (value) {
        *value++ = 0;
        out->value = strtol(value, &stop, 10);
        out->has_value = true;
        if (!*value || *stop) return false;
    }
    char *range = strchr(out->first, '-');
    if (range) {
        *range++ = 0;
        if (!*range || strlen(range) >= sizeof out->last) return false;
        strcpy(out->last, range);
    }
    return out->first[0] != 0;
}

/* "IN04" -> letters 2, number 4. */
static bool split(const char *name, size_t *letters, int *number) {
    for (*letters = 0; isalpha((unsigned char)name[*letters]);) ++*letters;
    char *end;
    if (!name[*letters]) return false;
    *number = (int)strtol(name + *letters, &end, 10);
    return !*end;
}

static bool item_names(const struct item *it, const char *block, const char *path) {
    size_t n = strlen(it->first), letters, first_letters, last_letters;
    int number, first, last;
    if (it->last[0]) {
        return split(block, &letters, &number) && split(it->first, &first_letters, &first) && split(it->last, &last_letters, &last) &&
               letters == first_letters && letters == last_letters && !strncasecmp(block, it->first, letters) &&
               !strncasecmp(block, it->last, letters) && number >= first && number <= last;
    }
    if (!strcasecmp(block, it->first)) return true;
    if (split(block, &letters, &number) && n == letters && !strncasecmp(block, it->first, n)) return true;
    return !strncmp(path, it->first, n) && (path[n] == '.' || !path[n]);
}

bool lora_blocks_find(const char *list, const char *block, const char *path, int *value) {
    struct item it;
    for (const char *s = list; s;) {
        if (!read_item(s, &it, &s)) return false;
        if (!item_names(&it, block, path)) continue;
        *value = (int)it.value;
        return true;
    }
    return false;
}

static bool names_a_layer(const struct item *it, const struct lora_ldm *l, const struct lora_model *model) {
    char block[LORA_BLOCK_NAME_BYTES];
    for (int p = 0; p < LORA_N_PARTS; p++)
        for (int i = 0; model->targets[p] && i < model->targets[p]->n; i++) {
            lora_block_name(l, (enum lora_part)p, model->targets[p]->items[i].path, block);
            if (item_names(it, block, model->targets[p]->items[i].path)) return true;
        }
    return false;
}

bool lora_blocks_check(const char *list, bool values, int most, const struct lora_model *model, struct error *e) {
    struct lora_ldm l;
    struct item it;
    lora_ldm_measure(&l, model->targets[LORA_UNET]);
    for (const char *s = list; s;) {
        const char *here = s;
        if (!read_item(s, &it, &s) || it.has_value != values || (values && (it.value < 1 || it.value > most)))
            return error_set(e, "\"%.60s\" is no list of blocks: %s", TEXT_SHOW(here),
                             values ? "it needs items like IN04=8 or OUT03-OUT05=32" : "it needs items like IN04, OUT03-OUT05, M00, BASE or up_blocks.1");
        if (!names_a_layer(&it, &l, model))
            return error_set(e, "The model has no layer in \"%s%s%s\"; blocks are called IN01, M00, OUT03, BASE or up_blocks.1.",
                             TEXT_SHOW(it.first), it.last[0] ? "-" : "", it.last);
    }
    return true;
}
