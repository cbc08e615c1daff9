/* What torch.save writes, read as tensors; tests/reference/make_torch_files.py made the files. */
#include "tests/support/cm.h"
#include "tests/support/golden.h"
#include "tests/support/scratch.h"

#include "base/os.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { SEED = 3 };

static struct st_file *must_open(struct arena *a, const char *name) {
    struct error e = {0};
    struct st_file *f = st_open(golden_path(a, name), &e);
    if (!f) fail_msg("%s", e.text);
    return f;
}

/* Tensor of this shape whose values are SEED + start + i * step. */
static void check_ramp(const struct st_file *f, const char *name, enum st_dtype dtype, int rank, const int64_t *dims,
                       int start) {
    const struct st_tensor *t = st_find(f, name);
    struct error e = {0};
    float v[64];
    if (!t) fail_msg("%s: no tensor %s", st_path(f), name);
    assert_int_equal(t->dtype, dtype);
    assert_true(st_tensor_has_shape(t, rank, dims));
    size_t n = st_tensor_elements(t);
    assert_true(n <= 64);
    if (!st_read_f32(t, v, n, &e)) fail_msg("%s", e.text);
    for (size_t i = 0; i < n; i++) assert_float_equal(v[i], SEED + start + (int)i, 0);
}

static void check_sound(const char *file) {
    struct arena *a = arena_create(NULL);
    struct st_file *f = must_open(a, file);
    assert_int_equal(st_count(f), 16);
    check_ramp(f, "model.f32", ST_F32, 2, (int64_t[]){2, 3}, 0);
    check_ramp(f, "model.f16", ST_F16, 1, (int64_t[]){5}, 0);
    check_ramp(f, "model.bf16", ST_BF16, 3, (int64_t[]){3, 1, 2}, 0);
    check_ramp(f, "model.f64", ST_F64, 2, (int64_t[]){2, 2}, 0);
    check_ramp(f, "model.i64", ST_I64, 1, (int64_t[]){3}, 0);
    check_ramp(f, "model.i32", ST_I32, 1, (int64_t[]){3}, 0);
    check_ramp(f, "model.i16", ST_I16, 1, (int64_t[]){3}, 0);
    check_ramp(f, "model.i8", ST_I8, 1, (int64_t[]){3}, 0);
    check_ramp(f, "model.u8", ST_U8, 1, (int64_t[]){3}, 0);
    check_ramp(f, "scalar", ST_F32, 0, NULL, 0);
    check_ramp(f, "empty", ST_F32, 2, (int64_t[]){0, 4}, 0);
    check_ramp(f, "view.rows", ST_F32, 2, (int64_t[]){2, 6}, 6);
    check_ramp(f, "parameter", ST_F32, 2, (int64_t[]){2, 2}, 0);
    struct error e = {0};
    float turned[24], columns[8];
    assert_true(st_read_f32(st_find(f, "view.turned"), turned, 24, &e));
    for (int i = 0; i < 24; i++) assert_float_equal(turned[i], SEED + i % 4 * 6 + i / 4, 0);
    assert_true(st_read_f32(st_find(f, "view.columns"), columns, 8, &e));
    for (int i = 0; i < 8; i++) assert_float_equal(columns[i], SEED + i / 2 * 6 + 2 + i % 2, 0);
    assert_string_equal(st_meta_find(f, "global_step"), "875000");
    assert_string_equal(st_meta_find(f, "note"), "text");
    assert_string_equal(st_meta_find(f, "rate"), "0.5");
    st_close(&f);
    arena_destroy(&a);
}

static void sound_files_read(void **state) {
    check_sound("torch/sound.ckpt");
    check_sound("torch/deflated.ckpt");
}

static void other_forms_read(void **state) {
    struct arena *a = arena_create(NULL);
    struct st_file *f = must_open(a, "torch/nested.pt");
    check_ramp(f, "string_to_param.*", ST_F32, 2, (int64_t[]){2, 8}, 0);
    assert_string_equal(st_meta_find(f, "name"), "style");
    st_close(&f);
    f = must_open(a, "torch/list.pt");
    check_ramp(f, "0", ST_F32, 2, (int64_t[]){2, 2}, 0);
    check_ramp(f, "1", ST_F16, 1, (int64_t[]){3}, 0);
    st_close(&f);
    f = must_open(a, "torch/protocol4.pt");
    check_ramp(f, "a", ST_F32, 1, (int64_t[]){2}, 0);
    st_close(&f);
    arena_destroy(&a);
}

static void hostile_files_are_told(void **state) {
    static const char *const cases[][2] = {
        {"evil.pt", "system"}, {"old.pt", "before 1.6"}, {"cut.pt", "cut short"}, {"lacks-storage.pt", "not in the archive"},
        {"short-storage.pt", "past the end of its storage"}, {"big-endian.pt", "big-endian"}, {"repeats.pt", "plausible"},
        {"looped.pt", "no tensors"}, {"no-pickle.pt", "without a data.pkl"}, {"noise.pt", "pickle"},
        {"twice.pt", "two tensors"}};
    struct arena *a = arena_create(NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error e = {0};
        const char *path = golden_path(a, arena_printf(a, "torch/%s", cases[i][0]));
        struct st_file *f = st_open(path, &e);
        if (f) fail_msg("%s opened", path);
        if (!strstr(e.text, cases[i][1])) fail_msg("%s: '%s' does not say '%s'", path, e.text, cases[i][1]);
        assert_null(strchr(e.text, '\n'));
    }
    arena_destroy(&a);
}

/* As a download that broke off leaves them: told as such, with what to do. */
static void cut_files_are_fetched_again(void **state) {
    static const char *const names[] = {"cut.ckpt", "cut.pt", "cut.bin"};
    struct arena *a = arena_create(NULL);
    struct os_map m;
    struct error e = {0};
    assert_true(os_file_map(&m, golden_path(a, "torch/sound.ckpt"), &e));
    for (size_t n = 0, i = 0; n < m.bytes; n += n < 64 || m.bytes - n < 64 ? 1 : 61, i++) {
        assert_null(st_open(scratch_write(names[i % 3], m.data, n), &e));
        if (!strstr(e.text, "fetch the file again") || strstr(e.text, "safetensors")) fail_msg("%zu bytes: %s", n, e.text);
    }
    os_file_unmap(&m);
    arena_destroy(&a);
}

/* Every single byte of an archive changed: it reads or is refused, and nothing else happens. */
static void damaged_files_end_in_sentences(void **state) {
    struct arena *a = arena_create(NULL);
    struct os_map m;
    struct error e = {0};
    assert_true(os_file_map(&m, golden_path(a, "torch/protocol4.pt"), &e));
    uint8_t *copy = arena_alloc(a, m.bytes);
    char path[512];
    snprintf(path, sizeof path, "%s", scratch_path("damaged.pt"));
    int refused = 0;
    for (size_t i = 0; i < m.bytes; i++) {
        memcpy(copy, m.data, m.bytes);
        copy[i] ^= (uint8_t)(1 + i * 37 % 255);
        FILE *out = fopen(path, "wb"); /* not os_file_write_atomic: that waits for the disk */
        assert_int_equal(fwrite(copy, 1, m.bytes, out), m.bytes);
        fclose(out);
        struct st_file *f = st_open(path, &e);
        refused += !f;
        if (!f && strstr(e.text, "is damaged")) assert_non_null(strstr(e.text, "fetch the file again"));
        st_close(&f);
    }
    print_message("%d of %zu changed bytes were noticed\n", refused, m.bytes);
    assert_true(refused > 50);
    os_file_unmap(&m);
    arena_destroy(&a);
}

/* A file that others cut while it is mapped reads as zeros, and reading it is no success. */
static void shrinking_files_are_noticed(void **state) {
    enum { N = 1 << 18 };
    static float values[N];
    for (int i = 0; i < N; i++) values[i] = 1;
    struct error e = {0};
    struct st_writer *w = st_writer_create();
    st_writer_add(w, "a", ST_F32, 1, (int64_t[]){N}, values);
    const char *path = scratch_path("shrinks.safetensors");
    assert_true(st_writer_save(w, path, &e));
    st_writer_destroy(&w);
    struct st_file *f = st_open(path, &e);
    assert_non_null(f);
    assert_true(st_intact(f, &e));
    assert_int_equal(truncate(path, 8192), 0);
    assert_true(st_read_f32(st_find(f, "a"), values, N, &e));
    assert_float_equal(values[0], 1, 0);
    assert_float_equal(values[N - 1], 0, 0);
    assert_false(st_intact(f, &e));
    assert_non_null(strstr(e.text, "changed while it was being read"));
    st_close(&f);
}

static void large_headers_open_fast(void **state) {
    enum { N = 100000 };
    struct error e = {0};
    struct st_writer *w = st_writer_create();
    char name[64];
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "model.diffusion_model.block.%d.weight", i);
        st_writer_add(w, name, ST_U8, 1, (int64_t[]){1}, "x");
    }
    assert_true(st_writer_save(w, scratch_path("many.safetensors"), &e));
    st_writer_destroy(&w);
    double start = os_now_seconds();
    struct st_file *f = st_open(scratch_path("many.safetensors"), &e);
    double seconds = os_now_seconds() - start;
    assert_non_null(f);
    assert_int_equal(st_count(f), N);
    assert_non_null(st_find(f, "model.diffusion_model.block.99999.weight"));
    print_message("%d tensors opened in %.2f s\n", N, seconds);
    assert_true(seconds < 20); /* a guard against quadratic time; sanitizers and busy machines are slow */
    st_close(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sound_files_read),
        cmocka_unit_test(other_forms_read),
        cmocka_unit_test(hostile_files_are_told),
        cmocka_unit_test(cut_files_are_fetched_again),
        cmocka_unit_test(damaged_files_end_in_sentences),
        cmocka_unit_test(shrinking_files_are_noticed),
        cmocka_unit_test(large_headers_open_fast),
    };
    return cmocka_run_group_tests(tests, scratch_make, scratch_drop);
}
