#include "io/zip.h"
#include "io/damage_priv.h"
#include "base/arena.h"
#include "base/text.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* Signatures and lengths of the records without their variable parts. */
enum { LOCAL = 0x04034b50, CENTRAL = 0x02014b50, END = 0x06054b50, END64 = 0x06064b50, LOCATOR64 = 0x07064b50 };
enum { LOCAL_BYTES = 30, CENTRAL_BYTES = 46, END_BYTES = 22, END64_BYTES = 56, LOCATOR64_BYTES = 20 };
enum { MAX_MEMBERS = 200000, MAX_COMMENT = 65535 };

static uint16_t u16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }

static uint32_t u32(const uint8_t *p) { return u16(p) | (uint32_t)u16(p + 2) << 16; }

static uint64_t u64(const uint8_t *p) { return u32(p) | (uint64_t)u32(p + 4) << 32; }

bool zip_is(const uint8_t *data, size_t bytes) { return bytes >= END_BYTES && u32(data) == LOCAL; }

struct archive {
    const uint8_t *data;
    uint64_t bytes;
    uint64_t count, directory, directory_bytes;
};

/* The 64-bit end record stands where its locator says; older ones leave fields at their largest value instead. */
static bool read_end64(struct archive *z, uint64_t end, struct error *e) {
    if (end < LOCATOR64_BYTES || u32(z->data + end - LOCATOR64_BYTES) != LOCATOR64) return true;
    uint64_t at = u64(z->data + end - LOCATOR64_BYTES + 8);
    if (at > end - LOCATOR64_BYTES || end - LOCATOR64_BYTES - at < END64_BYTES || u32(z->data + at) != END64)
        return error_set(e, "its 64-bit directory record is not where it should be");
    z->count = u64(z->data + at + 32);
    z->directory_bytes = u64(z->data + at + 40);
    z->directory = u64(z->data + at + 48);
    return true;
}

static bool read_end(struct archive *z, struct error *e) {
    uint64_t lowest = z->bytes > END_BYTES + MAX_COMMENT ? z->bytes - END_BYTES - MAX_COMMENT : 0;
    for (uint64_t at = z->bytes - END_BYTES + 1; at-- > lowest;) {
        const uint8_t *p = z->data + at;
        if (u32(p) != END || u16(p + 20) != z->bytes - at - END_BYTES) continue;
        z->count = u16(p + 10);
        z->directory_bytes = u32(p + 12);
        z->directory = u32(p + 16);
        return read_end64(z, at, e);
    }
    return error_set(e, "the archive's directory is missing: the file is cut short; " FETCH_AGAIN);
}

/* Sizes and offset that did not fit 32 bits stand in the extra field 1, in this order. */
static bool read_extra64(const uint8_t *extra, size_t n, uint64_t *const fields[3]) {
    bool wanted = false;
    for (int i = 0; i < 3; i++) wanted |= *fields[i] == UINT32_MAX;
    while (wanted && n >= 4) {
        size_t size = u16(extra + 2);
        if (size > n - 4) return false;
        if (u16(extra) == 1) {
            const uint8_t *p = extra + 4, *end = p + size;
            for (int i = 0; i < 3; i++) {
                if (*fields[i] != UINT32_MAX) continue;
                if (end - p < 8) return false;
                *fields[i] = u64(p);
                p += 8;
            }
            return true;
        }
        extra += 4 + size;
        n -= 4 + size;
    }
    return true;
}

/* Content begins behind the local header, whose name and extra field have lengths of their own. */
static bool locate(const struct archive *z, struct zip_member *m, uint64_t local, struct error *e) {
    const char *shown = TEXT_SHOW(m->name);
    if (local > z->bytes || z->bytes - local < LOCAL_BYTES || u32(z->data + local) != LOCAL)
        return error_set(e, "its member '%s' is not where the directory says; " FETCH_AGAIN, shown);
    uint64_t begin = local + LOCAL_BYTES + u16(z->data + local + 26) + u16(z->data + local + 28);
    if (begin > z->bytes || m->packed_bytes > z->bytes - begin)
        return error_set(e, "its member '%s' runs past the end of the file: it is cut short; " FETCH_AGAIN, shown);
    m->packed = z->data + begin;
    return true;
}

static bool read_member(const struct archive *z, const uint8_t *p, struct arena *a, struct zip_member *m, struct error *e) {
    size_t name = u16(p + 28), extra = u16(p + 30);
    uint64_t local = u32(p + 42);
    m->name = arena_strndup(a, (const char *)p + CENTRAL_BYTES, name);
    m->crc = u32(p + 16);
    m->packed_bytes = u32(p + 20);
    m->bytes = u32(p + 24);
    const char *shown = TEXT_SHOW(m->name);
    if (strlen(m->name) != name) return error_set(e, "its member '%s' has a name with a zero byte", shown);
    if (!read_extra64(p + CENTRAL_BYTES + name, extra, (uint64_t *const[3]){&m->bytes, &m->packed_bytes, &local}))
        return error_set(e, "its member '%s' has a broken 64-bit record", shown);
    uint16_t method = u16(p + 10);
    if (u16(p + 8) & 1) return error_set(e, "its member '%s' is encrypted", shown);
    if (method != 0 && method != 8) return error_set(e, "its member '%s' is packed by method %u; stored and deflated are read",
                                                     shown, method);
    m->deflated = method == 8;
    if (!m->deflated && m->bytes != m->packed_bytes)
        return error_set(e, "its member '%s' is stored but has two sizes", shown);
    return locate(z, m, local, e);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct zip_member *)a)->name, ((const struct zip_member *)b)->name);
}

bool zip_open(struct zip *out, struct arena *a, const uint8_t *data, size_t bytes, struct error *e) {
    struct archive z = {.data = data, .bytes = bytes};
    if (bytes < END_BYTES) return error_set(e, "it is too short for an archive; " FETCH_AGAIN);
    if (!read_end(&z, e)) return false;
    if (z.directory > bytes || z.directory_bytes > bytes - z.directory)
        return error_set(e, "the archive's directory lies outside the file; " FETCH_AGAIN);
    if (z.count > MAX_MEMBERS || z.count > z.directory_bytes / CENTRAL_BYTES)
        return error_set(e, "it claims %llu members, which is not plausible", (unsigned long long)z.count);
    *out = (struct zip){.members = arena_alloc_n(a, (size_t)z.count, sizeof *out->members)};
    const uint8_t *p = data + z.directory, *end = p + z.directory_bytes;
    for (uint64_t i = 0; i < z.count; i++) {
        bool ours = end - p >= CENTRAL_BYTES && u32(p) == CENTRAL;
        size_t record = ours ? CENTRAL_BYTES + (size_t)u16(p + 28) + u16(p + 30) + u16(p + 32) : 0;
        if (!ours || (size_t)(end - p) < record) return error_set(e, "the archive's directory is damaged; " FETCH_AGAIN);
        if (!read_member(&z, p, a, &out->members[out->n++], e)) return false;
        p += record;
    }
    if (out->n) qsort(out->members, out->n, sizeof *out->members, by_name);
    for (size_t i = 1; i < out->n; i++)
        if (!strcmp(out->members[i].name, out->members[i - 1].name))
            return error_set(e, "it has two members called '%s'", TEXT_SHOW(out->members[i].name));
    return true;
}

const struct zip_member *zip_find(const struct zip *z, const char *name) {
    struct zip_member key = {.name = name};
    return z->n ? bsearch(&key, z->members, z->n, sizeof key, by_name) : NULL;
}

static uint32_t checksum(const uint8_t *data, uint64_t bytes) {
    return (uint32_t)crc32_z(crc32_z(0, NULL, 0), data, (z_size_t)bytes);
}

bool zip_check(const struct zip_member *m, struct error *e) {
    if (m->deflated || checksum(m->packed, m->bytes) == m->crc) return true;
    return error_set(e, "its member '%s' is damaged: the checksum differs; " FETCH_AGAIN, TEXT_SHOW(m->name));
}

/* zlib counts in 32 bits, hence the loop. */
static bool unpack(const struct zip_member *m, uint8_t *dst) {
    z_stream s = {0};
    if (inflateInit2(&s, -MAX_WBITS) != Z_OK) return false;
    uint64_t in = 0, out = 0;
    int status = Z_OK;
    enum { STEP = 1 << 30 };
    while (status == Z_OK) {
        if (s.avail_in == 0) {
            uint64_t n = m->packed_bytes - in < STEP ? m->packed_bytes - in : STEP;
            s.next_in = (uint8_t *)m->packed + in, s.avail_in = (uInt)n;
            in += n;
        }
        if (s.avail_out == 0) {
            uint64_t n = m->bytes - out < STEP ? m->bytes - out : STEP;
            s.next_out = dst + out, s.avail_out = (uInt)n;
            out += n;
        }
        status = inflate(&s, Z_NO_FLUSH);
    }
    bool whole = status == Z_STREAM_END && out - s.avail_out == m->bytes;
    inflateEnd(&s);
    return whole && checksum(dst, m->bytes) == m->crc;
}

const uint8_t *zip_content(const struct zip_member *m, struct arena *a, struct error *e) {
    if (!m->deflated) return m->packed;
    /* Deflate packs at most 1032 to 1; more is a lie about the size. */
    if (m->bytes / 1040 > m->packed_bytes)
        return error_set(e, "its member '%s' cannot have the size it claims", TEXT_SHOW(m->name)), NULL;
    uint8_t *dst = arena_alloc(a, (size_t)m->bytes + 1);
    if (unpack(m, dst)) return dst;
    return error_set(e, "its member '%s' is damaged: it cannot be unpacked; " FETCH_AGAIN, TEXT_SHOW(m->name)), NULL;
}
