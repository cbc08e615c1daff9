/* Latents of another size. */
#ifndef ATELIER_DIFFUSION_LATENT_RESIZE_H
#define ATELIER_DIFFUSION_LATENT_RESIZE_H

struct latent_size {
    int c, h, w;
};

/* Bilinear with half-pixel centres and without antialiasing, plane by plane ([c][h][w]): torch's interpolate in mode
 * bilinear, which A1111 calls Latent. dst and src must not overlap; from->c == to->c. */
void latent_resize(float *dst, const struct latent_size *to, const float *src, const struct latent_size *from);

#endif
