#include "lora/merge_prune.h"

#include "base/arena.h"

#include <string.h>

/* Sizes of floats order like their bits. */
static uint32_t size_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x7fffffffu;
}

/* The digit (16 bits above shift) at which the k-th largest of those whose higher bits are `prefix` lies; k becomes its
 * place among the numbers with that digit. */
static uint32_t select_digit(const float *x, size_t n, uint32_t prefix, int shift, size_t *k, size_t *counts) {
    memset(counts, 0, 65536 * sizeof *counts);
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = size_bits(x[i]);
        if (shift || bits >> 16 == prefix) counts[bits >> shift & 0xffff]++;
    }
    uint32_t digit = 65535;
    while (digit && counts[digit] < *k) *k -= counts[digit--];
    return digit;
}

void lora_prune_magnitude(float *x, size_t n, double density) {
    if (density >= 1) return;
    size_t k = (size_t)(density * (double)n);
    if (k == 0) {
        memset(x, 0, n * sizeof *x);
        return;
    }
    struct arena *scratch = arena_create(NULL);
    size_t *counts = arena_alloc_n(scratch, 65536, sizeof *counts);
    uint32_t high = select_digit(x, n, 0, 16, &k, counts);
    uint32_t least = high << 16 | select_digit(x, n, high, 0, &k, counts);
    for (size_t i = 0; i < n; i++) { /* k of those that equal the least one stay */
        uint32_t bits = size_bits(x[i]);
        if (bits == least && k) k--;
        else if (bits <= least) x[i] = 0;
    }
    arena_destroy(&scratch);
}

void lora_prune_random(float *x, size_t n, double density, struct rng *rng) {
    if (density >= 1) return;
    enum { CHUNK = 4096 };
    float draws[CHUNK], keep = (float)density;
    for (size_t from = 0; from < n; from += CHUNK) {
        size_t m = n - from < CHUNK ? n - from : CHUNK;
        rng_rand(rng, draws, m);
        for (size_t i = 0; i < m; i++) x[from + i] = draws[i] < keep ? x[from + i] / keep : 0;
    }
}

void lora_merge_weighted_sum(const struct lora_merge_layer *l, float *dst) {
    for (size_t i = 0; i < l->n_numbers; i++) {
        double sum = 0;
        for (int k = 0; k < l->n; k++) sum += (double)l->weights[k] * l->deltas[k][i];
        dst[i] = (float)sum;
    }
}
