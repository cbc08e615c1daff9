#include "diffusion/guidance.h"

#include <math.h>

bool guidance_is_needed(float scale) { return scale > 1.0f; }

void guidance_combine(float *out, const float *uncond, const float *cond, size_t n, float scale) {
    for (size_t i = 0; i < n; i++) out[i] = uncond[i] + scale * (cond[i] - uncond[i]);
}

/* With Bessel's correction, as torch.std. */
static double spread(const float *x, size_t n) {
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) sum += x[i];
    double mean = sum / (double)n;
    for (size_t i = 0; i < n; i++) squares += (x[i] - mean) * (x[i] - mean);
    return n > 1 ? sqrt(squares / (double)(n - 1)) : 0;
}

void guidance_rescale(float *out, const float *cond, size_t n_images, size_t image_floats, float phi) {
    if (phi == 0) return;
    for (size_t image = 0; image < n_images; image++, out += image_floats, cond += image_floats) {
        double own = spread(out, image_floats);
        if (own == 0) continue;
        float ratio = (float)(spread(cond, image_floats) / own);
        for (size_t i = 0; i < image_floats; i++) out[i] = phi * (out[i] * ratio) + (1.0f - phi) * out[i];
    }
}
