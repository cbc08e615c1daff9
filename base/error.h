/* One sentence for the user: what went wrong, where, what was needed, what to do.
 * Functions that touch the world return false/NULL and fill this; bugs assert instead. */
#ifndef ATELIER_BASE_ERROR_H
#define ATELIER_BASE_ERROR_H

#include <stdbool.h>

struct error {
    char text[1024]; /* empty string = no error; longer messages are cut */
};

/* Sets the sentence. e may be NULL. Always returns false, so `return error_set(e, ...)` reads well. */
bool error_set(struct error *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Puts context in front of the sentence already there ("fmt: old text"). Always returns false. */
bool error_prefix(struct error *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
