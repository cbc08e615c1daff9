/* Zip archives in memory, as torch.save writes them: stored or deflated members, zip64. Nothing is unpacked to disk,
 * nothing encrypted or spread over several files is read. Archives may be hostile. */
#ifndef ATELIER_IO_ZIP_H
#define ATELIER_IO_ZIP_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

struct arena;

struct zip_member {
    const char *name;
    const uint8_t *packed; /* into the archive's bytes */
    uint64_t packed_bytes, bytes;
    uint32_t crc;
    bool deflated; /* else packed is the content itself */
};
struct zip {
    struct zip_member *members; /* by name */
    size_t n;
};

bool zip_is(const uint8_t *data, size_t bytes);
/* Reads the directory. data must outlive the result; memory from a. Every member's range is checked, two of one name
 * are refused. */
bool zip_open(struct zip *z, struct arena *a, const uint8_t *data, size_t bytes, struct error *e);
const struct zip_member *zip_find(const struct zip *z, const char *name); /* NULL if absent */

/* The member's content: in place where it is stored, else unpacked into memory from a and compared with its checksum.
 * NULL with a sentence naming the member. */
const uint8_t *zip_content(const struct zip_member *m, struct arena *a, struct error *e);
/* Compares a stored member with its checksum. */
bool zip_check(const struct zip_member *m, struct error *e);

#endif
