#include "lora/select_blocks.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/text.h"

static void block_name(int block, char out[8]) {
    if (block >= LORA_BLOCK_OUT) snprintf(out, 8, "OUT%02d", (block - LORA_BLOCK_OUT) % 100);
    else if (block == LORA_BLOCK_MIDDLE) strcpy(out, "M00");
    else if (block >= LORA_BLOCK_IN) snprintf(out, 8, "IN%02d", (block - LORA_BLOCK_IN) % 100);
    else strcpy(out, "BASE");
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
    if (it->last[0]) /* OUT03-05, or OUT03-05 */
        return split(block, &letters, &number) && split(it->first, &first_letters, &first) &&
               split(it->last, &last_letters, &last) && letters == first_letters &&
               (!last_letters || letters == last_letters) && !strncasecmp(block, it->first, letters) &&
               !strncasecmp(block, it->last, last_letters) && number >= first && number <= last;
    if (!strcasecmp(block, it->first) || (!strcmp(block, "M00") && !strcasecmp(it->first, "MID"))) return true;
    if (split(block, &letters, &number) && n == letters && !strncasecmp(block, it->first, n)) return true;
    return !strncmp(path, it->first, n) && (path[n] == '.' || !path[n]);
}

bool lora_select_block(const char *list, int block, const char *path, int *value) {
    struct item it;
    char name[8];
    block_name(block, name);
    for (const char *s = list; s;) {
        if (!read_item(s, &it, &s)) return false;
        if (!item_names(&it, name, path)) continue;
        *value = (int)it.value;
        return true;
    }
    return false;
}

static bool names_a_layer(const struct item *it, const struct unet_ldm *l, const struct lora_model *model) {
    char block[8];
    for (int p = 0; p < LORA_N_PARTS; p++)
        for (int i = 0; model->targets[p] && i < model->targets[p]->n; i++) {
            block_name(lora_block_of(l, (enum lora_part)p, model->targets[p]->items[i].path), block);
            if (item_names(it, block, model->targets[p]->items[i].path)) return true;
        }
    return false;
}

bool lora_select_blocks_check(const char *list, bool values, int most, const struct lora_model *model, struct error *e) {
    struct unet_ldm l;
    struct item it;
    lora_ldm_measure(&l, model->targets[LORA_UNET]);
    for (const char *s = list; s;) {
        const char *here = s;
        if (!read_item(s, &it, &s) || it.has_value != values || (values && (it.value < 1 || it.value > most)))
            return error_set(e, "\"%.60s\" is no list of blocks: %s", TEXT_SHOW(here),
                             values ? "it needs items like IN04=8 or OUT03-05=32"
                                    : "it needs items like IN04, OUT03-05, M00, BASE or up_blocks.1");
        if (!names_a_layer(&it, &l, model))
            return error_set(e, "The model has no layer in \"%s%s%s\"; blocks are called IN01, M00, OUT03, BASE or "
                                "up_blocks.1.", TEXT_SHOW(it.first), it.last[0] ? "-" : "", it.last);
    }
    return true;
}
