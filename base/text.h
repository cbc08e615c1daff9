/* Text that came from outside. */
#ifndef ATELIER_BASE_TEXT_H
#define ATELIER_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Copies at most cap-1 bytes of src for a message: control characters and bytes that are not UTF-8 become '?',
 * a text that does not fit ends in "...". cap >= 4. Returns dst. */
char *text_printable(char *dst, size_t cap, const char *src);

/* The same into a buffer that lives as long as the statement's block. */
#define TEXT_SHOW(src) text_printable((char[120]){0}, 120, (src))

/* Bytes of the UTF-8 character at s (1..4) and its code point, or 0 if there is none within n bytes. */
size_t text_utf8_decode(const uint8_t *s, size_t n, uint32_t *code);

/* Writes 1..4 bytes; code must be a Unicode scalar value. */
size_t text_utf8_encode(uint8_t dst[4], uint32_t code);

bool text_utf8_valid(const void *s, size_t n);

#endif
