/* Shared by the decoders of this room. */
#ifndef ATELIER_IO_IMAGE_PRIV_H
#define ATELIER_IO_IMAGE_PRIV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;

struct image_bytes {
    const uint8_t *data;
    size_t bytes;
};

/* Walks JPEG markers up to the end of the picture. False if the end is missing or a segment could harm the decoder. exif stays
 * {0} if there is none. */
bool image_jpeg_scan(const uint8_t *data, size_t bytes, struct image_bytes *exif);

/* The EXIF chunk of a WebP container, {0} if there is none. */
struct image_bytes image_webp_exif(const uint8_t *data, size_t bytes);

/* EXIF orientation 1..8; 1 also for anything damaged. The blob may begin with "Exif\0\0" or with the TIFF header. */
int image_exif_orientation(struct image_bytes exif);

/* Checks structure, checksums and that the pixels inflate to what the header promises, which the PNG decoder does
 * not. exif stays {0} if there is none. */
bool image_png_check(const uint8_t *data, size_t bytes, struct image_bytes *exif, struct error *e);

#endif
