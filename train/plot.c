/* A run's loss and learning rate as a picture. */
#include <math.h>
#include <stdio.h>

#include "base/log.h"
#include "io/png.h"
#include "train/trainer_priv.h"

enum { WIDTH = 960, HEIGHT = 600, LEFT = 90, RIGHT = 20, TOP = 40, GAP = 50, LOSS_HEIGHT = 330, RATE_HEIGHT = 110 };

/* A field of the picture and the values that it spans. */
struct panel {
    struct image *im;
    int y, h;
    float low, high;
};

static void dot(const struct panel *p, int x, int y, uint32_t colour) {
    if (x < LEFT || x >= WIDTH - RIGHT || y < p->y || y >= p->y + p->h) return;
    uint8_t *rgb = p->im->rgb + ((size_t)y * WIDTH + (size_t)x) * 3;
    rgb[0] = (uint8_t)(colour >> 16), rgb[1] = (uint8_t)(colour >> 8), rgb[2] = (uint8_t)colour;
}

static int row_of(const struct panel *p, float v) {
    float part = p->high > p->low ? (v - p->low) / (p->high - p->low) : 0.5f;
    return p->y + p->h - 1 - (int)lroundf(part * (float)(p->h - 1));
}

static int column_of(int step, int n) {
    return LEFT + (n > 1 ? (int)((int64_t)step * (WIDTH - LEFT - RIGHT - 1) / (n - 1)) : 0);
}

/* Vertical strokes join one value to the next. */
static void curve(const struct panel *p, const float *values, int stride, int n, uint32_t colour) {
    for (int i = 0; i < n; i++) {
        int x = column_of(i, n), y = row_of(p, values[i * stride]), next = i + 1 < n ? i + 1 : i;
        int x2 = column_of(next, n), y2 = row_of(p, values[next * stride]);
        for (int k = x; k <= x2; k++) {
            int a = x2 > x ? y + (y2 - y) * (k - x) / (x2 - x) : y, b = x2 > x ? y + (y2 - y) * (k + 1 - x) / (x2 - x) : y2;
            for (int v = a < b ? a : b; v <= (a < b ? b : a); v++) dot(p, k, v, colour);
        }
    }
}

static void frame(const struct panel *p, const char *title) {
    char text[32];
    for (int x = LEFT; x < WIDTH - RIGHT; x++) dot(p, x, p->y, 0xcccccc), dot(p, x, p->y + p->h - 1, 0x888888);
    for (int y = p->y; y < p->y + p->h; y++) dot(p, LEFT, y, 0x888888);
    image_text(p->im, LEFT, p->y - 14, 1, 0x000000, title);
    snprintf(text, sizeof text, "%.4g", (double)p->high), image_text(p->im, 8, p->y, 1, 0x444444, text);
    snprintf(text, sizeof text, "%.4g", (double)p->low), image_text(p->im, 8, p->y + p->h - 9, 1, 0x444444, text);
}

static struct panel panel_over(struct image *im, int y, int h, const float *values, int stride, int n) {
    struct panel p = {im, y, h, values[0], values[0]};
    for (int i = 0; i < n; i++) p.low = fminf(p.low, values[i * stride]), p.high = fmaxf(p.high, values[i * stride]);
    return p;
}

bool train_plot_draw(struct trainer *t, struct error *err) {
    int n = t->step;
    if (!t->params.plot || n == 0) return true;
    struct arena *a = arena_create(NULL);
    struct image im = image_create(a, WIDTH, HEIGHT);
    for (int i = 0; i < WIDTH * HEIGHT * 3; i++) im.rgb[i] = 255;
    const float *history = t->history;
    struct panel loss = panel_over(&im, TOP, LOSS_HEIGHT, history, 3, n);
    struct panel rate = panel_over(&im, TOP + LOSS_HEIGHT + GAP, RATE_HEIGHT, history + 2, 3, n);
    rate.low = 0;
    frame(&loss, "loss (grey: of each step, red: moving mean)");
    frame(&rate, "learning rate");
    curve(&loss, history, 3, n, 0xb0b0b0);
    curve(&loss, history + 1, 3, n, 0xc0392b);
    curve(&rate, history + 2, 3, n, 0x2c5fa8);
    char steps[32];
    snprintf(steps, sizeof steps, "step %d", n);
    image_text(&im, WIDTH - RIGHT - IMAGE_GLYPH_W * 12, HEIGHT - 30, 1, 0x444444, steps);
    image_text(&im, LEFT, HEIGHT - 30, 1, 0x444444, "step 1");
    bool ok = png_write(t->params.plot, &im, NULL, 0, err);
    if (ok) log_info("loss and learning rate: %s", t->params.plot);
    arena_destroy(&a);
    return ok;
}
