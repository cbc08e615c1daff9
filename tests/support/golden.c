#include "tests/support/cm.h"
#include "tests/support/golden.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "base/path.h"

const char *golden_path(struct arena *a, const char *name) {
    const char *other = getenv("ATELIER_GOLDENS");
    if (other && *other) {
        const char *path = path_join(a, other, name);
        if (os_path_exists(path)) return path;
    }
    if (!strcmp(name, "demo")) return ATELIER_SOURCE_DIR "/assets/model";
    if (!strncmp(name, "demo/", 5)) return path_join(a, ATELIER_SOURCE_DIR "/assets/model", name + 5);
    return path_join(a, ATELIER_SOURCE_DIR "/tests/data", name);
}

struct st_file *golden_open(const char *name) {
    struct error e = {0};
    struct arena *a = arena_create(NULL);
    struct st_file *f = st_open(golden_path(a, arena_printf(a, "%s.safetensors", name)), &e);
    arena_destroy(&a);
    if (!f) fail_msg("%s", e.text);
    return f;
}

static const struct st_tensor *find(const struct st_file *f, const char *name) {
    const struct st_tensor *t = st_find(f, name);
    if (!t) fail_msg("%s lacks %s", st_path(f), name);
    return t;
}

static float *read_raw(const struct st_file *f, const struct st_tensor *t, struct arena *a) {
    struct error e = {0};
    size_t n = st_tensor_elements(t);
    float *raw = arena_alloc_n(a, n, sizeof *raw);
    if (!st_read_f32(t, raw, n, &e)) fail_msg("%s: %s", st_path(f), e.text);
    return raw;
}

/* Turns [outer][c][inner] into [outer][inner][c]. */
static float *channels_last(const float *raw, size_t outer, size_t c, size_t inner, struct arena *a) {
    float *out = arena_alloc_n(a, outer * c * inner, sizeof *out);
    for (size_t o = 0; o < outer; o++)
        for (size_t k = 0; k < c; k++)
            for (size_t i = 0; i < inner; i++) out[(o * inner + i) * c + k] = raw[(o * c + k) * inner + i];
    return out;
}

float *golden_rows(const struct st_file *f, const char *name, struct arena *a, struct shape *shape) {
    const struct st_tensor *t = find(f, name);
    float *data = read_raw(f, t, a);
    struct shape s = {1, 1, 1, 1};
    const int64_t *d = t->dims;
    switch (t->rank) {
    case 1:
        s.n = (int)d[0];
        break;
    case 2:
        s.n = (int)d[0], s.w = (int)d[1];
        break;
    case 3:
        s.n = (int)d[0], s.w = (int)d[1], s.c = (int)d[2];
        break;
    case 5:
        s.n = (int)(d[0] * d[1]), s.c = (int)d[2], s.h = (int)d[3], s.w = (int)d[4];
        break;
    case 4:
        s.n = (int)d[0], s.c = (int)d[1], s.h = (int)d[2], s.w = (int)d[3];
        break;
    default:
        fail_msg("%s: %s has rank %d", st_path(f), name, t->rank);
    }
    if (t->rank >= 4) data = channels_last(data, (size_t)s.n, (size_t)s.c, (size_t)s.h * (size_t)s.w, a);
    if (shape) *shape = s;
    return data;
}

float *golden_weight(const struct st_file *f, const char *name, struct arena *a, struct shape *shape) {
    const struct st_tensor *t = find(f, name);
    float *raw = read_raw(f, t, a);
    if (t->rank != 2 && t->rank != 4) fail_msg("%s: %s has rank %d", st_path(f), name, t->rank);
    size_t rows = (size_t)t->dims[0], in = (size_t)t->dims[1];
    size_t taps = t->rank == 4 ? (size_t)(t->dims[2] * t->dims[3]) : 1;
    float *out = arena_alloc_n(a, rows * in * taps, sizeof *out);
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < in; i++)
            for (size_t k = 0; k < taps; k++) out[(k * rows + r) * in + i] = raw[(r * in + i) * taps + k];
    if (shape) *shape = (struct shape){(int)taps, 1, (int)rows, (int)in};
    return out;
}

const uint8_t *golden_picture(const struct st_file *f, const char *name, int *h, int *w) {
    const struct st_tensor *t = find(f, name);
    if (t->dtype != ST_U8 || t->rank != 3 || t->dims[2] != 3)
        fail_msg("%s: %s is no picture", st_path(f), name);
    *h = (int)t->dims[0];
    *w = (int)t->dims[1];
    return t->data;
}

const char *golden_text(const struct st_file *f, const char *key) {
    const char *value = st_meta_find(f, key);
    if (!value) fail_msg("%s lacks the metadata %s", st_path(f), key);
    return value;
}

double golden_number(const struct st_file *f, const char *key) {
    const char *text = golden_text(f, key);
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end) fail_msg("%s: %s is '%s', not a number", st_path(f), key, text);
    return value;
}

static double worst_difference(const float *got, const float *want, size_t n) {
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - want[i]);
        if (!(d <= worst)) worst = d; /* nan counts, and stays */
        if (isnan(worst)) break;
    }
    return worst;
}

static void limits(const float *want, size_t n, double *low, double *high) {
    *low = *high = n ? want[0] : 0;
    for (size_t i = 0; i < n; i++) {
        *low = fmin(*low, want[i]);
        *high = fmax(*high, want[i]);
    }
}

double golden_range_error(const float *got, const float *want, size_t n) {
    double low, high;
    limits(want, n, &low, &high);
    return worst_difference(got, want, n) / fmax(high - low, 1e-30);
}

static void judge(const char *what, double error, const char *of, double tolerance) {
    print_message("%s: %.2g of the %s\n", what, error, of);
    if (!(error <= tolerance))
        fail_msg("%s differs by %.3g of the %s, more than %.1g", what, error, of, tolerance);
}

void golden_near(const char *what, const float *got, const float *want, size_t n, double tolerance) {
    judge(what, golden_range_error(got, want, n), "range", tolerance);
}

void golden_near_peak(const char *what, const float *got, const float *want, size_t n, double tolerance) {
    double low, high;
    limits(want, n, &low, &high);
    double peak = fmax(fmax(fabs(low), fabs(high)), 1e-30);
    judge(what, worst_difference(got, want, n) / peak, "largest value", tolerance);
}

double golden_psnr(const uint8_t *got, const uint8_t *want, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)got[i] - want[i];
        sum += d * d;
    }
    return sum == 0 ? INFINITY : 10 * log10(255.0 * 255.0 * (double)n / sum);
}
