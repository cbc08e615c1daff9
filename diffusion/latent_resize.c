#include "diffusion/latent_resize.h"

#include <assert.h>
#include <stddef.h>

struct tap {
    int low, high;
    float share; /* of high */
};

static struct tap tap_at(int i, int to, int from) {
    float at = ((float)i + 0.5f) * ((float)from / (float)to) - 0.5f;
    if (at < 0) at = 0;
    int low = (int)at;
    if (low > from - 1) low = from - 1;
    return (struct tap){low, low + (low < from - 1), at - (float)low};
}

void latent_resize(float *dst, const struct latent_size *to, const float *src, const struct latent_size *from) {
    assert(to->c == from->c);
    for (int c = 0; c < to->c; c++, src += (size_t)from->h * (size_t)from->w)
        for (int y = 0; y < to->h; y++) {
            struct tap v = tap_at(y, to->h, from->h);
            const float *up = src + (size_t)v.low * (size_t)from->w, *down = src + (size_t)v.high * (size_t)from->w;
            for (int x = 0; x < to->w; x++) {
                struct tap u = tap_at(x, to->w, from->w);
                float a = up[u.low] * (1 - u.share) + up[u.high] * u.share;
                float b = down[u.low] * (1 - u.share) + down[u.high] * u.share;
                *dst++ = a * (1 - v.share) + b * v.share;
            }
        }
}
