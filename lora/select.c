#include "lora/select.h"

#include <string.h>

bool lora_selection_parse(const char *text, enum lora_selection *out, struct error *e) {
    static const char *const names[] = {"attn", "attn-mlp", "all", "cross-kv"};
    for (int i = 0; i < 4; i++)
        if (!strcmp(text, names[i])) return *out = (enum lora_selection)i, true;
    return error_set(e, "targets %s: choose attn, attn-mlp, all or cross-kv", text);
}

static bool contains_any(const char *path, const char *const *words, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (strstr(path, words[i])) return true;
    return false;
}

bool lora_selection_has(enum lora_selection selection, const char *path) {
    static const char *const attention[] = {".attn1.", ".attn2.", ".self_attn."};
    static const char *const transformers[] = {".attentions.", ".encoder.layers."};
    static const char *const cross[] = {".attn2.to_k", ".attn2.to_v"};
    static const char *const blocks[] = {".resnets.", ".downsamplers.", ".upsamplers."};
    switch (selection) {
    case LORA_SELECT_ATTN:
        return contains_any(path, attention, 3);
    case LORA_SELECT_ATTN_MLP:
        return contains_any(path, transformers, 2);
    case LORA_SELECT_ALL:
        return contains_any(path, transformers, 2) || contains_any(path, blocks, 3);
    case LORA_SELECT_CROSS_KV:
        return contains_any(path, cross, 2);
    }
    return false;
}
