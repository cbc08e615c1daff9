/* From a prompt to words: special tokens, Unicode normalisation, the split into pieces. */
#include "textenc/tokenizer_priv.h"

#include "base/arena.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum char_class { SPACE, LETTER, NUMERAL, OTHER };

/* Next code point of valid UTF-8. */
static size_t next_char(const uint8_t *s, size_t bytes, int32_t *code) {
    utf8proc_int32_t c;
    utf8proc_ssize_t used = utf8proc_iterate(s, (utf8proc_ssize_t)bytes, &c);
    *code = used > 0 ? c : 0xfffd;
    return used > 0 ? (size_t)used : 1;
}

static bool is_space(int32_t c) {
    return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
           c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

static enum char_class class_of(int32_t c) {
    if (is_space(c)) return SPACE;
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO: return LETTER;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO: return NUMERAL;
    default: return OTHER;
    }
}

/* Copies text, replacing each byte that is no UTF-8 by U+FFFD. */
static char *make_valid(const char *text, struct arena *a) {
    size_t bytes = strlen(text), n = 0;
    char *valid = arena_alloc_n(a, bytes + 1, 3);
    for (size_t i = 0; i < bytes;) {
        int32_t c;
        size_t used = next_char((const uint8_t *)text + i, bytes - i, &c);
        n += (size_t)utf8proc_encode_char(c, (utf8proc_uint8_t *)valid + n);
        i += used;
    }
    return valid;
}

/* NFC, runs of white space to one space, lower case. Lower-casing follows the full mapping, in which only U+0130
 * becomes two characters; it can lengthen a character from two to three bytes. */
static char *normalize(const char *text, size_t bytes, struct arena *a) {
    utf8proc_uint8_t *composed = NULL;
    utf8proc_ssize_t length = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)bytes, &composed,
                                           UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (length < 0) return arena_strdup(a, ""); /* only when memory is short: the text is valid */
    char *out = arena_alloc_n(a, (size_t)length + 1, 2);
    size_t n = 0;
    bool in_space = false;
    for (size_t i = 0; i < (size_t)length;) {
        int32_t c;
        i += next_char(composed + i, (size_t)length - i, &c);
        bool space = is_space(c);
        if (space && in_space) continue;
        in_space = space;
        utf8proc_uint8_t *to = (utf8proc_uint8_t *)out + n;
        if (space) *to = ' ', n++;
        else if (c == 0x130) memcpy(to, "i\xcc\x87", 3), n += 3;
        else n += (size_t)utf8proc_encode_char(utf8proc_tolower(c), to);
    }
    free(composed);
    out[n] = 0;
    return out;
}

/* "<|endoftext|>" is one piece for the split, but not for the byte stage after it, which parts letters from the rest. */
static size_t marker_length(const char *s) {
    static const char *const markers[] = {"<|startoftext|>", "<|endoftext|>"};
    for (int i = 0; i < 2; i++)
        if (strncmp(s, markers[i], strlen(markers[i])) == 0) return strlen(markers[i]);
    return 0;
}

static size_t contraction_length(const char *s) {
    static const char *const endings[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    for (int i = 0; i < 7; i++)
        if (strncmp(s, endings[i], strlen(endings[i])) == 0) return strlen(endings[i]);
    return 0;
}

static size_t run_length(const char *s, size_t bytes, enum char_class wanted) {
    size_t n = 0;
    while (n < bytes) {
        int32_t c;
        size_t used = next_char((const uint8_t *)s + n, bytes - n, &c);
        if (class_of(c) != wanted) break;
        n += used;
    }
    return n;
}

/* Pieces of normalised text without special tokens. */
static void encode_plain(const struct tokenizer *t, const char *s, size_t bytes, struct id_list *out) {
    for (size_t i = 0; i < bytes;) {
        int32_t c;
        size_t used = next_char((const uint8_t *)s + i, bytes - i, &c);
        enum char_class class = class_of(c);
        size_t marker = marker_length(s + i), ending = contraction_length(s + i);
        if (marker && marker <= bytes - i) {
            tokenizer_encode_word(t, (const uint8_t *)s + i, 2, out);
            tokenizer_encode_word(t, (const uint8_t *)s + i + 2, marker - 4, out);
            tokenizer_encode_word(t, (const uint8_t *)s + i + marker - 2, 2, out);
            i += marker;
            continue;
        }
        if (ending && ending <= bytes - i) used = ending;
        else if (class == LETTER || class == OTHER) used = run_length(s + i, bytes - i, class);
        if (class != SPACE) tokenizer_encode_word(t, (const uint8_t *)s + i, used, out);
        i += used;
    }
}

/* The special token of one kind that begins here, the longest if several do. */
static const struct special *special_at(const struct tokenizer *t, const char *s, bool normalized) {
    const struct special *best = NULL;
    for (size_t i = 0; i < t->n_specials; i++) {
        const struct special *k = &t->specials[i];
        if (k->normalized != normalized || strncmp(s, k->text, k->bytes) != 0) continue;
        if (!best || k->bytes > best->bytes) best = k;
    }
    return best;
}

static const struct special *find_special(const struct tokenizer *t, const char *s, bool normalized, const char **at) {
    for (; *s; s++) {
        const struct special *found = special_at(t, s, normalized);
        if (!found) continue;
        *at = s;
        return found;
    }
    return NULL;
}

static void encode_normalized(const struct tokenizer *t, const char *s, struct id_list *out) {
    const char *at;
    for (const struct special *k; (k = find_special(t, s, true, &at)); s = at + k->bytes) {
        encode_plain(t, s, (size_t)(at - s), out);
        tokenizer_push(out, k->id);
    }
    encode_plain(t, s, strlen(s), out);
}

void tokenizer_encode_text(const struct tokenizer *t, const char *text, struct id_list *out) {
    struct arena *scratch = arena_create(NULL);
    const char *s = make_valid(text, scratch), *at;
    for (const struct special *k; (k = find_special(t, s, false, &at)); s = at + k->bytes) {
        encode_normalized(t, normalize(s, (size_t)(at - s), scratch), out);
        tokenizer_push(out, k->id);
    }
    encode_normalized(t, normalize(s, strlen(s), scratch), out);
    arena_destroy(&scratch);
}
