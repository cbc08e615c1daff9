#include "engine/prompt_weight.h"

#include <math.h>

static double mean(const float *rows, int n, int width, int stride) {
    double sum = 0;
    for (int i = 0; i < n; i++)
        for (int c = 0; c < width; c++) sum += (double)rows[i * stride + c];
    return sum / ((double)n * width);
}

void prompt_weight_a1111(float *rows, int n, int width, int stride, const float *weights) {
    double before = mean(rows, n, width, stride);
    for (int i = 0; i < n; i++)
        for (int c = 0; c < width; c++) rows[i * stride + c] *= weights[i];
    double factor = before / mean(rows, n, width, stride);
    if (!isfinite(factor)) return; /* all weights 0, or a mean of exactly 0 */
    for (int i = 0; i < n; i++)
        for (int c = 0; c < width; c++) rows[i * stride + c] *= (float)factor;
}

void prompt_weight_compel(float *rows, const float *empty, int n, int width, const float *weights) {
    for (int i = 0; i < n; i++)
        for (int c = 0; c < width && weights[i] != 1; c++)
            rows[i * width + c] = empty[i * width + c] + (rows[i * width + c] - empty[i * width + c]) * weights[i];
}

double prompt_weight_without(double weight) { return tan((1 - fmax(weight, 1e-5)) * (M_PI / 2)); }
