#include "io/image.h"
#include "base/arena.h"

#include <assert.h>
#include <string.h>

static uint8_t *pixel(const struct image *im, int x, int y) { return im->rgb + 3 * ((size_t)y * (size_t)im->w + (size_t)x); }

struct image image_create(struct arena *a, int w, int h) {
    assert(w >= 1 && h >= 1 && w <= IMAGE_MAX_SIDE && h <= IMAGE_MAX_SIDE);
    return (struct image){w, h, arena_alloc(a, (size_t)w * (size_t)h * 3)};
}

void image_blit(struct image *dst, const struct image *src, int x, int y) {
    int x0 = x < 0 ? -x : 0, y0 = y < 0 ? -y : 0;
    int x1 = src->w < dst->w - x ? src->w : dst->w - x, y1 = src->h < dst->h - y ? src->h : dst->h - y;
    if (x0 >= x1) return;
    for (int r = y0; r < y1; r++) memcpy(pixel(dst, x + x0, y + r), pixel(src, x0, r), (size_t)(x1 - x0) * 3);
}

struct image image_crop(struct arena *a, const struct image *src, int x, int y, int w, int h) {
    assert(x >= 0 && y >= 0 && w <= src->w - x && h <= src->h - y);
    struct image out = image_create(a, w, h);
    image_blit(&out, src, -x, -y);
    return out;
}

struct image image_flip_horizontal(struct arena *a, const struct image *src) {
    struct image out = image_create(a, src->w, src->h);
    for (int y = 0; y < src->h; y++)
        for (int x = 0; x < src->w; x++) memcpy(pixel(&out, x, y), pixel(src, src->w - 1 - x, y), 3);
    return out;
}
