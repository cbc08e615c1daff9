/* PNG files with text in them. */
#ifndef ATELIER_IO_PNG_H
#define ATELIER_IO_PNG_H

#include "io/image.h"

struct png_text {
    const char *key;   /* 1..79 printable ASCII characters */
    const char *value; /* UTF-8 */
};

/* 8-bit RGB. Texts become tEXt where Latin-1 suffices, else iTXt, as Pillow does. The same input gives the same
 * bytes. Values that are not UTF-8 are an error. */
bool png_encode(struct arena *a, const struct image *im, const struct png_text *texts, size_t n_texts, uint8_t **out,
                size_t *bytes, struct error *e);

/* The same into a file, by rename. */
bool png_write(const char *path, const struct image *im, const struct png_text *texts, size_t n_texts, struct error *e);

/* All tEXt, zTXt and iTXt entries in order, as UTF-8, at most 64 entries and 8 MiB; damaged entries are skipped.
 * Fails if the file is not a PNG or its chunks are damaged. Memory from a. */
bool png_read_texts(struct arena *a, const char *path, struct png_text **out, size_t *n, struct error *e);
bool png_decode_texts(struct arena *a, const void *data, size_t bytes, struct png_text **out, size_t *n, struct error *e);

/* Value of the first entry with that key, NULL without one. */
const char *png_text_find(const struct png_text *texts, size_t n, const char *key);

#endif
