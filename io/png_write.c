#include "io/png.h"
#include "base/arena.h"
#include "base/os.h"
#include "base/text.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { DEFLATE_LEVEL = 6 };

/* ---- Row filters: the one with the smallest sum of absolute differences usually packs best ---- */

static uint8_t paeth(int a, int b, int c) {
    int pa = abs(b - c), pb = abs(a - c), pc = abs(a + b - 2 * c);
    return (uint8_t)(pa <= pb && pa <= pc ? a : pb <= pc ? b : c);
}

/* Writes the filtered row and returns its cost. up is the row above or zeros. */
static long filter_row(int kind, uint8_t *dst, const uint8_t *row, const uint8_t *up, size_t n) {
    long cost = 0;
    for (size_t i = 0; i < n; i++) {
        int a = i >= 3 ? row[i - 3] : 0, b = up[i], c = i >= 3 ? up[i - 3] : 0;
        int guess = kind == 0 ? 0 : kind == 1 ? a : kind == 2 ? b : kind == 3 ? (a + b) / 2 : paeth(a, b, c);
        dst[i] = (uint8_t)(row[i] - guess);
        cost += abs((int8_t)dst[i]);
    }
    return cost;
}

static uint8_t *filtered(struct arena *a, const struct image *im, size_t *bytes) {
    size_t stride = (size_t)im->w * 3;
    uint8_t *out = arena_alloc(a, (stride + 1) * (size_t)im->h), *zeros = arena_alloc(a, stride);
    uint8_t *trial = arena_alloc(a, stride);
    for (int y = 0; y < im->h; y++) {
        const uint8_t *row = im->rgb + (size_t)y * stride, *up = y ? row - stride : zeros;
        uint8_t *dst = out + (size_t)y * (stride + 1);
        long best = -1;
        for (int kind = 0; kind < 5; kind++) {
            long cost = filter_row(kind, trial, row, up, stride);
            if (best >= 0 && cost >= best) continue;
            best = cost;
            dst[0] = (uint8_t)kind;
            memcpy(dst + 1, trial, stride);
        }
    }
    *bytes = (stride + 1) * (size_t)im->h;
    return out;
}

/* ---- Chunks ---- */

static uint8_t *put32(uint8_t *p, uint32_t v) {
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> (24 - 8 * i));
    return p + 4;
}

static uint8_t *put_chunk(uint8_t *p, const char *type, const uint8_t *data, size_t bytes) {
    p = put32(p, (uint32_t)bytes);
    uint8_t *begin = p;
    memcpy(p, type, 4);
    if (bytes) memcpy(p + 4, data, bytes);
    p += 4 + bytes;
    return put32(p, (uint32_t)crc32_z(0, begin, (size_t)(p - begin)));
}

/* Latin-1 form of a UTF-8 text, or NULL if it needs more. */
static uint8_t *to_latin1(struct arena *a, const char *s, size_t n, size_t *bytes) {
    uint8_t *out = arena_alloc(a, n);
    *bytes = 0;
    uint32_t code;
    for (size_t i = 0, len; i < n; i += len) {
        len = text_utf8_decode((const uint8_t *)s + i, n - i, &code);
        if (len == 0 || code > 0xFF) return NULL;
        out[(*bytes)++] = (uint8_t)code;
    }
    return out;
}

static uint8_t *put_text(struct arena *a, uint8_t *p, const struct png_text *t) {
    size_t key = strlen(t->key), n = strlen(t->value), m;
    uint8_t *latin = to_latin1(a, t->value, n, &m), *body = arena_alloc(a, key + 5 + n);
    memcpy(body, t->key, key); /* arena memory is zero: separators, no compression, no language */
    size_t at = key + (latin ? 1 : 5);
    memcpy(body + at, latin ? latin : (const uint8_t *)t->value, latin ? m : n);
    return put_chunk(p, latin ? "tEXt" : "iTXt", body, at + (latin ? m : n));
}

bool png_encode(struct arena *a, const struct image *im, const struct png_text *texts, size_t n_texts, uint8_t **out,
                size_t *bytes, struct error *e) {
    assert(im->w > 0 && im->h > 0);
    size_t room = 256;
    for (size_t i = 0; i < n_texts; i++) {
        assert(strlen(texts[i].key) >= 1 && strlen(texts[i].key) <= 79);
        if (!text_utf8_valid(texts[i].value, strlen(texts[i].value)))
            return error_set(e, "the text '%s' for a PNG is not valid UTF-8", texts[i].key);
        room += strlen(texts[i].key) + strlen(texts[i].value) + 32;
    }
    struct arena *scratch = arena_create(a);
    size_t raw_bytes;
    uint8_t *raw = filtered(scratch, im, &raw_bytes);
    uLongf packed_bytes = compressBound(raw_bytes);
    uint8_t *packed = arena_alloc(scratch, packed_bytes);
    int rc = compress2(packed, &packed_bytes, raw, raw_bytes, DEFLATE_LEVEL);
    assert(rc == Z_OK || rc == Z_MEM_ERROR);
    if (rc != Z_OK || packed_bytes > INT32_MAX) {
        arena_destroy(&scratch);
        return error_set(e, "cannot compress a PNG of %d x %d pixels: out of memory", im->w, im->h);
    }
    uint8_t *p = *out = arena_alloc(a, room + packed_bytes), head[13] = {0};
    put32(put32(head, (uint32_t)im->w), (uint32_t)im->h);
    head[8] = 8; /* bits */
    head[9] = 2; /* RGB */
    memcpy(p, "\x89PNG\r\n\x1a\n", 8);
    p = put_chunk(p + 8, "IHDR", head, sizeof head);
    for (size_t i = 0; i < n_texts; i++) p = put_text(scratch, p, &texts[i]);
    p = put_chunk(p, "IDAT", packed, packed_bytes);
    p = put_chunk(p, "IEND", NULL, 0);
    *bytes = (size_t)(p - *out);
    assert(*bytes <= room + packed_bytes);
    arena_destroy(&scratch);
    return true;
}

bool png_write(const char *path, const struct image *im, const struct png_text *texts, size_t n_texts, struct error *e) {
    struct arena *a = arena_create(NULL);
    uint8_t *data;
    size_t bytes;
    bool ok = png_encode(a, im, texts, n_texts, &data, &bytes, e) && os_file_write_atomic(path, data, bytes, e);
    arena_destroy(&a);
    return ok;
}
