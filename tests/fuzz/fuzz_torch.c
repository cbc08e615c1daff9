#include "base/arena.h"
#include "io/pickle.h"
#include "io/safetensors.h"
#include "tests/fuzz/fuzz.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

static void put16(uint8_t **p, unsigned v) { *(*p)++ = (uint8_t)v, *(*p)++ = (uint8_t)(v >> 8); }

static void put32(uint8_t **p, uint32_t v) { put16(p, v & 0xffff), put16(p, v >> 16); }

/* Local header (central: directory entry) of a stored member. */
static void put_header(uint8_t **p, int central, const char *name, const void *data, uint32_t n, uint32_t local) {
    put32(p, central ? 0x02014b50 : 0x04034b50);
    if (central) put16(p, 0);
    for (int i = 0; i < 5; i++) put16(p, 0); /* versions, flags, method, time, date */
    put32(p, (uint32_t)crc32(0, data, n));
    put32(p, n);
    put32(p, n);
    put16(p, (unsigned)strlen(name));
    put16(p, 0);
    if (central) {
        for (int i = 0; i < 5; i++) put16(p, 0);
        put32(p, local);
    }
    memcpy(*p, name, strlen(name));
    *p += strlen(name);
}

/* An archive as torch.save makes it, around a pickle. Returns its length. */
static size_t wrap(uint8_t *dst, const uint8_t *pickle, size_t n) {
    static const uint8_t storage[64];
    uint8_t *p = dst;
    put_header(&p, 0, "a/data.pkl", pickle, (uint32_t)n, 0);
    if (n) memcpy(p, pickle, n);
    p += n;
    uint32_t second = (uint32_t)(p - dst);
    put_header(&p, 0, "a/data/0", storage, sizeof storage, 0);
    memcpy(p, storage, sizeof storage);
    p += sizeof storage;
    uint32_t directory = (uint32_t)(p - dst);
    put_header(&p, 1, "a/data.pkl", pickle, (uint32_t)n, 0);
    put_header(&p, 1, "a/data/0", storage, sizeof storage, second);
    uint32_t bytes = (uint32_t)(p - dst) - directory;
    put32(&p, 0x06054b50);
    put32(&p, 0);
    put16(&p, 2), put16(&p, 2);
    put32(&p, bytes);
    put32(&p, directory);
    put16(&p, 0);
    return (size_t)(p - dst);
}

static void use(const char *path) {
    struct error e;
    struct st_file *f = st_open(path, &e);
    for (size_t i = 0; f && i < st_count(f); i++) {
        const struct st_tensor *t = st_at(f, i);
        size_t n = st_tensor_elements(t);
        assert(st_find(f, t->name) == t);
        float *v = n <= 1 << 16 ? malloc(n * sizeof *v + 1) : NULL;
        if (v) st_read_f32(t, v, n, &e);
        free(v);
    }
    st_close(&f);
}

static bool anything(const char *name) { return true; }

/* An even first byte: an archive. Odd: the pickle inside one. */
void fuzz_torch(const uint8_t *data, size_t n) {
    if (!n) return;
    if (data[0] % 2 == 0) {
        use(fuzz_file(0, data + 1, n - 1));
        return;
    }
    struct error e;
    struct arena *a = arena_create(NULL);
    pickle_read(a, data + 1, n - 1, anything, &e);
    arena_destroy(&a);
    uint8_t *archive = malloc(n + 1024);
    size_t bytes = wrap(archive, data + 1, n - 1);
    use(fuzz_file(0, archive, bytes));
    free(archive);
}
