#include "io/json.h"
#include "base/os.h"
#include "base/text.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

json_t *json_file_load(const char *path, size_t max_bytes, struct error *e) {
    struct os_map m;
    if (!os_file_map(&m, path, e)) return NULL;
    json_t *root = NULL;
    json_error_t why;
    size_t limit = max_bytes ? max_bytes : JSON_DEFAULT_LIMIT;
    if (m.bytes > limit)
        error_set(e, "'%s' is not a usable JSON file: it has %zu bytes, at most %zu are read", path, m.bytes, limit);
    else if (!(root = json_loadb((const char *)m.data, m.bytes, JSON_REJECT_DUPLICATES, &why)))
        error_set(e, "'%s' is not valid JSON: line %d, column %d: %s", path, why.line, why.column, TEXT_SHOW(why.text));
    else if (!json_is_object(root)) {
        error_set(e, "'%s' must hold a JSON object in braces", path);
        json_decref(root);
        root = NULL;
    }
    os_file_unmap(&m);
    return root;
}

static int append(const char *buffer, size_t size, void *ctx) {
    struct {
        struct os_writer *w;
        struct error *e;
    } *to = ctx;
    return os_writer_append(to->w, buffer, size, to->e) ? 0 : -1;
}

bool json_file_save(const char *path, const json_t *value, int indent, struct error *e) {
    struct error mine = {0};
    struct {
        struct os_writer *w;
        struct error *e;
    } to = {os_writer_open(path, e), &mine};
    if (!to.w) return false;
    size_t flags = JSON_ENCODE_ANY | (indent > 0 ? JSON_INDENT((size_t)indent) : JSON_COMPACT);
    if (json_dump_callback(value, append, &to, flags) == 0 &&
        (indent <= 0 || os_writer_append(to.w, "\n", 1, &mine)))
        return os_writer_commit(&to.w, e);
    os_writer_abort(&to.w);
    return error_set(e, "%s", mine.text[0] ? mine.text : "cannot write JSON: a value in it cannot be expressed");
}

/* ---- Typed access ---- */

static const char *type_of(const json_t *v) {
    switch (json_typeof(v)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "a list";
    case JSON_STRING: return "a text";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a fraction";
    case JSON_TRUE:
    case JSON_FALSE: return "true or false";
    default: return "null";
    }
}

static void complain(struct json_reader *r, const char *key, const char *fmt, ...) {
    if (r->failed) return;
    r->failed = true;
    char what[300];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    error_set(r->e, "%s: \"%s\" %s", r->file ? r->file : "JSON", key, what);
}

static const json_t *look(const json_t *obj, const char *key) {
    const json_t *v = json_is_object(obj) ? json_object_get(obj, key) : NULL;
    return json_is_null(v) ? NULL : v;
}

bool json_has(const json_t *obj, const char *key) { return look(obj, key) != NULL; }

bool json_require(struct json_reader *r, const json_t *obj, const char *key) {
    if (look(obj, key)) return true;
    complain(r, key, "is missing");
    return false;
}

static bool take_int(struct json_reader *r, const char *key, const json_t *v, int64_t min, int64_t max, int64_t *out) {
    double d = json_is_real(v) ? json_real_value(v) : 0.5;
    if (json_is_integer(v)) *out = json_integer_value(v);
    else if (d == floor(d) && fabs(d) < 0x1p53) *out = (int64_t)d; /* 1.0 is what some writers make of 1 */
    else {
        complain(r, key, "is %s, an integer was expected", type_of(v));
        return false;
    }
    if (*out >= min && *out <= max) return true;
    complain(r, key, "is %lld, it must lie between %lld and %lld", (long long)*out, (long long)min, (long long)max);
    return false;
}

int64_t json_read_int(struct json_reader *r, const json_t *obj, const char *key, int64_t def, int64_t min, int64_t max) {
    const json_t *v = look(obj, key);
    int64_t out;
    return v && take_int(r, key, v, min, max, &out) ? out : def;
}

double json_read_number(struct json_reader *r, const json_t *obj, const char *key, double def) {
    const json_t *v = look(obj, key);
    if (!v) return def;
    if (json_is_number(v)) return json_number_value(v);
    complain(r, key, "is %s, a number was expected", type_of(v));
    return def;
}

bool json_read_bool(struct json_reader *r, const json_t *obj, const char *key, bool def) {
    const json_t *v = look(obj, key);
    if (!v) return def;
    if (json_is_boolean(v)) return json_is_true(v);
    complain(r, key, "is %s, true or false was expected", type_of(v));
    return def;
}

const char *json_read_string(struct json_reader *r, const json_t *obj, const char *key, const char *def) {
    const json_t *v = look(obj, key);
    if (!v) return def;
    if (json_is_string(v)) return json_string_value(v);
    complain(r, key, "is %s, a text was expected", type_of(v));
    return def;
}

size_t json_read_ints(struct json_reader *r, const json_t *obj, const char *key, int64_t *dst, size_t cap, int64_t min,
                      int64_t max) {
    const json_t *v = look(obj, key);
    if (!v) return 0;
    if (!json_is_array(v)) return cap && take_int(r, key, v, min, max, dst) ? 1 : 0;
    size_t n = json_array_size(v);
    if (n > cap) {
        complain(r, key, "has %zu entries, at most %zu are supported", n, cap);
        return 0;
    }
    for (size_t i = 0; i < n; i++)
        if (!take_int(r, key, json_array_get(v, i), min, max, &dst[i])) return 0;
    return n;
}

size_t json_read_strings(struct json_reader *r, const json_t *obj, const char *key, const char **dst, size_t cap) {
    const json_t *v = look(obj, key);
    if (!v) return 0;
    if (json_is_string(v) && cap) {
        dst[0] = json_string_value(v);
        return 1;
    }
    size_t n = json_array_size(v);
    if (!json_is_array(v) || n > cap) {
        if (json_is_array(v)) complain(r, key, "has %zu entries, at most %zu are supported", n, cap);
        else complain(r, key, "is %s, a list of texts was expected", type_of(v));
        return 0;
    }
    for (size_t i = 0; i < n; i++) {
        dst[i] = json_string_value(json_array_get(v, i));
        if (dst[i]) continue;
        complain(r, key, "holds %s, only texts were expected", type_of(json_array_get(v, i)));
        return 0;
    }
    return n;
}

static const json_t *read_typed(struct json_reader *r, const json_t *obj, const char *key, json_type type,
                                const char *wanted) {
    const json_t *v = look(obj, key);
    if (!v || json_typeof(v) == type) return v;
    complain(r, key, "is %s, %s was expected", type_of(v), wanted);
    return NULL;
}

const json_t *json_read_object(struct json_reader *r, const json_t *obj, const char *key) {
    return read_typed(r, obj, key, JSON_OBJECT, "an object");
}

const json_t *json_read_array(struct json_reader *r, const json_t *obj, const char *key) {
    return read_typed(r, obj, key, JSON_ARRAY, "a list");
}
