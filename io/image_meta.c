#include "io/image_priv.h"

#include <libexif/exif-data.h>
#include <stdlib.h>
#include <string.h>

/* Huffman tables of one segment: 16 counts, then that many values. The decoder trusts that they add up to at most
 * 256 and would write past its tables otherwise. */
static bool tables_are_sane(const uint8_t *p, size_t n) {
    while (n) {
        size_t values = 0;
        if (n < 17) return false;
        for (int i = 1; i <= 16; i++) values += p[i];
        if (values > 256 || values > n - 17) return false;
        p += 17 + values;
        n -= 17 + values;
    }
    return true;
}

/* Sees the same markers as the decoder does, which also skips padding between segments. */
bool image_jpeg_scan(const uint8_t *p, size_t n, struct image_bytes *exif) {
    size_t at = 2; /* after the start marker */
    while (at + 1 < n) {
        uint8_t m = p[at + 1];
        if (p[at] != 0xFF || m == 0xFF) {
            at++;
            continue;
        }
        at += 2;
        if (m == 0xD9) return true;
        if (m < 0xC0 || (m >= 0xD0 && m <= 0xD8)) return false; /* nothing that belongs between segments */
        if (at + 2 > n) return false;
        size_t len = (size_t)p[at] << 8 | p[at + 1];
        if (len < 2 || len > n - at) return false;
        if (m == 0xC4 && !tables_are_sane(p + at + 2, len - 2)) return false;
        if (m == 0xE1 && len >= 8 && !exif->data && memcmp(p + at + 2, "Exif\0\0", 6) == 0)
            *exif = (struct image_bytes){p + at + 2, len - 2};
        at += len;
        if (m != 0xDA) continue;
        /* Coded data: until a marker that is neither a stuffed zero nor a restart. */
        while (at + 1 < n && !(p[at] == 0xFF && p[at + 1] != 0 && (p[at + 1] < 0xD0 || p[at + 1] > 0xD7))) at++;
    }
    return false;
}

struct image_bytes image_webp_exif(const uint8_t *p, size_t n) {
    for (size_t at = 12; at + 8 <= n;) {
        uint32_t len;
        memcpy(&len, p + at + 4, 4);
        if (len > n - at - 8) break;
        if (memcmp(p + at, "EXIF", 4) == 0) return (struct image_bytes){p + at + 8, len};
        at += 8 + (size_t)len + (len & 1);
    }
    return (struct image_bytes){0};
}

int image_exif_orientation(struct image_bytes exif) {
    enum { PREFIX = 6, MOST = 1 << 20 };
    if (exif.bytes < 8 || exif.bytes > MOST) return 1;
    bool has_prefix = memcmp(exif.data, "Exif\0\0", PREFIX) == 0;
    uint8_t *blob = malloc(exif.bytes + PREFIX); /* libexif wants the prefix */
    if (!blob) return 1;
    memcpy(blob, "Exif\0\0", PREFIX);
    size_t skip = has_prefix ? PREFIX : 0;
    memcpy(blob + PREFIX, exif.data + skip, exif.bytes - skip);
    int orientation = 1;
    ExifData *d = exif_data_new();
    if (d) {
        exif_data_load_data(d, blob, (unsigned)(exif.bytes - skip + PREFIX));
        ExifEntry *entry = exif_content_get_entry(d->ifd[EXIF_IFD_0], EXIF_TAG_ORIENTATION);
        if (entry && entry->format == EXIF_FORMAT_SHORT && entry->components == 1 && entry->size >= 2)
            orientation = exif_get_short(entry->data, exif_data_get_byte_order(d));
        exif_data_unref(d);
    }
    free(blob);
    return orientation >= 1 && orientation <= 8 ? orientation : 1;
}
