#include "io/safetensors.h"
#include "tests/fuzz/fuzz.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Everything of an open file that others use. */
static void use(const struct st_file *f) {
    struct error e;
    char shape[ST_SHAPE_TEXT_BYTES], hex[65];
    for (size_t i = 0; i < st_count(f); i++) {
        const struct st_tensor *t = st_at(f, i);
        assert(st_find(f, t->name) == t);
        st_tensor_shape_text(t, shape);
        size_t n = st_tensor_elements(t);
        float *v = n <= 1 << 16 ? malloc(n * sizeof *v + 1) : NULL;
        if (v) st_read_f32(t, v, n, &e);
        free(v);
    }
    for (size_t i = 0; i < st_meta_count(f); i++) assert(st_meta_find(f, st_meta_key(f, i)));
    st_data_sha256(f, hex);
    assert(st_intact(f, &e));
}

/* Header text up to the first zero byte, data behind it: the length in front is made here. */
void fuzz_safetensors(const uint8_t *data, size_t n) {
    struct error e;
    const uint8_t *zero = n ? memchr(data, 0, n) : NULL;
    uint64_t header = zero ? (uint64_t)(zero - data) : n;
    size_t rest = n - (size_t)header - (zero ? 1 : 0);
    uint8_t *file = malloc(8 + (size_t)header + rest);
    memcpy(file, &header, 8);
    if (header) memcpy(file + 8, data, (size_t)header);
    if (rest) memcpy(file + 8 + header, zero + 1, rest);
    const char *paths[] = {fuzz_file(0, file, 8 + (size_t)header + rest), fuzz_file(1, data, n)};
    free(file);
    for (int i = 0; i < 2; i++) {
        struct st_file *f = st_open(paths[i], &e);
        if (f) use(f);
        st_close(&f);
    }
}
