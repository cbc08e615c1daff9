#include "diffusion/area_resize.h"

#include <stddef.h>

/* Of source number k, how much lies in [from, end). */
static double overlap(int k, double from, double end) {
    double low = from > k ? from : k, high = end < k + 1 ? end : k + 1;
    return high > low ? high - low : 0;
}

void area_resize(float *dst, int to_w, int to_h, const float *src, int w, int h) {
    double step_x = (double)w / to_w, step_y = (double)h / to_h;
    for (int y = 0; y < to_h; y++)
        for (int x = 0; x < to_w; x++) {
            double left = x * step_x, right = (x + 1) * step_x, top = y * step_y, bottom = (y + 1) * step_y, sum = 0, all = 0;
            for (int v = (int)top; v < h && v < bottom; v++)
                for (int u = (int)left; u < w && u < right; u++) {
                    double part = overlap(v, top, bottom) * overlap(u, left, right);
                    sum += part * (double)src[(size_t)v * (size_t)w + (size_t)u], all += part;
                }
            dst[(size_t)y * (size_t)to_w + (size_t)x] = (float)(sum / all);
        }
}
