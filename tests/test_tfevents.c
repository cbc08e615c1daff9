/* Event files: frames, checksums and messages, taken apart again. TensorBoard's own reader: tests/reference/README.md. */
#include "tests/support/cm.h"
#include "tests/support/scratch.h"

#include <string.h>

#include "base/arena.h"
#include "base/os.h"
#include "io/tfevents.h"

static uint32_t masked(const void *data, size_t n) {
    uint32_t crc = tfevents_crc(data, n);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

static void test_crc(void **state) {
    assert_int_equal(tfevents_crc("123456789", 9), 0xe3069283u); /* the check value of CRC-32C */
    assert_int_equal(tfevents_crc("", 0), 0);
}

/* The message at *at, its frame checked. */
static const uint8_t *frame(const struct os_map *m, size_t *at, size_t *n) {
    uint64_t length;
    uint32_t head, tail;
    assert_true(*at + 12 <= m->bytes);
    memcpy(&length, m->data + *at, 8);
    memcpy(&head, m->data + *at + 8, 4);
    assert_int_equal(head, masked(m->data + *at, 8));
    const uint8_t *data = m->data + *at + 12;
    assert_true(*at + 16 + length <= m->bytes);
    memcpy(&tail, data + length, 4);
    assert_int_equal(tail, masked(data, length));
    *at += 16 + length;
    *n = length;
    return data;
}

static void test_file(void **state) {
    struct error e = {{0}};
    struct arena *a = arena_create(NULL);
    const char *dir = arena_strdup(a, scratch_path("board"));
    const struct tfevents_scalar scalars[] = {{"loss/current", 0.5f}, {"lr", 1e-3f}};
    for (int run = 0; run < 2; run++) {
        struct tfevents *t = tfevents_open(dir, 1700000000, run ? 300 : 0, &e);
        assert_non_null(t);
        assert_true(tfevents_write(t, 1700000001.5, 300, scalars, 2, &e));
        tfevents_close(&t);
        struct os_map m;
        assert_true(os_file_map(&m, arena_printf(a, "%s/events.out.tfevents.170000000%d.atelier", dir, run), &e));
        size_t at = 0, n;
        const uint8_t *p = frame(&m, &at, &n);
        assert_memory_equal(p + n - 13, "brain.Event:2", 13);
        if (run) { /* step 300, session log, status START */
            p = frame(&m, &at, &n);
            assert_memory_equal(p + 9, "\x10\xac\x02\x3a\x02\x08\x01", 7);
        }
        p = frame(&m, &at, &n);
        double seconds;
        memcpy(&seconds, p + 1, 8);
        assert_true(p[0] == 9 && seconds == 1700000001.5);
        assert_memory_equal(p + 9, "\x10\xac\x02\x2a", 4);
        assert_memory_equal(p + 13, "\x20\x0a\x13\x0a\x0closs/current\x15\0\0\0\x3f", 22);
        assert_int_equal(at, m.bytes);
        os_file_unmap(&m);
    }
    assert_null(tfevents_open("/dev/null/x", 1, 0, &e));
    arena_destroy(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_crc), cmocka_unit_test(test_file)};
    return cmocka_run_group_tests(tests, scratch_make, scratch_drop);
}
