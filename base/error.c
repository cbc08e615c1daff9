#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* vsnprintf cuts at a byte; drop a UTF-8 character that was cut in half. */
static void trim_partial_utf8(char *s) {
    size_t n = strlen(s), back = 0;
    while (back < 4 && back < n && ((unsigned char)s[n - 1 - back] & 0xC0) == 0x80) back++;
    if (back >= n) return;
    unsigned char lead = (unsigned char)s[n - 1 - back];
    size_t need = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : lead >= 0xC0 ? 1 : 0;
    if (need > back) s[n - 1 - back] = 0;
}

bool error_set(struct error *e, const char *fmt, ...) {
    if (!e) return false;
    struct error next; /* an argument may point into e->text */
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(next.text, sizeof next.text, fmt, ap);
    va_end(ap);
    trim_partial_utf8(next.text);
    *e = next;
    return false;
}

bool error_prefix(struct error *e, const char *fmt, ...) {
    if (!e) return false;
    struct error next;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(next.text, sizeof next.text, fmt, ap);
    va_end(ap);
    size_t used = strlen(next.text);
    if (snprintf(next.text + used, sizeof next.text - used, ": %s", e->text) < 0) next.text[used] = 0;
    trim_partial_utf8(next.text);
    *e = next;
    return false;
}
