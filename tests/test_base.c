#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/error.h"
#include "base/half.h"
#include "base/os.h"
#include "base/path.h"
#include "base/thread.h"

static char dir[] = "/tmp/atelier-base-XXXXXX";

static int make_dir(void **s) { return mkdtemp(dir) ? 0 : -1; }

static int drop_dir(void **s) {
    char cmd[128];
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
    return system(cmd);
}

static void errors_keep_context(void **s) {
    struct error e = {0};
    assert_false(error_set(&e, "bad %d", 7));
    assert_string_equal(e.text, "bad 7");
    error_prefix(&e, "file '%s'", "x");
    assert_string_equal(e.text, "file 'x': bad 7");
    error_set(&e, "again %s", e.text);
    assert_string_equal(e.text, "again file 'x': bad 7");
    assert_false(error_set(NULL, "nobody listens"));
    char big[3000];
    memset(big, 'a', sizeof big - 1);
    big[sizeof big - 1] = 0;
    error_set(&e, "%s", big);
    assert_int_equal(strlen(e.text), sizeof e.text - 1);
    error_prefix(&e, "%s", big);
    memset(big, 0, sizeof big);
    for (int i = 0; i < 700; i++) memcpy(big + 2 * i, "\xc3\xa9", 2);
    error_set(&e, "%s", big); /* 1023 is odd: the half character goes */
    assert_int_equal(strlen(e.text), 1022);
}

static void arenas_nest(void **s) {
    struct arena *root = arena_create(NULL);
    struct arena *a = arena_create(root), *b = arena_create(root), *c = arena_create(a);
    for (size_t n = 0; n < 70000; n += 997) {
        uint8_t *p = arena_alloc(c, n);
        assert_int_equal((uintptr_t)p % 16, 0);
        for (size_t i = 0; i < n; i++) assert_int_equal(p[i], 0);
        memset(p, 255, n);
    }
    assert_string_equal(arena_printf(b, "%s-%d", arena_strdup(b, "x"), 5), "x-5");
    int *g = arena_grow(b, NULL, 0, 2, sizeof *g);
    g[0] = 1, g[1] = 2;
    g = arena_grow(b, g, 2, 1000, sizeof *g);
    assert_int_equal(g[1], 2);
    assert_int_equal(g[999], 0);
    arena_destroy(&b);
    assert_null(b);
    arena_destroy(&b);
    arena_destroy(&root); /* takes a and c along */
}

static void halves_round_trip(void **s) {
    static uint16_t all[65536], back[65536];
    static float wide[65536];
    for (int i = 0; i < 65536; i++) all[i] = (uint16_t)i;
    half_to_float_n(wide, all, 65536);
    half_from_float_n(back, wide, 65536);
    for (int i = 0; i < 65536; i++) {
        float f = half_to_float((uint16_t)i);
        assert_memory_equal(&f, &wide[i], 4);
        assert_int_equal(back[i], half_from_float(f));
        if (!isnan(f)) assert_int_equal(back[i], i);
        float g = bf16_to_float((uint16_t)i);
        if (!isnan(g)) assert_int_equal(bf16_from_float(g), i);
        else assert_true(isnan(bf16_to_float(bf16_from_float(g))));
    }
    assert_int_equal(half_from_float(65519.99f), 0x7BFF);
    assert_int_equal(half_from_float(65520.0f), 0x7C00);
    assert_int_equal(half_from_float(0x1.002p0f), 0x3C00);   /* ties of larger numbers, to the even neighbour below */
    assert_int_equal(half_from_float(0x1.006p0f), 0x3C02);   /* and above */
    assert_int_equal(half_from_float(-0x1.ffep10f), 0xE800); /* into the next power of two */
    assert_int_equal(half_from_float(0x1p-25f), 0);          /* tie to even zero */
    assert_int_equal(half_from_float(0x1.000002p-25f), 1);
    assert_int_equal(half_from_float(-0x1.8p-24f), 0x8002);  /* tie to even two */
    assert_int_equal(bf16_from_float(0x1.01p0f), 0x3F80);    /* tie to even */
    assert_int_equal(bf16_from_float(0x1.03p0f), 0x3F82);
    float in[4096];
    uint32_t x = 1;
    for (int i = 0; i < 4096; i++) {
        x = x * 1664525 + 1013904223;
        memcpy(&in[i], &x, 4);
    }
    half_from_float_n(back, in, 4096); /* fast path against the plain one */
    for (int i = 0; i < 4096; i++) assert_int_equal(back[i], half_from_float(in[i]));
}

struct sum {
    uint8_t seen[100003];
};

static void mark(void *ctx, size_t begin, size_t end) {
    struct sum *sum = ctx;
    for (size_t i = begin; i < end; i++) sum->seen[i]++;
}

static void nested(void *ctx, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) {
        struct sum *sum = calloc(1, sizeof *sum);
        thread_parallel_for(1000, mark, sum);
        for (int k = 0; k < 1000; k++) assert_int_equal(sum->seen[k], 1);
        free(sum);
        ((uint8_t *)ctx)[i]++;
    }
}

static void parallel_covers_once(void **s) {
    static struct sum sum;
    size_t sizes[] = {0, 1, 2, 3, 7, 8, 9, 1000, 100003};
    for (int round = 0; round < 50; round++)
        for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
            memset(&sum, 0, sizeof sum);
            thread_parallel_for(sizes[k], mark, &sum);
            for (size_t i = 0; i < sizeof sum.seen; i++) assert_int_equal(sum.seen[i], i < sizes[k]);
        }
    uint8_t flags[40] = {0};
    thread_parallel_for(40, nested, flags);
    for (int i = 0; i < 40; i++) assert_int_equal(flags[i], 1);
    assert_true(thread_count() >= 1);
}

static void files_appear_whole(void **s) {
    struct arena *a = arena_create(NULL);
    struct error e = {0};
    struct os_map m;
    char *path = path_join(a, dir, "file.bin"), *sub = path_join(a, dir, "deep/er/folder");
    assert_true(os_dir_make(sub, &e));
    assert_true(os_dir_make(sub, &e));
    assert_false(os_file_map(&m, path, &e));
    assert_non_null(strstr(e.text, "file.bin"));
    assert_true(os_file_write_atomic(path, "hello", 5, &e));
    assert_true(os_file_map(&m, path, &e));
    assert_int_equal(m.bytes, 5);
    assert_memory_equal(m.data, "hello", 5);
    os_file_unmap(&m);
    struct os_writer *w = os_writer_open(path, &e);
    static uint8_t block[200000];
    memset(block, 7, sizeof block);
    for (int i = 0; i < 10; i++) assert_true(os_writer_append(w, block, (size_t)i * 20000 + 1, &e));
    assert_true(os_file_map(&m, path, &e)); /* not yet */
    assert_int_equal(m.bytes, 5);
    os_file_unmap(&m);
    assert_true(os_writer_commit(&w, &e));
    assert_null(w);
    assert_true(os_file_map(&m, path, &e));
    assert_int_equal(m.bytes, 900010);
    os_file_unmap(&m);
    w = os_writer_open(path, &e);
    assert_true(os_writer_append(w, "x", 1, &e));
    os_writer_abort(&w);
    assert_true(os_file_write_atomic(path_join(a, dir, "empty"), "", 0, &e));
    assert_true(os_file_map(&m, path_join(a, dir, "empty"), &e));
    assert_int_equal(m.bytes, 0);
    assert_non_null(m.data);
    os_file_unmap(&m);
    struct os_entry *list;
    size_t n;
    assert_true(os_dir_list(a, dir, &list, &n, &e));
    assert_int_equal(n, 3); /* no temporary file is left */
    assert_string_equal(list[0].name, "deep");
    assert_true(list[0].is_dir && !list[1].is_dir);
    assert_string_equal(list[2].name, "file.bin");
    assert_false(os_dir_list(a, path, &list, &n, &e));
    assert_false(os_file_write_atomic(dir, "x", 1, &e));
    assert_false(os_file_write_atomic("/dev/full", "x", 1, &e)); /* must not rename over a device */
    assert_false(os_file_map(&m, dir, &e));
    assert_non_null(strstr(e.text, "folder"));
    assert_false(os_file_write_atomic(path_join(a, path, "below"), "x", 1, &e));
    assert_false(os_dir_make(path_join(a, path, "below"), &e));
    arena_destroy(&a);
}

static void appender_cuts_torn_line(void **s) {
    struct arena *a = arena_create(NULL);
    struct error e = {0};
    struct os_map m;
    char *path = path_join(a, dir, "log");
    static char torn[10000];
    memset(torn, 'x', sizeof torn);
    memcpy(torn, "one\ntwo\n", 8);
    assert_true(os_file_write_atomic(path, torn, sizeof torn, &e));
    struct os_appender *log = os_appender_open(path, false, &e);
    assert_true(os_appender_write(log, "three\n", 6, &e));
    os_appender_close(&log);
    assert_true(os_file_map(&m, path, &e));
    assert_int_equal(m.bytes, 14);
    assert_memory_equal(m.data, "one\ntwo\nthree\n", 14);
    os_file_unmap(&m);
    log = os_appender_open("/dev/full", false, &e);
    assert_non_null(log);
    assert_false(os_appender_write(log, "x\n", 2, &e));
    assert_non_null(strstr(e.text, "disk is full"));
    os_appender_close(&log);
    arena_destroy(&a);
}

static void paths(void **s) {
    struct arena *a = arena_create(NULL);
    assert_string_equal(path_join(a, "a", "b"), "a/b");
    assert_string_equal(path_join(a, "a/", "b"), "a/b");
    assert_string_equal(path_join(a, "a", "/b"), "/b");
    assert_string_equal(path_base("x/y.z"), "y.z");
    assert_string_equal(path_dir(a, "x/y.z"), "x");
    assert_string_equal(path_dir(a, "/y"), "/");
    assert_string_equal(path_dir(a, "y"), ".");
    assert_string_equal(path_stem(a, "a.b/c.tar.gz"), "a.b/c.tar");
    assert_string_equal(path_stem(a, "a.b/c"), "a.b/c");
    assert_true(path_has_ext("p/a.PnG", "png"));
    assert_false(path_has_ext("p/.png", "png"));
    arena_destroy(&a);
}

static void machine_facts(void **s) {
    assert_true(os_memory_total() > 1 << 20);
    assert_true(os_memory_peak_rss() > 1 << 16);
    assert_true(os_memory_available() <= os_memory_total());
    double t = os_now_seconds();
    assert_true(os_now_seconds() >= t);
    char when[OS_WALLCLOCK_BYTES];
    os_wallclock(when);
    assert_int_equal(strlen(when), 20);
    assert_true(os_interrupt_install());
    assert_false(os_interrupted());
    struct arena *a = arena_create(NULL);
    setenv("ATELIER_CACHE_DIR", "/somewhere", 1);
    assert_string_equal(os_cache_dir(a), "/somewhere");
    unsetenv("ATELIER_CACHE_DIR");
    setenv("XDG_CACHE_HOME", "/xdg", 1);
    assert_string_equal(os_cache_dir(a), "/xdg/atelier");
    arena_destroy(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_keep_context), cmocka_unit_test(arenas_nest),
        cmocka_unit_test(halves_round_trip),   cmocka_unit_test(parallel_covers_once),
        cmocka_unit_test(files_appear_whole),  cmocka_unit_test(appender_cuts_torn_line),
        cmocka_unit_test(paths),               cmocka_unit_test(machine_facts),
    };
    return cmocka_run_group_tests(tests, make_dir, drop_dir);
}
