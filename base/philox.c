#include "base/philox.h"

#include <math.h>

enum { ROUNDS = 10 };

struct words {
    uint32_t w[4];
};

static struct words philox(uint64_t seed, struct words c) {
    uint32_t key0 = (uint32_t)seed, key1 = (uint32_t)(seed >> 32);
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t a = (uint64_t)0xd2511f53u * c.w[0], b = (uint64_t)0xcd9e8d57u * c.w[2];
        c = (struct words){{(uint32_t)(b >> 32) ^ c.w[1] ^ key0, (uint32_t)b, (uint32_t)(a >> 32) ^ c.w[3] ^ key1,
                            (uint32_t)a}};
        key0 += 0x9e3779b9u;
        key1 += 0xbb67ae85u;
    }
    return c;
}

void philox_randn(uint64_t seed, uint32_t call, float *dst, size_t n) {
    const double unit = 0x1p-32, turn = 2 * M_PI * 0x1p-32;
    for (size_t i = 0; i < n; i++) {
        struct words g = philox(seed, (struct words){{call, 0, (uint32_t)i, 0}});
        double u = (g.w[0] + 0.5) * unit, v = (g.w[1] + 0.5) * turn;
        dst[i] = (float)(sqrt(-2.0 * log(u)) * sin(v));
    }
}
