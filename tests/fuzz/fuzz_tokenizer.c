#include "base/arena.h"
#include "tests/fuzz/fuzz.h"
#include "textenc/tokenizer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static void encode(const struct tokenizer *t, const char *text) {
    struct arena *a = arena_create(NULL);
    struct tokenizer_cut cut;
    int32_t ids[256], *window = arena_alloc_n(a, tokenizer_window(t), sizeof *window);
    size_t n = tokenizer_encode(t, text, ids, 256);
    for (size_t i = 0; i < n && i < 256; i++) assert(ids[i] >= 0 && ids[i] <= tokenizer_max_id(t));
    tokenizer_encode_window(t, text, window, &cut);
    tokenizer_decode(t, ids, n < 256 ? n : 256, a);
    arena_destroy(&a);
}

static char *text_of(const uint8_t *data, size_t n) {
    char *s = malloc(n + 1);
    memcpy(s, data, n);
    s[n] = 0;
    return s;
}

/* An even first byte: text for CLIP's vocabulary. Odd: vocab.json, merges.txt, tokenizer_config.json and text between
 * zero bytes. */
void fuzz_tokenizer(const uint8_t *data, size_t n) {
    static const char *const names[] = {"vocab.json", "merges.txt", "tokenizer_config.json"};
    static struct tokenizer *clip;
    if (!n) return;
    if (!clip) clip = tokenizer_clip(false);
    if (data[0] % 2 == 0) {
        char *text = text_of(data + 1, n - 1);
        encode(clip, text);
        free(text);
        return;
    }
    const uint8_t *at = data + 1, *end = data + n;
    for (int i = 0; i < 3; i++) {
        const uint8_t *zero = at < end ? memchr(at, 0, (size_t)(end - at)) : NULL;
        const uint8_t *stop = zero ? zero : end;
        fuzz_put(names[i], at, (size_t)(stop - at));
        at = zero ? zero + 1 : end;
    }
    struct error e;
    struct tokenizer *t = tokenizer_load(fuzz_folder(), &e);
    char *text = text_of(at, (size_t)(end - at));
    if (t) encode(t, text);
    free(text);
    if (t) tokenizer_destroy(&t);
}
