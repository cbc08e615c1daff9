/* Python pickles as data: a stream becomes a tree of values. Nothing is ever called: a call stays a value that says
 * which name was to be called with what. Names that `allowed` does not know end the reading. Streams may be hostile. */
#ifndef ATELIER_IO_PICKLE_H
#define ATELIER_IO_PICKLE_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

struct arena;

enum pickle_kind {
    PICKLE_NONE,
    PICKLE_BOOL,   /* number */
    PICKLE_INT,    /* number */
    PICKLE_FLOAT,  /* real */
    PICKLE_TEXT,   /* text, ends in zero, holds none */
    PICKLE_BYTES,  /* n of them, not kept */
    PICKLE_TUPLE,  /* items[n] */
    PICKLE_LIST,   /* items[n]; also sets */
    PICKLE_DICT,   /* items[n]: key, value, key, value, ... in file order; may repeat keys */
    PICKLE_GLOBAL, /* text: "module.name" */
    PICKLE_CALL,   /* items[0]: what to call, items[1]: the tuple of arguments, items[2]: attributes, if any were set */
    PICKLE_PERSISTENT /* items[0]: something that the surrounding file explains */
};
struct pickle_value {
    enum pickle_kind kind;
    uint32_t n, cap;
    union {
        int64_t number;
        double real;
        const char *text;
        const struct pickle_value **items; /* values may contain themselves: bound every walk */
    };
};

enum { PICKLE_MAX_BYTES = 16 << 20 };
typedef bool pickle_allowed(const char *name);

/* Protocols 0x80 0..5 without the text opcodes of protocol 0. Memory from a. NULL with a sentence. */
const struct pickle_value *pickle_read(struct arena *a, const uint8_t *data, size_t bytes, pickle_allowed *allowed,
                                       struct error *e);
/* The value under a text key of a dict; NULL if absent or v is no dict. */
const struct pickle_value *pickle_get(const struct pickle_value *v, const char *key);
/* Whether v calls `name` with at least n_args arguments; args is then the tuple. */
bool pickle_is_call(const struct pickle_value *v, const char *name, uint32_t n_args, const struct pickle_value **args);

#endif
