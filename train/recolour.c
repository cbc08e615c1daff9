/* Parts, thin lines, new colours: see train/recolour.h. */
#include "train/recolour.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/rng.h"

enum { MAX_COLOURS = 8, ROUNDS = 8, MOST_SAMPLES = 4096 };
enum { SAME = 60, BETWEEN = 45 }; /* distances of colours, 0..442 */

struct work {
    struct arena *a;
    const struct image *src;
    int w, h, n;     /* n = w*h */
    int *colour, *part; /* per pixel: main colour, connected part */
    int n_parts;
    bool *ground;       /* per part */
    bool *broad;        /* per pixel */
    struct rng dice;
};
struct rgb {
    float v[3];
};

static float draw(struct work *k, float low, float high) {
    float u;
    rng_rand(&k->dice, &u, 1);
    return low + u * (high - low);
}

/* --- the picture's main colours ------------------------------------------------------------------- */
static float distance(struct rgb a, struct rgb b) {
    float x = a.v[0] - b.v[0], y = a.v[1] - b.v[1], z = a.v[2] - b.v[2];
    return sqrtf(x * x + y * y + z * z);
}
static struct rgb pixel(const struct image *im, int i) {
    const uint8_t *p = im->rgb + (size_t)i * 3;
    return (struct rgb){{p[0], p[1], p[2]}};
}
static int nearest_colour(const struct rgb *c, int n, struct rgb p) {
    int best = 0;
    for (int i = 1; i < n; i++)
        if (distance(c[i], p) < distance(c[best], p)) best = i;
    return best;
}

/* k-means over every so-manieth pixel, begun with those farthest from what is there. */
static int cluster(const struct work *k, struct rgb *c, int *count) {
    int step = k->n / MOST_SAMPLES + 1, n = 1;
    c[0] = pixel(k->src, 0);
    for (; n < MAX_COLOURS; n++) {
        float most = SAME;
        for (int i = 0; i < k->n; i += step) {
            struct rgb p = pixel(k->src, i);
            float d = distance(c[nearest_colour(c, n, p)], p);
            if (d > most) most = d, c[n] = p;
        }
        if (most <= SAME) break;
    }
    for (int round = 0; round < ROUNDS; round++) {
        double sum[MAX_COLOURS][3] = {{0}};
        memset(count, 0, MAX_COLOURS * sizeof *count);
        for (int i = 0; i < k->n; i += step) {
            struct rgb p = pixel(k->src, i);
            int at = nearest_colour(c, n, p);
            count[at]++;
            for (int j = 0; j < 3; j++) sum[at][j] += (double)p.v[j];
        }
        for (int i = 0; i < n; i++)
            for (int j = 0; count[i] && j < 3; j++) c[i].v[j] = (float)(sum[i][j] / count[i]);
    }
    return n;
}

/* Whether c lies on the way between a and b, as the rims of shapes do. */
static bool lies_between(struct rgb c, struct rgb a, struct rgb b) {
    float along = 0, length = 0;
    for (int j = 0; j < 3; j++) along += (c.v[j] - a.v[j]) * (b.v[j] - a.v[j]), length += (b.v[j] - a.v[j]) * (b.v[j] - a.v[j]);
    if (length <= 0 || along <= 0 || along >= length) return false;
    struct rgb at;
    for (int j = 0; j < 3; j++) at.v[j] = a.v[j] + along / length * (b.v[j] - a.v[j]);
    return distance(at, c) < BETWEEN;
}

static int main_colours(const struct work *k, struct rgb *out) {
    struct rgb c[MAX_COLOURS];
    int count[MAX_COLOURS], n = cluster(k, c, count), kept = 0;
    for (int i = 0; i < n; i++) {
        bool rim = false;
        for (int a = 0; a < n; a++)
            for (int b = 0; b < n; b++)
                rim |= a != b && count[a] > count[i] && count[b] > count[i] && lies_between(c[i], c[a], c[b]);
        if (!rim) out[kept++] = c[i];
    }
    return kept;
}

/* --- connected parts ------------------------------------------------------------------------------- */
/* Where each pixel's nearest marked one is, by its index; -1 where none is marked. Two passes over 8 neighbours. */
static int *nearest_marked(const struct work *k, const bool *marked) {
    int *at = arena_alloc_n(k->a, (size_t)k->n, sizeof *at), w = k->w, h = k->h;
    for (int i = 0; i < k->n; i++) at[i] = marked[i] ? i : -1;
    for (int pass = 0; pass < 2; pass++)
        for (int j = 0; j < k->n; j++) {
            int i = pass ? k->n - 1 - j : j, x = i % w, y = i / w, s = pass ? 1 : -1;
            const int steps[4][2] = {{s, 0}, {-1, s}, {0, s}, {1, s}};
            for (int d = 0; d < 4; d++) {
                int nx = x + steps[d][0], ny = y + steps[d][1];
                if (nx < 0 || nx >= w || ny < 0 || ny >= h || at[ny * w + nx] < 0) continue;
                int q = at[ny * w + nx], dx = q % w - x, dy = q / w - y, p = at[i];
                int now = p < 0 ? INT32_MAX : (p % w - x) * (p % w - x) + (p / w - y) * (p / w - y);
                if (dx * dx + dy * dy < now) at[i] = q;
            }
        }
    return at;
}
static int squared(const struct work *k, int i, int j) {
    int dx = i % k->w - j % k->w, dy = i / k->w - j / k->w;
    return dx * dx + dy * dy;
}

static void find_parts(struct work *k) {
    struct rgb colours[MAX_COLOURS];
    int n = main_colours(k, colours);
    k->colour = arena_alloc_n(k->a, (size_t)k->n, sizeof *k->colour);
    int *stack = arena_alloc_n(k->a, (size_t)k->n, sizeof *stack);
    k->part = arena_alloc_n(k->a, (size_t)k->n, sizeof *k->part);
    for (int i = 0; i < k->n; i++) k->colour[i] = nearest_colour(colours, n, pixel(k->src, i)), k->part[i] = -1;
    for (int i = 0; i < k->n; i++) {
        if (k->part[i] >= 0) continue;
        int top = 0;
        stack[top++] = i, k->part[i] = k->n_parts;
        while (top) {
            int p = stack[--top], x = p % k->w;
            const int next[4] = {x ? p - 1 : -1, x + 1 < k->w ? p + 1 : -1, p - k->w, p + k->w};
            for (int d = 0; d < 4; d++)
                if (next[d] >= 0 && next[d] < k->n && k->part[next[d]] < 0 && k->colour[next[d]] == k->colour[p])
                    k->part[next[d]] = k->n_parts, stack[top++] = next[d];
        }
        k->n_parts++;
    }
}

static bool on_border(const struct work *k, int i) {
    int x = i % k->w, y = i / k->w;
    return !x || !y || x == k->w - 1 || y == k->h - 1;
}
/* Parts at the border that have the colour of most of it. */
static void find_ground(struct work *k) {
    int along[MAX_COLOURS] = {0}, best = 0, border = 0;
    k->ground = arena_alloc_n(k->a, (size_t)k->n_parts, sizeof *k->ground);
    for (int i = 0; i < k->n; i++)
        if (on_border(k, i)) along[k->colour[i]]++, border++;
    for (int c = 1; c < MAX_COLOURS; c++)
        if (along[c] > along[best]) best = c;
    for (int i = 0; i < k->n; i++)
        if (on_border(k, i) && k->colour[i] == best && along[best] * 2 > border) k->ground[k->part[i]] = true;
}

/* A part's broad pixels: those that a disc within the part covers, of 1/40 of the picture or, in some versions, 1/28. */
static void find_broad(struct work *k) {
    int side = k->w < k->h ? k->w : k->h, r = side / (draw(k, 0, 1) < 0.5f ? 40 : 28);
    if (r < 1) r = 1;
    bool *mark = arena_alloc_n(k->a, (size_t)k->n, sizeof *mark);
    for (int i = 0; i < k->n; i++) {
        int x = i % k->w, p = k->part[i];
        mark[i] = (x && k->part[i - 1] != p) || (x + 1 < k->w && k->part[i + 1] != p) ||
                  (i >= k->w && k->part[i - k->w] != p) || (i + k->w < k->n && k->part[i + k->w] != p);
    }
    const int *rim = nearest_marked(k, mark);
    for (int i = 0; i < k->n; i++) mark[i] = rim[i] < 0 || squared(k, i, rim[i]) >= r * r;
    const int *core = nearest_marked(k, mark);
    k->broad = arena_alloc_n(k->a, (size_t)k->n, sizeof *k->broad);
    for (int i = 0; i < k->n; i++)
        k->broad[i] = core[i] >= 0 && k->part[core[i]] == k->part[i] && squared(k, i, core[i]) <= (r + 1) * (r + 1);
}

/* --- new colours ------------------------------------------------------------------------------------ */
static struct rgb hsv(float h, float s, float v) {
    struct rgb c;
    for (int j = 0; j < 3; j++) {
        float at = fmodf(h * 6 + (float)((5 - 2 * j + 6) % 6), 6), part = at < 4 - at ? at : 4 - at;
        part = part < 0 ? 0 : part > 1 ? 1 : part;
        c.v[j] = 255 * v * (1 - s * part);
    }
    return c;
}
/* Around a hue that the picture has in common, or anywhere. */
static struct rgb draw_colour(struct work *k, float hue) {
    float own = draw(k, 0, 1) < 0.7f ? hue + draw(k, -0.1f, 0.1f) + 1 : draw(k, 0, 1), dark = draw(k, 0, 1);
    return hsv(own - floorf(own), draw(k, 0.15f, 1), dark < 0.25f ? draw(k, 0.25f, 0.6f) : draw(k, 0.55f, 1));
}

static void paint(struct work *k, struct image *out) {
    int side = k->w < k->h ? k->w : k->h, reach = side / 25 > 1 ? side / 25 : 1;
    bool *mark = arena_alloc_n(k->a, (size_t)k->n, sizeof *mark);
    struct rgb *colour = arena_alloc_n(k->a, (size_t)k->n_parts, sizeof *colour);
    float hue = draw(k, 0, 1), line = draw(k, 0, 1) < 0.35f ? 0.65f : 1; /* some versions keep lines, as darker shades */
    float top = draw(k, 0.9f, 1.08f), bottom = draw(k, 0.8f, 1);
    for (int p = 0; p < k->n_parts; p++) colour[p] = draw_colour(k, hue);
    for (int i = 0; i < k->n; i++) mark[i] = k->broad[i] && !k->ground[k->part[i]];
    const int *near = nearest_marked(k, mark);
    for (int i = 0; i < k->n; i++) {
        struct rgb c = colour[k->part[i]];
        float shade = top + (bottom - top) * (float)(i / k->w) / (float)k->h;
        if (k->ground[k->part[i]]) c = pixel(k->src, i), shade = 1;
        else if (!k->broad[i] && near[i] >= 0 && squared(k, i, near[i]) <= reach * reach) {
            c = colour[k->part[near[i]]];
            if (k->part[near[i]] != k->part[i]) shade *= line;
        }
        for (int j = 0; j < 3; j++) {
            float v = c.v[j] * shade + 0.5f;
            out->rgb[(size_t)i * 3 + (size_t)j] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
        }
    }
}

/* 3 x 3 means, so that rims are as soft as in a drawing. */
static struct image soften(struct arena *a, const struct image *src) {
    struct image out = image_create(a, src->w, src->h);
    for (int y = 0; y < src->h; y++)
        for (int x = 0; x < src->w; x++)
            for (int j = 0; j < 3; j++) {
                int sum = 0, n = 0;
                for (int v = y - 1; v <= y + 1; v++)
                    for (int u = x - 1; u <= x + 1; u++)
                        if (v >= 0 && v < src->h && u >= 0 && u < src->w)
                            sum += src->rgb[((size_t)v * (size_t)src->w + (size_t)u) * 3 + (size_t)j], n++;
                out.rgb[((size_t)y * (size_t)src->w + (size_t)x) * 3 + (size_t)j] = (uint8_t)((sum + n / 2) / n);
            }
    return out;
}

struct image recolour_image(struct arena *a, const struct image *src, uint64_t seed) {
    struct arena *scratch = arena_create(NULL);
    struct work k = {.a = scratch, .src = src, .w = src->w, .h = src->h, .n = src->w * src->h};
    struct image flat = image_create(scratch, src->w, src->h);
    rng_seed(&k.dice, seed);
    find_parts(&k);
    find_ground(&k);
    find_broad(&k);
    paint(&k, &flat);
    struct image out = soften(a, &flat);
    arena_destroy(&scratch);
    return out;
}

/* All of the version where shapes are settled, none at the end, where only detail is left. */
static float share_at(int time, int n_train) {
    float at = ((float)time / (float)n_train - 0.15f) / 0.3f;
    return at < 0 ? 0 : at > 1 ? 1 : at;
}

void recolour_noise(const struct schedule *s, int time, const float *picture, const float *version, float *noise, size_t n) {
    assert(time >= 0 && time < s->n_train);
    float a = s->alpha_bar[time], share = share_at(time, s->n_train);
    if (share <= 0) return; /* and 1 - a may be 0 */
    for (size_t i = 0; i < n; i++) noise[i] += share * sqrtf(a / (1 - a)) * (version[i] - picture[i]);
}
