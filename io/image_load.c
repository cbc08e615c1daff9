#include "io/image.h"
#include "io/image_priv.h"
#include "io/stb_priv.h"
#include "base/arena.h"
#include "base/os.h"
#include "base/text.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <webp/decode.h>

enum kind { KIND_NONE, KIND_JPEG, KIND_PNG, KIND_WEBP };

struct source {
    const uint8_t *data;
    size_t bytes;
    const char *name;
    enum kind kind;
    int w, h, orientation;
    struct image_bytes exif;
};

static enum kind sniff(const uint8_t *p, size_t n) {
    if (n >= 8 && memcmp(p, "\x89PNG\r\n\x1a\n", 8) == 0) return KIND_PNG;
    if (n >= 3 && memcmp(p, "\xff\xd8\xff", 3) == 0) return KIND_JPEG;
    if (n >= 16 && memcmp(p, "RIFF", 4) == 0 && memcmp(p + 8, "WEBP", 4) == 0) return KIND_WEBP;
    return KIND_NONE;
}

static const char *kind_name(enum kind k) { return k == KIND_PNG ? "PNG" : k == KIND_JPEG ? "JPEG" : "WebP"; }

static bool damaged(const struct source *s, const char *why, struct error *e) {
    return error_set(e, "'%s' is a damaged %s picture: %s", s->name, kind_name(s->kind), why);
}

static bool too_large(const struct source *s) {
    return s->w > IMAGE_MAX_SIDE || s->h > IMAGE_MAX_SIDE || (int64_t)s->w * s->h > IMAGE_MAX_PIXELS;
}

static int get31(const uint8_t *p) { return (p[0] & 0x7f) << 24 | p[1] << 16 | p[2] << 8 | p[3]; }

/* The decoder calls a PNG past its own limits damaged. */
static bool png_too_large(struct source *s) {
    if (s->kind != KIND_PNG || s->bytes < 24 || memcmp(s->data + 12, "IHDR", 4) != 0) return false;
    s->w = get31(s->data + 16);
    s->h = get31(s->data + 20);
    return too_large(s);
}

/* Header only: kind and size, within the limits. */
static bool look(struct source *s, struct error *e) {
    s->orientation = 1;
    s->kind = sniff(s->data, s->bytes);
    if (s->kind == KIND_NONE)
        return error_set(e, "'%s' is not a picture that can be read: JPEG, PNG or WebP was expected", s->name);
    if (s->bytes > INT_MAX) return error_set(e, "'%s' is too large: %zu bytes", s->name, s->bytes);
    if (s->kind == KIND_WEBP) {
        WebPBitstreamFeatures f;
        if (WebPGetFeatures(s->data, s->bytes, &f) != VP8_STATUS_OK) return damaged(s, "its header is unreadable", e);
        if (f.has_animation) return error_set(e, "'%s' is an animation; only still pictures can be used", s->name);
        s->w = f.width;
        s->h = f.height;
    } else if (s->kind == KIND_JPEG && !image_jpeg_scan(s->data, s->bytes, &s->exif)) {
        /* Before the decoder sees a single marker: it trusts them. */
        return damaged(s, "it is cut short or its segments are wrong", e);
    } else if (!png_too_large(s) && !image_stb_info(s->data, (int)s->bytes, &s->w, &s->h)) {
        return damaged(s, image_stb_reason(), e);
    }
    if (too_large(s))
        return error_set(e, "'%s' is too large: %d x %d pixels, at most %d a side and %d million in all are read; make it "
                            "smaller", s->name, s->w, s->h, IMAGE_MAX_SIDE, IMAGE_MAX_PIXELS / 1000000);
    return s->w > 0 && s->h > 0 ? true : damaged(s, "it has no pixels", e);
}

static bool check_whole(struct source *s, struct error *e) {
    struct error why;
    if (s->kind == KIND_PNG && !image_png_check(s->data, s->bytes, &s->exif, &why)) return damaged(s, why.text, e);
    if (s->kind == KIND_WEBP) s->exif = image_webp_exif(s->data, s->bytes);
    s->orientation = image_exif_orientation(s->exif);
    return true;
}

static uint8_t on_white(uint8_t v, uint8_t alpha) { return (uint8_t)((v * alpha + 255 * (255 - alpha) + 127) / 255); }

static void to_rgb(uint8_t *dst, const uint8_t *src, size_t pixels, int channels) {
    for (size_t i = 0; i < pixels; i++, src += channels, dst += 3) {
        bool colour = channels >= 3;
        uint8_t alpha = channels == 4 ? src[3] : channels == 2 ? src[1] : 255;
        for (int c = 0; c < 3; c++) dst[c] = on_white(src[colour ? c : 0], alpha);
    }
}

static bool decode_webp(struct arena *a, const struct source *s, struct image *out, struct error *e) {
    int w, h;
    uint8_t *rgba = WebPDecodeRGBA(s->data, s->bytes, &w, &h);
    if (!rgba || w != s->w || h != s->h) {
        WebPFree(rgba);
        return damaged(s, "its pixels cannot be decoded", e);
    }
    *out = image_create(a, w, h);
    to_rgb(out->rgb, rgba, (size_t)w * (size_t)h, 4);
    WebPFree(rgba);
    return true;
}

static bool decode_stb(struct arena *a, const struct source *s, struct image *out, struct error *e) {
    int w, h, channels;
    uint8_t *px = image_stb_load(s->data, (int)s->bytes, &w, &h, &channels);
    if (!px) return damaged(s, image_stb_reason(), e);
    *out = image_create(a, w, h);
    to_rgb(out->rgb, px, (size_t)w * (size_t)h, channels);
    free(px);
    return true;
}

/* EXIF values 2..8: which corner the first row and column belong to. */
static struct image orient(struct arena *a, const struct image *src, int o) {
    if (o == 1) return *src;
    bool turn = o >= 5;
    struct image dst = image_create(a, turn ? src->h : src->w, turn ? src->w : src->h);
    for (int y = 0; y < dst.h; y++)
        for (int x = 0; x < dst.w; x++) {
            int sx = turn ? y : x, sy = turn ? x : y;
            if (o == 2 || o == 3 || o == 7 || o == 8) sx = src->w - 1 - sx;
            if (o == 3 || o == 4 || o == 6 || o == 7) sy = src->h - 1 - sy;
            memcpy(dst.rgb + 3 * ((size_t)y * (size_t)dst.w + (size_t)x),
                   src->rgb + 3 * ((size_t)sy * (size_t)src->w + (size_t)sx), 3);
        }
    return dst;
}

bool image_decode(struct arena *a, const void *data, size_t bytes, const char *name, int min_side, struct image *out,
                  struct error *e) {
    struct source s = {.data = data, .bytes = bytes, .name = TEXT_SHOW(name)};
    if (!look(&s, e)) return false;
    if (s.w < min_side || s.h < min_side)
        return error_set(e, "'%s' is too small: %d x %d pixels, at least %d a side are needed", s.name, s.w, s.h, min_side);
    if (!check_whole(&s, e)) return false;
    struct arena *scratch = arena_create(NULL), *home = s.orientation == 1 ? a : scratch;
    struct image raw = {0};
    bool ok = s.kind == KIND_WEBP ? decode_webp(home, &s, &raw, e) : decode_stb(home, &s, &raw, e);
    if (ok) *out = orient(a, &raw, s.orientation);
    arena_destroy(&scratch);
    return ok;
}

bool image_load(struct arena *a, const char *path, int min_side, struct image *out, struct error *e) {
    struct os_map m;
    if (!os_file_map(&m, path, e)) return false;
    bool ok = image_decode(a, m.data, m.bytes, path, min_side, out, e);
    os_file_unmap(&m);
    return ok;
}

bool image_probe(const char *path, int *w, int *h, struct error *e) {
    struct os_map m;
    if (!os_file_map(&m, path, e)) return false;
    struct source s = {.data = m.data, .bytes = m.bytes, .name = TEXT_SHOW(path)};
    bool ok = look(&s, e) && check_whole(&s, e);
    bool turn = s.orientation >= 5;
    *w = turn ? s.h : s.w;
    *h = turn ? s.w : s.h;
    os_file_unmap(&m);
    return ok;
}
