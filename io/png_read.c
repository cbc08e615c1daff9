#include "io/png.h"
#include "io/image_priv.h"
#include "base/arena.h"
#include "base/os.h"
#include "base/text.h"

#include <limits.h>
#include <string.h>
#include <zlib.h>

enum { MAX_ENTRIES = 64, MAX_TEXT_BYTES = 8 << 20 };

/* ---- Chunks ---- */

struct chunk {
    const uint8_t *type, *data;
    uint32_t bytes;
};

static uint32_t get32(const uint8_t *p) { return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3]; }

static bool is(const struct chunk *c, const char *type) { return memcmp(c->type, type, 4) == 0; }

/* Reads the chunk at *at and moves on. */
static bool next_chunk(const uint8_t *p, size_t n, size_t *at, struct chunk *c, struct error *e) {
    if (n - *at < 12) return error_set(e, "it is cut short");
    uint32_t len = get32(p + *at);
    if (len > INT32_MAX || len > n - *at - 12) return error_set(e, "it is cut short");
    *c = (struct chunk){p + *at + 4, p + *at + 8, len};
    if (get32(c->data + len) != crc32_z(0, c->type, (size_t)len + 4)) return error_set(e, "a checksum does not match");
    *at += 12 + (size_t)len;
    return true;
}

static bool begin(const uint8_t *p, size_t n, size_t *at, struct chunk *head, struct error *e) {
    if (n < 8 || memcmp(p, "\x89PNG\r\n\x1a\n", 8) != 0) return error_set(e, "it is not a PNG file");
    *at = 8;
    if (!next_chunk(p, n, at, head, e)) return false;
    return is(head, "IHDR") && head->bytes == 13 ? true : error_set(e, "its header is unreadable");
}

/* ---- Whole file check ---- */

/* Most bytes that the pixels may inflate to; 0 for an impossible header. */
static uint64_t pixel_bytes(const uint8_t *head) {
    static const uint8_t channels[7] = {1, 0, 3, 1, 2, 0, 4};
    uint64_t w = get32(head), h = get32(head + 4), bits = head[8];
    if (head[9] > 6 || channels[head[9]] == 0 || bits > 16 || w > 1 << 20 || h > 1 << 20 || head[12] > 1) return 0;
    uint64_t whole = h * (1 + (w * bits * channels[head[9]] + 7) / 8);
    return head[12] ? 2 * whole + 1024 : whole; /* interlaced: seven passes round up */
}

struct inflater {
    z_stream z;
    uint64_t out;
    int rc;
};

/* Inflates into nowhere and counts. */
static void feed(struct inflater *in, const struct chunk *c, uint64_t limit) {
    uint8_t sink[32768];
    in->z.next_in = (uint8_t *)c->data;
    in->z.avail_in = c->bytes;
    while (in->rc == Z_OK && in->z.avail_in && in->out <= limit) {
        in->z.next_out = sink;
        in->z.avail_out = sizeof sink;
        in->rc = inflate(&in->z, Z_NO_FLUSH);
        if (in->rc == Z_BUF_ERROR) in->rc = Z_OK;
        in->out += sizeof sink - in->z.avail_out;
    }
}

bool image_png_check(const uint8_t *p, size_t n, struct image_bytes *exif, struct error *e) {
    size_t at;
    struct chunk c;
    if (!begin(p, n, &at, &c, e)) return false;
    uint64_t limit = pixel_bytes(c.data);
    if (limit == 0) return error_set(e, "its header is unreadable");
    bool interlaced = c.data[12] != 0, ok = true;
    struct inflater in = {.rc = Z_OK};
    if (inflateInit(&in.z) != Z_OK) return error_set(e, "out of memory");
    do {
        ok = next_chunk(p, n, &at, &c, e);
        if (ok && is(&c, "IDAT")) feed(&in, &c, limit);
        if (ok && is(&c, "eXIf")) *exif = (struct image_bytes){c.data, c.bytes};
    } while (ok && !is(&c, "IEND"));
    inflateEnd(&in.z);
    if (!ok) return false;
    if (in.rc != Z_STREAM_END) return error_set(e, "its pixels do not decompress");
    return in.out == limit || (interlaced && in.out < limit) ? true : error_set(e, "its pixels do not match its size");
}

/* ---- Texts ---- */

struct reader {
    struct arena *a;
    struct png_text *texts;
    size_t n, used_bytes;
};

static char *latin1_to_utf8(struct arena *a, const uint8_t *s, size_t n) {
    uint8_t *out = arena_alloc(a, 2 * n + 1), *p = out;
    for (size_t i = 0; i < n; i++) p += text_utf8_encode(p, s[i] ? s[i] : ' ');
    return (char *)out;
}

/* NULL if the data is damaged or would pass the limit. */
static uint8_t *inflate_text(struct arena *a, const uint8_t *s, size_t n, size_t *bytes) {
    z_stream z = {.next_in = (uint8_t *)s, .avail_in = (uInt)n};
    if (inflateInit(&z) != Z_OK) return NULL;
    size_t room = 0;
    uint8_t *out = NULL;
    int rc = Z_OK;
    while (rc == Z_OK && room < MAX_TEXT_BYTES) {
        size_t more = room ? 2 * room : 4096;
        out = arena_grow(a, out, room, more, 1);
        z.next_out = out + room;
        z.avail_out = (uInt)(more - room);
        room = more;
        rc = inflate(&z, Z_NO_FLUSH);
    }
    *bytes = z.total_out;
    inflateEnd(&z);
    return rc == Z_STREAM_END ? out : NULL;
}

/* The body after the key of each chunk type, to UTF-8; NULL if damaged. */
static char *text_value(struct arena *a, const struct chunk *c, const uint8_t *s, size_t n) {
    size_t m;
    if (is(c, "tEXt")) return latin1_to_utf8(a, s, n);
    if (is(c, "zTXt")) {
        uint8_t *t = n >= 1 && s[0] == 0 ? inflate_text(a, s + 1, n - 1, &m) : NULL;
        return t ? latin1_to_utf8(a, t, m) : NULL;
    }
    if (n < 4 || s[0] > 1 || s[1] != 0) return NULL;
    bool packed = s[0] == 1;
    const uint8_t *end = s + n, *lang = memchr(s + 2, 0, n - 2);
    const uint8_t *word = lang ? memchr(lang + 1, 0, (size_t)(end - lang - 1)) : NULL;
    if (!word) return NULL;
    s = word + 1;
    m = (size_t)(end - s);
    if (packed && !(s = inflate_text(a, s, m, &m))) return NULL;
    return text_utf8_valid(s, m) && !memchr(s, 0, m) ? arena_strndup(a, (const char *)s, m) : NULL;
}

static void take_text(struct reader *r, const struct chunk *c) {
    const uint8_t *zero = memchr(c->data, 0, c->bytes < 80 ? c->bytes : 80);
    if (!zero || zero == c->data || r->n == MAX_ENTRIES || c->bytes > MAX_TEXT_BYTES) return;
    size_t key = (size_t)(zero - c->data);
    char *value = text_value(r->a, c, zero + 1, c->bytes - key - 1);
    if (!value || strlen(value) > MAX_TEXT_BYTES - r->used_bytes) return;
    r->used_bytes += strlen(value);
    r->texts[r->n++] = (struct png_text){latin1_to_utf8(r->a, c->data, key), value};
}

bool png_decode_texts(struct arena *a, const void *data, size_t bytes, struct png_text **out, size_t *n, struct error *e) {
    size_t at;
    struct chunk c;
    struct reader r = {.a = a, .texts = arena_alloc_n(a, MAX_ENTRIES, sizeof *r.texts)};
    if (!begin(data, bytes, &at, &c, e)) return false;
    do {
        if (!next_chunk(data, bytes, &at, &c, e)) return false;
        if (is(&c, "tEXt") || is(&c, "zTXt") || is(&c, "iTXt")) take_text(&r, &c);
    } while (!is(&c, "IEND"));
    *out = r.texts;
    *n = r.n;
    return true;
}

bool png_read_texts(struct arena *a, const char *path, struct png_text **out, size_t *n, struct error *e) {
    struct os_map m;
    if (!os_file_map(&m, path, e)) return false;
    bool ok = png_decode_texts(a, m.data, m.bytes, out, n, e);
    os_file_unmap(&m);
    return ok || error_prefix(e, "cannot read '%s'", path);
}

const char *png_text_find(const struct png_text *texts, size_t n, const char *key) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(texts[i].key, key) == 0) return texts[i].value;
    return NULL;
}
