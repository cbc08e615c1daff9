/* Pictures as packed 8-bit sRGB. Memory comes from the arena given; a struct image is a plain view that may be copied.
 * Functions are safe from any thread (one arena per thread). */
#ifndef ATELIER_IO_IMAGE_H
#define ATELIER_IO_IMAGE_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct arena;

struct image {
    int w, h;
    uint8_t *rgb; /* h rows of w pixels of 3 bytes, no padding */
};

enum { IMAGE_MAX_SIDE = 16384, IMAGE_MAX_PIXELS = 100000000 };

/* Black. Sides must lie in 1 .. IMAGE_MAX_SIDE. */
struct image image_create(struct arena *a, int w, int h);

/* Reads JPEG, PNG or WebP (first frame excluded: animations are refused), told apart by content. EXIF orientation is
 * applied, alpha composited on white. Refuses pictures with a side under min_side or past the limits above, and
 * damaged ones. name only serves messages. */
bool image_decode(struct arena *a, const void *data, size_t bytes, const char *name, int min_side, struct image *out,
                  struct error *e);
bool image_load(struct arena *a, const char *path, int min_side, struct image *out, struct error *e);

/* Size after orientation, from the header alone. */
bool image_probe(const char *path, int *w, int *h, struct error *e);

/* Lanczos (3 lobes, widened when shrinking), 8 bits between the two passes: the bytes Pillow's LANCZOS gives. */
struct image image_resize(struct arena *a, const struct image *src, int w, int h);

/* Keeps the aspect ratio: scales so that w x h is covered, then cuts the middle. */
struct image image_resize_cover(struct arena *a, const struct image *src, int w, int h);

struct image image_crop(struct arena *a, const struct image *src, int x, int y, int w, int h);
struct image image_flip_horizontal(struct arena *a, const struct image *src);

/* Copies src so that its corner stands at (x, y); parts outside are cut. */
void image_blit(struct image *dst, const struct image *src, int x, int y);

/* ASCII text in a built-in 5x7 font, each font pixel scale x scale; a character is 6 x 9 font pixels. '\n' starts a
 * line; characters beyond ASCII show as '?'. colour is 0xRRGGBB. Cut at the borders. */
enum { IMAGE_GLYPH_W = 6, IMAGE_GLYPH_H = 9 };
void image_text(struct image *dst, int x, int y, int scale, uint32_t colour, const char *text);

/* A sheet of rows x cols cells (row-major; w == 0 leaves a blank) on white, with labels above and to the left.
 * Either label list may be NULL; long labels wrap. Fails if the sheet would pass the size limits. */
struct image_grid_params {
    int rows, cols;
    const struct image *cells;
    const char *const *row_labels, *const *col_labels;
    const char *title; /* NULL = none */
};
bool image_grid(struct arena *a, const struct image_grid_params *p, struct image *out, struct error *e);

#endif
