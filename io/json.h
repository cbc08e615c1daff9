/* Reading JSON files that people or other programs wrote: size limit, clear errors, typed access with defaults. */
#ifndef ATELIER_IO_JSON_H
#define ATELIER_IO_JSON_H

#include "base/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { JSON_DEFAULT_LIMIT = 64 << 20 };

/* Parses a file that must hold one JSON object, at most max_bytes long (0 = JSON_DEFAULT_LIMIT), no duplicate
 * keys. The caller owns the reference. NULL and a sentence with file and line otherwise. */
json_t *json_file_load(const char *path, size_t max_bytes, struct error *e);

/* Writes compactly or, with indent > 0, for people; by rename. */
bool json_file_save(const char *path, const json_t *value, int indent, struct error *e);

/* Typed access with a sticky failure: the first wrong value fills *e with file, key and what was expected, later
 * calls return defaults, and the caller looks at `failed` once. A missing key and null mean the default. */
struct json_reader {
    const char *file; /* for messages */
    struct error *e;  /* may be NULL */
    bool failed;
};

int64_t json_read_int(struct json_reader *r, const json_t *obj, const char *key, int64_t def, int64_t min, int64_t max);
double json_read_number(struct json_reader *r, const json_t *obj, const char *key, double def);
bool json_read_bool(struct json_reader *r, const json_t *obj, const char *key, bool def);
const char *json_read_string(struct json_reader *r, const json_t *obj, const char *key, const char *def); /* lives in obj */

/* List of integers; a lone integer counts as a list of one. Returns how many were stored in dst (0 = key missing);
 * more than cap is a failure. */
size_t json_read_ints(struct json_reader *r, const json_t *obj, const char *key, int64_t *dst, size_t cap, int64_t min,
                      int64_t max);
/* List of strings, likewise. */
size_t json_read_strings(struct json_reader *r, const json_t *obj, const char *key, const char **dst, size_t cap);

/* Objects and arrays: NULL when missing or null. */
const json_t *json_read_object(struct json_reader *r, const json_t *obj, const char *key);
const json_t *json_read_array(struct json_reader *r, const json_t *obj, const char *key);

/* Fails unless the key is there and not null. Returns true if it is. */
bool json_require(struct json_reader *r, const json_t *obj, const char *key);

/* True when the key exists and is not null. */
bool json_has(const json_t *obj, const char *key);

#endif
