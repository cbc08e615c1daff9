/* Masks at another size. */
#ifndef ATELIER_DIFFUSION_AREA_RESIZE_H
#define ATELIER_DIFFUSION_AREA_RESIZE_H

/* Every number of dst [to_h][to_w] is the mean of src [h][w] over the part of the picture that it stands for, so that numbers
 * which add up to 1 over several maps still do. Smaller or larger. dst and src must not overlap. */
void area_resize(float *dst, int to_w, int to_h, const float *src, int w, int h);

#endif
