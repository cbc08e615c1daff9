#include "tests/support/cm.h"
#include "tests/support/scratch.h"

#include "base/os.h"
#include "base/sha256.h"
#include "base/text.h"
#include "io/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Hostile files: header, data bytes, part of the message (NULL = must open) ---- */

struct hostile {
    const char *header;
    size_t data_bytes;
    const char *says;
};

#define T(name, dtype, shape, begin, end)                                                                    \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"

static const struct hostile cases[] = {
    {"{}", 0, NULL},
    {"{}    ", 0, NULL},
    {"{" T("a", "F32", "[1]", "0", "4") "}", 4, NULL},
    {"{" T("a", "F32", "[]", "0", "4") "}", 4, NULL},
    {"{" T("a", "F16", "[0,7]", "0", "0") "," T("b", "F16", "[1]", "0", "2") "}", 2, NULL},
    {"{" T("b", "F16", "[1]", "0", "2") "," T("a", "F16", "[3]", "2", "8") "}", 8, NULL},
    {"{\"__metadata__\":{\"k\":\"v\"}," T("a", "F4", "[2]", "0", "1") "}", 1, NULL},
    {"", 0, "not a JSON object"},
    {" {}", 0, "not a JSON object"},
    {"[]", 0, "not a JSON object"},
    {"{}x", 0, "something else than spaces"},
    {"{}\n", 0, "something else than spaces"},
    {"{", 0, "not valid JSON"},
    {"{}", 1, "too long"},
    {"{\"a\":1}", 0, "must have exactly"},
    {"{" T("a", "F32", "[1]", "0", "4") "," T("a", "F32", "[1]", "0", "4") "}", 4, "duplicate"},
    {"{\"\xff\":{}}", 0, "not valid JSON"},
    {"{\"a\\u0000b\":{}}", 0, "not valid JSON"},
    {"{\"__metadata__\":{\"k\":1}}", 0, "not a text"},
    {"{\"__metadata__\":[]}", 0, "not an object"},
    {"{" T("a", "F33", "[1]", "0", "4") "}", 4, "unknown dtype"},
    {"{" T("a", "f32", "[1]", "0", "4") "}", 4, "unknown dtype"},
    {"{\"a\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "unknown dtype"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "must have exactly"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4, "must have exactly"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"offsets\":[0,4]}}", 4, "data_offsets"},
    {"{" T("a", "F32", "1", "0", "4") "}", 4, "lacks a list"},
    {"{" T("a", "F32", "[-1]", "0", "4") "}", 4, "not a whole number"},
    {"{" T("a", "F32", "[1.5]", "0", "6") "}", 6, "not a whole number"},
    {"{" T("a", "F32", "[1.0]", "0", "4") "}", 4, "not a whole number"},
    {"{" T("a", "F32", "[\"1\"]", "0", "4") "}", 4, "not a whole number"},
    {"{" T("a", "F32", "[1,1,1,1,1,1,1,1,1]", "0", "4") "}", 4, "9 dimensions"},
    {"{" T("a", "F32", "[99999999999999999999]", "0", "4") "}", 4, "not valid JSON"},
    {"{" T("a", "F32", "[4294967296,4294967296]", "0", "0") "}", 0, "past 64 bits"},
    {"{" T("a", "F32", "[9223372036854775807,2,0]", "0", "0") "}", 0, NULL},
    {"{" T("a", "F32", "[9223372036854775807,3,0]", "0", "0") "}", 0, "past 64 bits"},
    {"{" T("a", "F32", "[4611686018427387904]", "0", "0") "}", 0, "impossible size"},
    {"{" T("a", "U8", "[9223372036854775807]", "0", "9223372036854775807") "}", 4, "impossible size"},
    {"{" T("a", "U8", "[1000]", "0", "1000") "}", 4, "cut short"},
    {"{" T("a", "F4", "[3]", "0", "1") "}", 1, "whole bytes"},
    {"{" T("a", "F32", "[2]", "0", "4") "}", 4, "should take 8 bytes"},
    {"{" T("a", "F32", "[1]", "4", "0") "}", 4, "data_offsets"},
    {"{" T("a", "F32", "[1]", "-4", "0") "}", 4, "data_offsets"},
    {"{" T("a", "F32", "[1]", "0.0", "4") "}", 4, "data_offsets"},
    {"{" T("a", "F32", "[1]", "4", "8") "}", 8, "gap"},
    {"{" T("a", "F32", "[1]", "0", "4") "," T("b", "F32", "[1]", "2", "6") "}", 6, "overlap"},
    {"{" T("a", "F32", "[1]", "0", "4") "," T("b", "F32", "[1]", "0", "4") "}", 4, "overlap"},
    {"{" T("a", "F32", "[1]", "0", "4") "," T("b", "F32", "[1]", "5", "9") "}", 9, "gap"},
    {"{" T("a\\u001b[31m", "F32", "[1]", "0", "5") "}", 5, "a?[31m"},
};

static const char *write_case(const char *header, uint64_t claimed, size_t data_bytes) {
    size_t n = strlen(header);
    uint8_t *all = calloc(1, 8 + n + data_bytes);
    memcpy(all, &claimed, 8);
    memcpy(all + 8, header, n);
    const char *path = scratch_write("h.safetensors", all, 8 + n + data_bytes);
    free(all);
    return path;
}

static void hostile_headers(void **s) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error e = {0};
        struct st_file *f = st_open(write_case(cases[i].header, strlen(cases[i].header), cases[i].data_bytes), &e);
        if (cases[i].says ? f != NULL || !strstr(e.text, cases[i].says) : f == NULL)
            fail_msg("case %zu: %s\n  said: %s", i, cases[i].header, e.text);
        if (!f) assert_non_null(strstr(e.text, "h.safetensors"));
        st_close(&f);
        st_close(&f);
    }
}

/* Files that did not arrive are called what they are, and the sentence says what to do. */
static void what_lies_in_place_of_weights(void **s) {
    static const struct { const char *name, *bytes, *says; } files[] = {
        {"m.ckpt", "abc", "no checkpoint: a .ckpt file is a zip archive written by torch.save, and this one of 3 bytes is not; "
                          "fetch"},
        {"m.pt", "some garbage that is long enough", "no checkpoint: a .pt file"},
        {"m.bin", "\x10garbage that claims a header", "no checkpoint: a .bin file"},
        {"m.safetensors", "abc", "not a sound safetensors file: it has only 3 bytes; fetch"},
        {"m.safetensors", "\xff\xff\xff\xff{}      ", "not a sound safetensors file: its header claims"},
        {"m.safetensors", "", "is empty; fetch"},
        {"m.ckpt", "", "is empty; fetch"},
        {"m.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"},
        {"m.ckpt", "<!DOCTYPE html><html>", "is a web page"},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct error e = {0};
        assert_null(st_open(scratch_write(files[i].name, files[i].bytes, strlen(files[i].bytes)), &e));
        if (!strstr(e.text, files[i].says)) fail_msg("%s: %s", files[i].says, e.text);
    }
    /* A safetensors file by another name is read as before. */
    struct error e;
    const char *text = "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}";
    uint8_t all[128] = {0};
    uint64_t n = strlen(text);
    memcpy(all, &n, 8);
    memcpy(all + 8, text, n);
    struct st_file *f = st_open(scratch_write("really.ckpt", all, 8 + n + 1), &e);
    assert_non_null(f);
    st_close(&f);
    assert_null(st_open(scratch_write("m.safetensors", all, 8 + n), &e));
    assert_non_null(strstr(e.text, "cut short; fetch the file again"));
}

static void lying_lengths(void **s) {
    struct error e;
    uint64_t claims[] = {3, 1000, 100000001, UINT64_MAX, UINT64_MAX - 7, 1ull << 63};
    for (size_t i = 0; i < sizeof claims / sizeof *claims; i++) assert_null(st_open(write_case("{}", claims[i], 0), &e));
    assert_null(st_open(write_case("{}", 1, 0), &e));
    for (size_t n = 0; n < 8; n++) assert_null(st_open(scratch_write("s", "\2\0\0\0\0\0\0", n), &e));
    assert_null(st_open(scratch_path("absent"), &e));
    assert_null(st_open(scratch_path(""), &e));
    assert_non_null(strstr(e.text, "folder"));
    size_t deep = 300000;
    char *nest = calloc(1, deep + 1);
    memset(nest, '[', deep);
    memcpy(nest, "{\"a\":", 5);
    assert_null(st_open(write_case(nest, deep, 0), &e));
    free(nest);
}

static void truncations_never_open(void **s) {
    struct st_writer *w = st_writer_create();
    float v[6] = {1, 2, 3, 4, 5, 6};
    st_writer_add(w, "x", ST_F32, 2, (int64_t[]){2, 3}, v);
    st_writer_meta(w, "format", "pt");
    struct error e = {0};
    assert_true(st_writer_save(w, scratch_path("t.safetensors"), &e));
    st_writer_destroy(&w);
    struct os_map m;
    assert_true(os_file_map(&m, scratch_path("t.safetensors"), &e));
    for (size_t n = 0; n < m.bytes; n++) {
        assert_null(st_open(scratch_write("cut.safetensors", m.data, n), &e));
        assert_non_null(strstr(e.text, "fetch the file again"));
    }
    uint8_t *copy = malloc(m.bytes);
    for (size_t i = 0; i < m.bytes; i++) /* any flipped bit: opens or not, but stays in bounds */
        for (int bit = 0; bit < 8; bit++) {
            memcpy(copy, m.data, m.bytes);
            copy[i] ^= (uint8_t)(1 << bit);
            struct st_file *f = st_open(scratch_write("flip.safetensors", copy, m.bytes), &e);
            float out[6];
            for (size_t k = 0; f && k < st_count(f); k++) st_read_f32(st_at(f, k), out, 6, NULL);
            st_close(&f);
        }
    free(copy);
    os_file_unmap(&m);
}

/* ---- Values ---- */

static void dtypes_become_floats(void **s) {
    struct st_writer *w = st_writer_create();
    float f32[] = {1.5f, -2, 65504, 0};
    double f64[] = {0.25, -1e300};
    int64_t i64[] = {-5, 1 << 20};
    uint8_t f8[] = {0x7E, 0x7F, 0x01, 0xB8}, b1[] = {1, 0};
    int8_t i8[] = {-128, 127};
    uint8_t e5[] = {0x7B, 0x7C, 0x01, 0x3C}, fn[] = {0x80, 0x7F, 0x01, 0x38};
    st_writer_add(w, "f32", ST_F32, 1, (int64_t[]){4}, f32);
    st_writer_add_f32(w, "f16", ST_F16, 1, (int64_t[]){4}, f32);
    st_writer_add_f32(w, "bf16", ST_BF16, 1, (int64_t[]){4}, f32);
    st_writer_add(w, "f64", ST_F64, 1, (int64_t[]){2}, f64);
    st_writer_add(w, "i64", ST_I64, 1, (int64_t[]){2}, i64);
    st_writer_add(w, "e4m3", ST_F8_E4M3, 1, (int64_t[]){4}, f8);
    st_writer_add(w, "e5m2", ST_F8_E5M2, 1, (int64_t[]){4}, e5);
    st_writer_add(w, "fnuz", ST_F8_E4M3FNUZ, 1, (int64_t[]){4}, fn);
    st_writer_add(w, "bool", ST_BOOL, 1, (int64_t[]){2}, b1);
    st_writer_add(w, "i8", ST_I8, 1, (int64_t[]){2}, i8);
    st_writer_add(w, "c64", ST_C64, 1, (int64_t[]){1}, f64);
    st_writer_add_f32(w, "scalar", ST_F32, 0, NULL, f32);
    struct error e = {0};
    assert_true(st_writer_save(w, scratch_path("d.safetensors"), &e));
    st_writer_destroy(&w);
    struct st_file *f = st_open(scratch_path("d.safetensors"), &e);
    assert_non_null(f);
    float v[4];
    assert_true(st_read_f32(st_find(f, "f16"), v, 4, &e));
    assert_memory_equal(v, f32, 16);
    assert_true(st_read_f32(st_find(f, "bf16"), v, 4, &e));
    assert_true(v[0] == 1.5f && v[2] == 65536);
    assert_true(st_read_f32(st_find(f, "f64"), v, 2, &e) && v[0] == 0.25f && v[1] == -INFINITY);
    assert_true(st_read_f32(st_find(f, "i64"), v, 2, &e) && v[0] == -5 && v[1] == 1048576);
    assert_true(st_read_f32(st_find(f, "e4m3"), v, 4, &e));
    assert_true(v[0] == 448 && isnan(v[1]) && v[2] == 0x1p-9f && v[3] == -1);
    assert_true(st_read_f32(st_find(f, "e5m2"), v, 4, &e));
    assert_true(v[0] == 57344 && isinf(v[1]) && v[2] == 0x1p-16f && v[3] == 1);
    assert_true(st_read_f32(st_find(f, "fnuz"), v, 4, &e));
    assert_true(isnan(v[0]) && v[1] == 240 && v[2] == 0x1p-10f && v[3] == 0.5f);
    assert_true(st_read_f32(st_find(f, "bool"), v, 2, &e) && v[0] == 1 && v[1] == 0);
    assert_true(st_read_f32(st_find(f, "i8"), v, 2, &e) && v[0] == -128 && v[1] == 127);
    assert_true(st_read_f32(st_find(f, "scalar"), v, 1, &e) && v[0] == 1.5f);
    assert_false(st_read_f32(st_find(f, "c64"), v, 1, &e));
    assert_false(st_read_f32(st_find(f, "f32"), v, 3, &e));
    assert_non_null(strstr(e.text, "[4]"));
    assert_null(st_find(f, "F32"));
    assert_null(st_find(f, ""));
    st_close(&f);
}

static void layout_and_metadata(void **s) {
    struct st_writer *w = st_writer_create();
    uint16_t h[3] = {1, 2, 3};
    float x[2] = {4, 5};
    st_writer_add(w, "z16", ST_F16, 1, (int64_t[]){3}, h);
    st_writer_add(w, "b32", ST_F32, 1, (int64_t[]){2}, x);
    st_writer_add(w, "a32", ST_F32, 0, NULL, x);
    st_writer_meta(w, "z", "1");
    st_writer_meta(w, "a", "q\"\\\n\xc3\xa9");
    st_writer_meta(w, "z", "2");
    struct error e = {0};
    assert_true(st_writer_save(w, scratch_path("l.safetensors"), &e));
    struct os_map m;
    assert_true(os_file_map(&m, scratch_path("l.safetensors"), &e));
    const char *want = "{\"__metadata__\":{\"z\":\"2\",\"a\":\"q\\\"\\\\\\n\xc3\xa9\"},"
                       "\"a32\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
                       "\"b32\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]},"
                       "\"z16\":{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[12,18]}}";
    assert_int_equal(m.data[0] % 8, 0);
    assert_memory_equal(m.data + 8, want, strlen(want));
    struct sha256 sha;
    char hex[65], model[65], legacy[9];
    sha256_begin(&sha);
    sha256_update(&sha, m.data + m.bytes - 18, 18);
    sha256_end(&sha, hex);
    os_file_unmap(&m);
    assert_true(st_writer_hashes(w, model, legacy, &e));
    assert_string_equal(model, hex);
    assert_string_equal(legacy, "e3b0c442"); /* nothing at 0x100000 */
    struct st_file *f = st_open(scratch_path("l.safetensors"), &e);
    st_data_sha256(f, hex);
    assert_string_equal(model, hex);
    assert_int_equal(st_meta_count(f), 2);
    assert_string_equal(st_meta_find(f, "z"), "2");
    assert_string_equal(st_meta_value(f, 1), "q\"\\\n\xc3\xa9");
    assert_null(st_meta_find(f, "absent"));
    assert_string_equal(st_at(f, 2)->name, "z16");
    assert_true(st_tensor_has_shape(st_at(f, 2), 1, (int64_t[]){3}));
    assert_false(st_tensor_has_shape(st_at(f, 2), 1, (int64_t[]){4}));
    st_close(&f);
    st_writer_add(w, "a32", ST_F16, 1, (int64_t[]){3}, h);
    assert_false(st_writer_save(w, scratch_path("dup.safetensors"), &e));
    assert_non_null(strstr(e.text, "two tensors"));
    assert_false(os_path_exists(scratch_path("dup.safetensors")));
    st_writer_destroy(&w);
    w = st_writer_create();
    st_writer_add(w, "bad\xff", ST_F16, 1, (int64_t[]){3}, h);
    assert_false(st_writer_save(w, scratch_path("dup.safetensors"), &e));
    assert_non_null(strstr(e.text, "UTF-8"));
    st_writer_destroy(&w);
}

static void many_names_are_found(void **s) {
    struct st_writer *w = st_writer_create();
    char name[32];
    static float v[3000];
    for (int i = 0; i < 3000; i++) {
        v[i] = (float)i;
        snprintf(name, sizeof name, "block.%d.weight", i);
        st_writer_add(w, name, ST_F32, 1, (int64_t[]){1}, &v[i]);
    }
    struct error e = {0};
    assert_true(st_writer_save(w, scratch_path("m.safetensors"), &e));
    st_writer_destroy(&w);
    struct st_file *f = st_open(scratch_path("m.safetensors"), &e);
    assert_int_equal(st_count(f), 3000);
    for (int i = 0; i < 3000; i++) {
        float got;
        snprintf(name, sizeof name, "block.%d.weight", i);
        assert_true(st_read_f32(st_find(f, name), &got, 1, &e));
        assert_true(got == (float)i);
    }
    st_close(&f);
}

/* ---- Shards ---- */

static void write_shard(const char *file, const char *name, float v) {
    struct st_writer *w = st_writer_create();
    st_writer_add(w, name, ST_F32, 1, (int64_t[]){1}, &v);
    st_writer_meta(w, "format", "pt");
    assert_true(st_writer_save(w, scratch_path(file), NULL));
    st_writer_destroy(&w);
}

static struct st_file *open_index(const char *text, struct error *e) {
    return st_open(scratch_write("i.safetensors.index.json", text, strlen(text)), e);
}

static void shards_merge(void **s) {
    struct error e = {0};
    write_shard("one.safetensors", "a", 1);
    write_shard("two.safetensors", "b", 2);
    struct st_file *f =
        open_index("{\"metadata\":{},\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}}", &e);
    assert_non_null(f);
    assert_int_equal(st_count(f), 2);
    float v;
    assert_true(st_read_f32(st_find(f, "b"), &v, 1, &e) && v == 2);
    assert_string_equal(st_meta_find(f, "format"), "pt");
    st_close(&f);
    const char *bad[] = {
        "{}",
        "[]",
        "{\"weight_map\":{\"a\":\"two.safetensors\"}}",
        "{\"weight_map\":{\"a\":\"none.safetensors\"}}",
        "{\"weight_map\":{\"a\":\"../one.safetensors\"}}",
        "{\"weight_map\":{\"a\":\"/etc/passwd\"}}",
        "{\"weight_map\":{\"a\":\"i.safetensors.index.json\"}}",
        "{\"weight_map\":{\"a\":1}}",
        "{\"weight_map\":{\"a\":\"one.safetensors\",\"a\":\"one.safetensors\"}}",
        "{\"weight_map\":{\"a\":\"\"}}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_null(open_index(bad[i], &e));
}

/* ---- Helpers ---- */

static void sha256_vectors(void **s) {
    struct sha256 h;
    char hex[65];
    sha256_begin(&h);
    sha256_end(&h, hex);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    sha256_begin(&h);
    sha256_update(&h, "abc", 3);
    sha256_end(&h, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    sha256_begin(&h); /* a million times 'a', in uneven pieces */
    char block[997];
    memset(block, 'a', sizeof block);
    for (size_t left = 1000000; left;) {
        size_t n = left < sizeof block ? left : sizeof block;
        sha256_update(&h, block, n);
        left -= n;
    }
    sha256_end(&h, hex);
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

static void text_is_made_printable(void **s) {
    char b[16];
    assert_string_equal(text_printable(b, 16, "plain"), "plain");
    assert_string_equal(text_printable(b, 16, "a\x1b[0m\xff\n"), "a?[0m??");
    assert_string_equal(text_printable(b, 16, "0123456789abcde"), "0123456789abcde");
    assert_string_equal(text_printable(b, 16, "0123456789abcdef"), "0123456789ab...");
    assert_string_equal(text_printable(b, 16, "0123456789a\xc3\xa9\xc3\xa9\xc3\xa9"), "0123456789a...");
    assert_false(text_utf8_valid("\xc0\x80", 2));
    assert_false(text_utf8_valid("\xed\xa0\x80", 3));
    assert_false(text_utf8_valid("\xf4\x90\x80\x80", 4));
    assert_false(text_utf8_valid("\xe2\x82", 2));
    assert_true(text_utf8_valid("\xe2\x82\xac", 3));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hostile_headers),      cmocka_unit_test(what_lies_in_place_of_weights),
        cmocka_unit_test(lying_lengths),
        cmocka_unit_test(truncations_never_open), cmocka_unit_test(dtypes_become_floats),
        cmocka_unit_test(layout_and_metadata),  cmocka_unit_test(many_names_are_found),
        cmocka_unit_test(shards_merge),         cmocka_unit_test(sha256_vectors),
        cmocka_unit_test(text_is_made_printable),
    };
    return cmocka_run_group_tests(tests, scratch_make, scratch_drop);
}
