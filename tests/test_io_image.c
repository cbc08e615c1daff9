#include "tests/support/cm.h"
#include "tests/support/scratch.h"
#include "tests/support/tiny_jpeg.h"

#include "base/arena.h"
#include "base/sha256.h"
#include "io/image.h"
#include "io/png.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <webp/encode.h>
#include <zlib.h>

static struct arena *a;

static int setup(void **s) {
    a = arena_create(NULL);
    return 0;
}

static int teardown(void **s) {
    arena_destroy(&a);
    return 0;
}

static struct image pattern(int w, int h) {
    struct image im = image_create(a, w, h);
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            for (int c = 0; c < 3; c++)
                im.rgb[3 * (y * w + x) + c] = (uint8_t)(x * 7 + y * 13 + c * 31 + x * y / 5);
    return im;
}

struct bytes {
    uint8_t data[1 << 18];
    size_t n;
};

static void collect(struct bytes *b, const void *data, size_t n) {
    memcpy(b->data + b->n, data, n);
    b->n += n;
}

static void collect32(struct bytes *b, uint32_t v) {
    uint8_t be[4] = {(uint8_t)(v >> 24), (uint8_t)(v >> 16), (uint8_t)(v >> 8), (uint8_t)v};
    collect(b, be, 4);
}

static void collect_chunk(struct bytes *b, const char *type, const void *data, size_t n) {
    collect32(b, (uint32_t)n);
    size_t at = b->n;
    collect(b, type, 4);
    if (n) collect(b, data, n);
    collect32(b, (uint32_t)crc32(0, b->data + at, (uInt)(b->n - at)));
}

/* One row of 8-bit pixels, any channel count. */
static struct bytes *png_row(int w, int channels, const uint8_t *px) {
    static const uint8_t colour_type[5] = {0, 0, 4, 2, 6};
    struct bytes *b = arena_alloc(a, sizeof *b);
    uint8_t head[13] = {0, 0, 0, (uint8_t)w, 0, 0, 0, 1, 8, colour_type[channels]}, raw[256] = {0}, packed[512];
    uLongf n = sizeof packed;
    memcpy(raw + 1, px, (size_t)(w * channels));
    assert_int_equal(compress2(packed, &n, raw, (uLong)(w * channels + 1), 6), Z_OK);
    collect(b, "\x89PNG\r\n\x1a\n", 8);
    collect_chunk(b, "IHDR", head, 13);
    collect_chunk(b, "IDAT", packed, n);
    collect_chunk(b, "IEND", NULL, 0);
    return b;
}

static struct bytes *jpeg_with_orientation(bool progressive, int orientation, bool big_endian) {
    struct bytes *out = arena_alloc(a, sizeof *out);
    uint8_t le[] = {'E',  'x', 'i', 'f', 0, 0, 'I', 'I', 42, 0, 8, 0, 0, 0, 1, 0,
                    0x12, 1,   3,   0,   1, 0, 0,   0,   0,  0, 0, 0, 0, 0, 0, 0};
    uint8_t be[] = {'E', 'x',  'i', 'f', 0, 0, 'M', 'M', 0, 42, 0, 0, 0, 8, 0, 1,
                    1,   0x12, 0,   3,   0, 0, 0,   1,   0, 0,  0, 0, 0, 0, 0, 0};
    const uint8_t *plain = progressive ? tiny_jpeg_progressive : tiny_jpeg_baseline;
    size_t n = progressive ? sizeof tiny_jpeg_progressive : sizeof tiny_jpeg_baseline;
    le[24] = be[25] = (uint8_t)orientation;
    collect(out, plain, 2);
    collect(out, (uint8_t[]){0xFF, 0xE1, 0, (uint8_t)(sizeof le + 2)}, 4);
    collect(out, big_endian ? be : le, sizeof le);
    collect(out, plain + 2, n - 2);
    return out;
}

static bool decode(const void *data, size_t n, struct image *im, struct error *e) {
    return image_decode(a, data, n, "pic", 1, im, e);
}

/* ---- Resize ---- */

/* SHA-256 beginnings of what Pillow 13.0 makes of the same pattern with Image.LANCZOS. */
static void resize_equals_pillow(void **s) {
    static const struct {
        int w, h, to_w, to_h;
        const char *sha;
    } rows[] = {
        {67, 45, 32, 32, "abb2ad7971238267"}, {67, 45, 128, 90, "bfa2329f5cdb074f"}, {67, 45, 67, 20, "0d85388614c5e799"},
        {67, 45, 30, 45, "a5688e6f595a3abc"}, {300, 200, 64, 48, "8f674172c0113f2d"}, {1, 1, 5, 4, "eb07c7fb4e708e56"},
        {5, 3, 1, 1, "af453e3c31c36329"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct image im = pattern(rows[i].w, rows[i].h), out = image_resize(a, &im, rows[i].to_w, rows[i].to_h);
        struct sha256 h;
        char hex[65];
        sha256_begin(&h);
        sha256_update(&h, out.rgb, (size_t)out.w * (size_t)out.h * 3);
        sha256_end(&h, hex);
        hex[16] = 0;
        assert_string_equal(hex, rows[i].sha);
    }
    struct image im = pattern(9, 9), same = image_resize(a, &im, 9, 9);
    assert_memory_equal(im.rgb, same.rgb, 9 * 9 * 3);
    assert_ptr_not_equal(im.rgb, same.rgb);
}

static void cover_keeps_the_middle(void **s) {
    struct image im = image_create(a, 300, 100);
    for (int y = 0; y < 100; y++)
        for (int x = 100; x < 200; x++) memset(im.rgb + 3 * (y * 300 + x), 255, 3);
    struct image out = image_resize_cover(a, &im, 50, 50);
    for (int i = 0; i < 50 * 50 * 3; i++)
        if ((i / 3) % 50 > 3 && (i / 3) % 50 < 46) assert_true(out.rgb[i] > 250);
    struct image sliver = pattern(10000, 2);
    out = image_resize_cover(a, &sliver, 64, 64);
    assert_int_equal(out.w, 64);
    assert_int_equal(out.h, 64);
    memset(sliver.rgb, 0, 10000 * 2 * 3); /* all that is seen of it: the two pixels in the middle */
    for (int y = 0; y < 2; y++) memset(sliver.rgb + 3 * (y * 10000 + 4999), 255, 6);
    out = image_resize_cover(a, &sliver, 64, 64);
    for (int i = 0; i < 64 * 64 * 3; i++) assert_int_equal(out.rgb[i], 255);
}

/* ---- Decoding ---- */

static void png_round_trip(void **s) {
    struct error e = {0};
    int sizes[][2] = {{1, 1}, {1, 40}, {33, 7}, {128, 128}};
    for (int i = 0; i < 4; i++) {
        struct image im = pattern(sizes[i][0], sizes[i][1]), back;
        uint8_t *data;
        size_t n;
        assert_true(png_encode(a, &im, NULL, 0, &data, &n, &e));
        assert_true(decode(data, n, &back, &e));
        assert_int_equal(back.w, im.w);
        assert_memory_equal(back.rgb, im.rgb, (size_t)im.w * (size_t)im.h * 3);
        int w = 0, h = 0;
        assert_true(image_probe(scratch_write("p.png", data, n), &w, &h, &e));
        assert_true(w == im.w && h == im.h);
    }
}

static void alpha_lands_on_white(void **s) {
    struct error e = {0};
    uint8_t px[4 * 4] = {10, 20, 30, 255, 10, 20, 30, 0, 0, 0, 0, 128, 255, 0, 0, 51};
    uint8_t want[4 * 3] = {10, 20, 30, 255, 255, 255, 127, 127, 127, 255, 204, 204};
    struct bytes *b = png_row(4, 4, px);
    struct image im;
    assert_true(decode(b->data, b->n, &im, &e));
    assert_memory_equal(im.rgb, want, 12);
    uint8_t *webp = NULL;
    size_t n = WebPEncodeLosslessRGBA(px, 4, 1, 16, &webp);
    assert_true(decode(webp, n, &im, &e));
    assert_memory_equal(im.rgb, want, 6); /* fully transparent and opaque: exact */
    for (size_t cut = 0; cut < n; cut++) assert_false(decode(webp, cut, &im, &e));
    WebPFree(webp);
    b = png_row(2, 2, (uint8_t[]){30, 99, 99, 99}); /* 30 * 99/255 + 255 * 156/255 = 167.65, of 99 194.44 */
    assert_true(decode(b->data, b->n, &im, &e));
    assert_memory_equal(im.rgb, ((uint8_t[]){168, 168, 168, 194, 194, 194}), 6);
    uint8_t grey[4] = {7, 255, 100, 0};
    b = png_row(2, 2, grey);
    assert_true(decode(b->data, b->n, &im, &e));
    assert_memory_equal(im.rgb, ((uint8_t[]){7, 7, 7, 255, 255, 255}), 6);
}

/* Along which axis of the upright picture a channel grows. */
static const char *growth(const struct image *im, int channel) {
    int x0 = im->w / 4, x1 = im->w - 1 - x0, y0 = im->h / 4, y1 = im->h - 1 - y0;
    int at = im->rgb[3 * (y0 * im->w + x0) + channel];
    int dx = im->rgb[3 * (y0 * im->w + x1) + channel] - at, dy = im->rgb[3 * (y1 * im->w + x0) + channel] - at;
    return dx > 100 ? "+x" : dx < -100 ? "-x" : dy > 100 ? "+y" : dy < -100 ? "-y" : "?";
}

static void orientation_is_applied(void **s) {
    struct error e = {0};
    static const char *red[] = {"", "+x", "-x", "-x", "+x", "+y", "+y", "-y", "-y"};
    static const char *green[] = {"", "+y", "+y", "-y", "-y", "+x", "-x", "-x", "+x"};
    for (int v = 0; v < 4; v++)
        for (int o = 1; o <= 8; o++) {
            struct bytes *j = jpeg_with_orientation(v & 1, o, v & 2);
            struct image im;
            assert_true(decode(j->data, j->n, &im, &e));
            assert_int_equal(im.w, o >= 5 ? 32 : 48);
            assert_string_equal(growth(&im, 0), red[o]);
            assert_string_equal(growth(&im, 1), green[o]);
            int w, h;
            assert_true(image_probe(scratch_write("o.jpg", j->data, j->n), &w, &h, &e));
            assert_true(w == im.w && h == im.h);
        }
    struct image im;
    struct bytes *j = jpeg_with_orientation(false, 99, false); /* nonsense counts as upright */
    assert_true(decode(j->data, j->n, &im, &e) && im.w == 48);
    for (size_t n = 0; n < j->n; n++) assert_false(decode(j->data, n, &im, &e));
}

static void collect_le32(struct bytes *b, uint32_t v) {
    collect(b, (uint8_t[]){(uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16), (uint8_t)(v >> 24)}, 4);
}

static void collect_riff(struct bytes *b, const char *type, const void *data, size_t n) {
    collect(b, type, 4);
    collect_le32(b, (uint32_t)n);
    collect(b, data, n);
    if (n & 1) collect(b, "", 1);
}

/* EXIF of a PNG and of a WebP, there behind a chunk of odd length: with JPEG's prefix and, as their standards say, without.
 * Orientation 6 is a quarter turn clockwise: the stored left column, from below, is the top row. */
static void exif_of_others(void **s) {
    static const uint8_t exif[] = {'E', 'x', 'i', 'f', 0, 0, 'M', 'M', 0, 42, 0, 0, 0, 8, 0, 1,
                                   1,   0x12, 0, 3, 0, 0, 0,   1,   0, 6,  0, 0, 0, 0, 0, 0};
    struct error e = {0};
    struct image im = pattern(6, 4), out;
    uint8_t *png, *webp = NULL;
    size_t n, n_webp = WebPEncodeLosslessRGB(im.rgb, 6, 4, 18, &webp);
    assert_true(png_encode(a, &im, NULL, 0, &png, &n, &e));
    for (int i = 0; i < 4; i++) {
        const uint8_t *data = exif + (i & 1 ? 6 : 0);
        size_t bytes = sizeof exif - (i & 1 ? 6 : 0);
        struct bytes *b = arena_alloc(a, sizeof *b);
        if (i < 2) {
            collect(b, png, 33);
            collect_chunk(b, "eXIf", data, bytes);
            collect(b, png + 33, n - 33);
        } else {
            collect(b, "RIFF\0\0\0\0WEBP", 12);
            collect_riff(b, "VP8X", "\x0c\0\0\0\5\0\0\3\0\0", 10); /* has EXIF and XMP; 6 x 4 */
            collect_riff(b, "VP8L", webp + 20, n_webp - 20);
            collect_riff(b, "XMP ", "<x/>!", 5);
            collect_riff(b, "EXIF", data, bytes);
            for (int k = 0; k < 4; k++) b->data[4 + k] = (uint8_t)((b->n - 8) >> (8 * k));
        }
        if (!decode(b->data, b->n, &out, &e)) fail_msg("%d: %s", i, e.text);
        assert_true(out.w == 4 && out.h == 6);
        for (int x = 0; x < 4; x++) assert_memory_equal(out.rgb + 3 * x, im.rgb + 3 * (3 - x) * 6, 3);
        for (int y = 0; y < 6; y++) assert_memory_equal(out.rgb + 3 * 4 * y, im.rgb + 3 * (3 * 6 + y), 3);
    }
    WebPFree(webp);
}

static void limits(void **s) {
    struct error e = {0};
    struct image im = pattern(8, 8), out;
    uint8_t *data;
    size_t n;
    assert_true(png_encode(a, &im, NULL, 0, &data, &n, &e));
    assert_false(image_decode(a, data, n, "small.png", 16, &out, &e));
    assert_string_equal(e.text, "'small.png' is too small: 8 x 8 pixels, at least 16 a side are needed");
    /* Huge header sizes: 16385 x 8, 16384 x 16384, and 60000 x 60000, which the decoder takes for another thing. */
    for (int k = 0; k < 3; k++) {
        uint8_t *lie = arena_grow(a, data, n, n, 1);
        lie[18] = 0x40, lie[19] = k == 0;
        if (k) lie[22] = 0x40, lie[23] = 0;
        if (k == 2) lie[18] = lie[22] = 0xea, lie[19] = lie[23] = 0x60;
        uint32_t crc = (uint32_t)crc32(0, lie + 12, 17);
        for (int i = 0; i < 4; i++) lie[29 + i] = (uint8_t)(crc >> (24 - 8 * i));
        assert_false(decode(lie, n, &out, &e));
        if (!strstr(e.text, "too large")) fail_msg("%s", e.text);
    }
    assert_false(decode("GIF89a", 6, &out, &e));
    assert_non_null(strstr(e.text, "JPEG, PNG or WebP"));
    assert_false(decode("", 0, &out, &e));
    assert_false(image_load(a, scratch_path("none.png"), 1, &out, &e));
}

static void pixels_must_match_the_header(void **s) {
    struct error e = {0};
    struct image im = pattern(8, 8), out;
    uint8_t *data;
    size_t n;
    assert_true(png_encode(a, &im, NULL, 0, &data, &n, &e));
    data[19] = 9; /* width 9: more pixels than there are */
    uint32_t crc = (uint32_t)crc32(0, data + 12, 17);
    for (int i = 0; i < 4; i++) data[29 + i] = (uint8_t)(crc >> (24 - 8 * i));
    assert_false(decode(data, n, &out, &e));
    assert_non_null(strstr(e.text, "do not match its size"));
}

/* Counts of a Huffman table that add up past its 256 places, before the frame header. */
static void huffman_counts_are_checked(void **s) {
    struct error e = {0};
    struct image out;
    struct bytes *b = arena_alloc(a, sizeof *b);
    uint8_t table[4 + 17 + 300] = {0xFF, 0xC4, (2 + 17 + 300) >> 8, (2 + 17 + 300) & 255, 0};
    table[5] = 200, table[6] = 100;
    collect(b, tiny_jpeg_baseline, 2);
    collect(b, table, sizeof table);
    collect(b, tiny_jpeg_baseline + 2, sizeof tiny_jpeg_baseline - 2);
    assert_false(decode(b->data, b->n, &out, &e));
    int w, h;
    assert_false(image_probe(scratch_write("h.jpg", b->data, b->n), &w, &h, &e));
}

/* Every damaged byte is either noticed or harmless; nothing may read or write out of bounds. */
static void damage_stays_harmless(void **s) {
    struct error e;
    struct image im = pattern(20, 16), out;
    uint8_t *png;
    size_t n;
    assert_true(png_encode(a, &im, &(struct png_text){"parameters", "a cat"}, 1, &png, &n, &e));
    for (size_t i = 0; i < n; i++) {
        assert_false(decode(png, i, &out, &e));
        png[i] ^= 0x55;
        if (decode(png, n, &out, &e)) fail_msg("damage at %zu was not noticed", i);
        png[i] ^= 0x55;
    }
    for (int kind = 0; kind < 2; kind++) {
        struct bytes *j = jpeg_with_orientation(kind, 6, false);
        for (size_t i = 0; i < j->n; i++) {
            struct arena *tmp = arena_create(a);
            uint8_t flip = (uint8_t)(1 << (i * 5 % 8));
            j->data[i] ^= flip;
            image_decode(tmp, j->data, j->n, "j", 1, &out, &e);
            j->data[i] ^= flip;
            arena_destroy(&tmp);
        }
    }
}

/* ---- PNG texts ---- */

static void texts_round_trip(void **s) {
    struct error e = {0};
    struct image im = pattern(4, 4);
    struct png_text in[] = {{"parameters", "a cat\nSteps: 20"}, {"latin", "caf\xc3\xa9"}, {"wide", "\xe7\x8c\xab"},
                            {"empty", ""}};
    struct png_text *out;
    size_t n;
    assert_true(png_write(scratch_path("t.png"), &im, in, 4, &e));
    assert_true(png_read_texts(a, scratch_path("t.png"), &out, &n, &e));
    assert_int_equal(n, 4);
    for (size_t i = 0; i < n; i++) {
        assert_string_equal(out[i].key, in[i].key);
        assert_string_equal(out[i].value, in[i].value);
    }
    assert_string_equal(png_text_find(out, n, "wide"), "\xe7\x8c\xab");
    assert_null(png_text_find(out, n, "none"));
    assert_false(png_write(scratch_path("bad.png"), &im, &(struct png_text){"k", "\xff"}, 1, &e));
    assert_false(png_write(scratch_path("no/such.png"), &im, NULL, 0, &e));
    assert_false(png_read_texts(a, scratch_write("no.png", "hello", 5), &out, &n, &e));
}

/* A PNG made of an IHDR, the given chunk and IEND. */
static struct bytes *with_chunk(const char *type, const void *body, size_t n) {
    struct bytes *b = arena_alloc(a, sizeof *b);
    collect(b, "\x89PNG\r\n\x1a\n", 8);
    collect_chunk(b, "IHDR", "\0\0\0\1\0\0\0\1\10\2\0\0\0", 13);
    collect_chunk(b, type, body, n);
    collect_chunk(b, "IEND", NULL, 0);
    return b;
}

static void hostile_texts(void **s) {
    static const struct {
        const char *type, *body;
        size_t n;
    } bad[] = {
        {"tEXt", "", 0},           {"tEXt", "nokey", 5},       {"tEXt", "\0x", 2},          {"zTXt", "k\0", 2},
        {"zTXt", "k\0\1x", 4},     {"zTXt", "k\0\0garbage", 9}, {"iTXt", "k\0", 2},          {"iTXt", "k\0\0\0", 4},
        {"iTXt", "k\0\0\0en\0", 7}, {"iTXt", "k\0\0\0\0\0\xff", 7}, {"iTXt", "k\0\0\0\0\0a\0b", 9},
        {"iTXt", "k\0\1\0\0\0zz", 8}, {"iTXt", "k\0\2\0\0\0zz", 8},
    };
    struct bytes *f;
    struct png_text *out;
    struct error e = {0};
    size_t n;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        f = with_chunk(bad[i].type, bad[i].body, bad[i].n);
        assert_true(png_decode_texts(a, f->data, f->n, &out, &n, &e));
        if (n != 0) fail_msg("entry %zu was accepted", i);
    }
    f = with_chunk("zTXt", "k\0\0x\x9c\x03\0\0\0\0\1", 11); /* an empty compressed text is fine */
    assert_true(png_decode_texts(a, f->data, f->n, &out, &n, &e) && n == 1 && out[0].value[0] == 0);
    for (size_t i = 0; i < f->n; i++) assert_false(png_decode_texts(a, f->data, i, &out, &n, &e));
    static uint8_t zeros[64 << 20], bomb[1 << 17]; /* 64 MiB in 64 KiB */
    uLongf m = sizeof bomb - 3;
    assert_int_equal(compress2(bomb + 3, &m, zeros, sizeof zeros, 9), Z_OK);
    memcpy(bomb, "k\0\0", 3);
    f = with_chunk("zTXt", bomb, m + 3);
    assert_true(png_decode_texts(a, f->data, f->n, &out, &n, &e));
    assert_int_equal(n, 0);
}

/* ---- Sheets ---- */

static void grid_places_cells(void **s) {
    struct error e = {0};
    struct image cells[4] = {pattern(64, 64), {0}, pattern(64, 64), pattern(32, 40)}, out;
    const char *rows[] = {"a fox in the snow, seen from far away and above", "caf\xc3\xa9"}, *cols[] = {"0", "strength 1"};
    struct image_grid_params p = {.rows = 2, .cols = 2, .cells = cells, .row_labels = rows, .col_labels = cols,
                                  .title = "Title"};
    assert_true(image_grid(a, &p, &out, &e));
    assert_true(out.w > 134 && out.h > 134);
    assert_memory_equal(out.rgb, ((uint8_t[]){255, 255, 255}), 3);
    int right = out.w - 10 - 64, bottom = out.h - 10 - 64; /* the last cell is centred in its place */
    assert_memory_equal(out.rgb + 3 * ((bottom + 12) * out.w + right + 16), cells[3].rgb, 32 * 3);
    const char *keep = getenv("ATELIER_KEEP_SHEET");
    if (keep) assert_true(png_write(keep, &out, NULL, 0, &e));
    p = (struct image_grid_params){.rows = 300, .cols = 1, .cells = arena_alloc_n(a, 300, sizeof cells[0])};
    ((struct image *)p.cells)[0] = pattern(64, 64);
    assert_false(image_grid(a, &p, &out, &e));
    if (!strstr(e.text, "too large")) fail_msg("%s", e.text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        TEST(resize_equals_pillow),         TEST(cover_keeps_the_middle),     TEST(png_round_trip),
        TEST(alpha_lands_on_white),         TEST(orientation_is_applied),     TEST(limits),
        TEST(exif_of_others),
        TEST(pixels_must_match_the_header), TEST(huffman_counts_are_checked), TEST(damage_stays_harmless),
        TEST(texts_round_trip),             TEST(hostile_texts),              TEST(grid_places_cells),
    };
    return cmocka_run_group_tests(tests, scratch_make, scratch_drop);
}
