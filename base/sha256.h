/* SHA-256 (FIPS 180-4). */
#ifndef ATELIER_BASE_SHA256_H
#define ATELIER_BASE_SHA256_H

#include <stddef.h>
#include <stdint.h>

struct sha256 {
    uint32_t state[8];
    uint64_t bytes;
    uint8_t block[64];
};

enum { SHA256_HEX_BYTES = 65 };

void sha256_begin(struct sha256 *s);
void sha256_update(struct sha256 *s, const void *data, size_t bytes);
void sha256_end(struct sha256 *s, char hex[SHA256_HEX_BYTES]); /* lower case, zero terminated */

#endif
