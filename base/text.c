#include "base/text.h"

#include <assert.h>
#include <string.h>

size_t text_utf8_decode(const uint8_t *s, size_t n, uint32_t *code) {
    if (n == 0) return 0;
    if (s[0] < 0x80) {
        *code = s[0];
        return 1;
    }
    size_t len = s[0] >= 0xF0 ? 4 : s[0] >= 0xE0 ? 3 : 2;
    if (s[0] < 0xC2 || s[0] > 0xF4 || n < len) return 0;
    uint32_t c = s[0] & (0xFFu >> (len + 1));
    for (size_t i = 1; i < len; i++) {
        if ((s[i] & 0xC0) != 0x80) return 0;
        c = c << 6 | (s[i] & 0x3F);
    }
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    if (c < least[len] || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) return 0;
    *code = c;
    return len;
}

size_t text_utf8_encode(uint8_t dst[4], uint32_t c) {
    assert(c <= 0x10FFFF && (c < 0xD800 || c >= 0xE000));
    if (c < 0x80) {
        dst[0] = (uint8_t)c;
        return 1;
    }
    size_t len = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = len - 1; i > 0; i--, c >>= 6) dst[i] = (uint8_t)(0x80 | (c & 0x3F));
    static const uint8_t lead[5] = {0, 0, 0xC0, 0xE0, 0xF0};
    dst[0] = (uint8_t)(lead[len] | c);
    return len;
}

bool text_utf8_valid(const void *s, size_t n) {
    const uint8_t *p = s;
    uint32_t code;
    for (size_t len; n; p += len, n -= len)
        if ((len = text_utf8_decode(p, n, &code)) == 0) return false;
    return true;
}

/* Bytes that the character at s takes when shown (1 for a '?'); *len is what it takes in the source. */
static size_t shown(const uint8_t *s, size_t n, size_t *len) {
    uint32_t code = 0;
    size_t got = text_utf8_decode(s, n, &code);
    *len = got ? got : 1;
    return got == 0 || code < 0x20 || (code >= 0x7F && code < 0xA0) ? 0 : got;
}

char *text_printable(char *dst, size_t cap, const char *src) {
    assert(cap >= 4);
    const uint8_t *s = (const uint8_t *)src;
    size_t n = strlen(src), total = 0, used = 0, len;
    for (size_t i = 0; i < n; i += len) {
        size_t put = shown(s + i, n - i, &len);
        total += put ? put : 1;
    }
    size_t limit = total < cap ? cap - 1 : cap - 4; /* the dots need three */
    for (size_t i = 0; i < n; i += len) {
        size_t put = shown(s + i, n - i, &len), take = put ? put : 1;
        if (used + take > limit) break;
        if (put) memcpy(dst + used, s + i, put);
        else dst[used] = '?';
        used += take;
    }
    if (total >= cap) {
        memcpy(dst + used, "...", 3);
        used += 3;
    }
    dst[used] = 0;
    return dst;
}
