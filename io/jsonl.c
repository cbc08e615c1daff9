#include "io/jsonl.h"
#include "base/os.h"

#include <stdlib.h>
#include <string.h>

struct jsonl {
    struct os_appender *out;
};

struct jsonl *jsonl_open(const char *path, bool truncate, struct error *e) {
    struct os_appender *out = os_appender_open(path, truncate, e);
    if (!out) return NULL;
    struct jsonl *j = calloc(1, sizeof *j);
    if (j) j->out = out;
    else {
        error_set(e, "cannot write '%s': out of memory", path);
        os_appender_close(&out);
    }
    return j;
}

void jsonl_close(struct jsonl **pj) {
    if (!*pj) return;
    os_appender_close(&(*pj)->out);
    free(*pj);
    *pj = NULL;
}

bool jsonl_write(struct jsonl *j, json_t *value, struct error *e) {
    char *text = value ? json_dumps(value, JSON_COMPACT) : NULL;
    json_decref(value);
    if (!text) return error_set(e, "a log line holds a value that JSON cannot express, such as nan");
    size_t n = strlen(text);
    text[n] = '\n'; /* in place of the terminator: the line goes out in one write */
    bool ok = os_appender_write(j->out, text, n + 1, e);
    free(text);
    return ok;
}

static bool keep(const char *line, size_t n, const char *key, json_int_t limit) {
    json_t *v = json_loadb(line, n, 0, NULL);
    json_t *step = json_object_get(v, key);
    bool ok = json_is_object(v) && (!json_is_integer(step) || json_integer_value(step) <= limit);
    json_decref(v);
    return ok;
}

bool jsonl_cut_after(const char *path, const char *key, json_int_t limit, struct error *e) {
    if (!os_path_exists(path)) return true;
    struct os_map m;
    if (!os_file_map(&m, path, e)) return false;
    struct os_writer *w = os_writer_open(path, e);
    bool ok = w != NULL;
    for (size_t at = 0; ok && at < m.bytes;) {
        const char *line = (const char *)m.data + at, *end = memchr(line, '\n', m.bytes - at);
        size_t n = end ? (size_t)(end - line) + 1 : m.bytes - at;
        if (end && keep(line, n, key, limit)) ok = os_writer_append(w, line, n, e);
        at += n;
    }
    if (ok) ok = os_writer_commit(&w, e);
    else os_writer_abort(&w);
    os_file_unmap(&m);
    return ok;
}
