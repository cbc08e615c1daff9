#include "io/tfevents.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/os.h"

enum { MAX_SCALARS = 16, MAX_TAG = 100, MAX_RECORD = 4096 };

struct tfevents {
    struct os_appender *out;
};

uint32_t tfevents_crc(const void *data, size_t bytes) {
    const uint8_t *p = data;
    uint32_t crc = ~0u;
    for (size_t i = 0; i < bytes; i++) {
        crc ^= p[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    }
    return ~crc;
}

static uint32_t masked(const void *data, size_t bytes) {
    uint32_t crc = tfevents_crc(data, bytes);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

/* ---- Protocol buffers: a message grows in a buffer ---- */

struct message {
    uint8_t bytes[MAX_RECORD];
    size_t n;
};

static void raw(struct message *m, const void *data, size_t n) {
    assert(m->n + n <= sizeof m->bytes);
    memcpy(m->bytes + m->n, data, n);
    m->n += n;
}

static void varint(struct message *m, uint64_t v) {
    for (; v > 0x7f; v >>= 7) raw(m, &(uint8_t){(uint8_t)(v | 0x80)}, 1);
    raw(m, &(uint8_t){(uint8_t)v}, 1);
}

enum wire { WIRE_VARINT, WIRE_DOUBLE, WIRE_BYTES, WIRE_FLOAT = 5 };
static void key(struct message *m, int field, enum wire wire) { varint(m, (uint64_t)(field << 3 | (int)wire)); }

static void bytes(struct message *m, int field, const void *data, size_t n) {
    key(m, field, WIRE_BYTES);
    varint(m, n);
    raw(m, data, n);
}

/* Fields of Event: 1 wall_time, 2 step, 3 file_version, 5 summary, 7 session_log. */
static void begin(struct message *m, double seconds, int64_t step) {
    m->n = 0;
    key(m, 1, WIRE_DOUBLE);
    raw(m, &seconds, sizeof seconds);
    key(m, 2, WIRE_VARINT);
    varint(m, (uint64_t)step);
}

/* A frame: length and its checksum, data and its checksum, in little-endian. */
static bool put(struct tfevents *t, const struct message *m, struct error *e) {
    uint8_t frame[MAX_RECORD + 16];
    uint64_t n = m->n;
    uint32_t head, tail = masked(m->bytes, m->n);
    memcpy(frame, &n, 8);
    head = masked(frame, 8);
    memcpy(frame + 8, &head, 4);
    memcpy(frame + 12, m->bytes, m->n);
    memcpy(frame + 12 + m->n, &tail, 4);
    return os_appender_write(t->out, frame, m->n + 16, e);
}

static const char version[] = "brain.Event:2";

static bool write_head(struct tfevents *t, double seconds, int64_t first_step, struct error *e) {
    struct message m;
    begin(&m, seconds, first_step);
    bytes(&m, 3, version, sizeof version - 1);
    if (!put(t, &m, e)) return false;
    if (first_step == 0) return true;
    static const uint8_t start[] = {1 << 3, 1}; /* SessionLog.status = START */
    begin(&m, seconds, first_step);
    bytes(&m, 7, start, sizeof start);
    return put(t, &m, e);
}

struct tfevents *tfevents_open(const char *dir, double seconds, int64_t first_step, struct error *e) {
    struct arena *a = arena_create(NULL);
    struct tfevents *t = calloc(1, sizeof *t);
    bool ok = t ? os_dir_make(dir, e) : error_set(e, "cannot write to '%s': out of memory", dir);
    long long second = (long long)seconds;
    const char *path = arena_printf(a, "%s/events.out.tfevents.%010lld.atelier", dir, second);
    while (ok && os_path_exists(path)) path = arena_printf(a, "%s/events.out.tfevents.%010lld.atelier", dir, ++second);
    ok = ok && (t->out = os_appender_open(path, true, e)) && write_head(t, seconds, first_step, e);
    if (!ok) tfevents_close(&t);
    arena_destroy(&a);
    return t;
}

void tfevents_close(struct tfevents **p) {
    if (!*p) return;
    os_appender_close(&(*p)->out);
    free(*p);
    *p = NULL;
}

/* Summary: 1 value; Value: 1 tag, 2 simple_value. */
bool tfevents_write(struct tfevents *t, double seconds, int64_t step, const struct tfevents_scalar *scalars, int n,
                    struct error *e) {
    struct message event, summary = {.n = 0}, value;
    assert(n <= MAX_SCALARS);
    for (int i = 0; i < n; i++) {
        assert(strlen(scalars[i].tag) <= MAX_TAG);
        value.n = 0;
        bytes(&value, 1, scalars[i].tag, strlen(scalars[i].tag));
        key(&value, 2, WIRE_FLOAT);
        raw(&value, &scalars[i].value, sizeof scalars[i].value);
        bytes(&summary, 1, value.bytes, value.n);
    }
    begin(&event, seconds, step);
    bytes(&event, 5, summary.bytes, summary.n);
    return put(t, &event, e);
}
