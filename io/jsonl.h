/* Logs of one JSON object per line. Every line is written in one piece, so a crash costs at most the last one. */
#ifndef ATELIER_IO_JSONL_H
#define ATELIER_IO_JSONL_H

#include "base/error.h"

#include <jansson.h>

struct jsonl;

/* Opens for appending; a torn last line is cut off. truncate starts afresh. */
struct jsonl *jsonl_open(const char *path, bool truncate, struct error *e);
void jsonl_close(struct jsonl **j);

/* Takes over the reference, also on failure. value may be NULL (a builder failed, as it does on nan): an error. */
bool jsonl_write(struct jsonl *j, json_t *value, struct error *e);

/* For resuming: keeps only lines whose integer `key` is absent or at most limit; drops unreadable lines. A missing
 * file is fine. */
bool jsonl_cut_after(const char *path, const char *key, json_int_t limit, struct error *e);

#endif
