/* Training noise that is not plain: offsets, several scales, perturbed inputs. Host arithmetic on [n][h][w][c].
 * Peer: kohya's train_util; offset noise after Guttenberg 2023, pyramid noise after Whitaker 2023, input
 * perturbation after Ning et al. 2023. */
#ifndef ATELIER_DIFFUSION_NOISE_H
#define ATELIER_DIFFUSION_NOISE_H

#include "base/error.h"
#include "base/rng.h"

#include <stdbool.h>

/* {0}: plain noise. */
struct noise_params {
    float offset;           /* standard deviation of one shift per picture and channel; usually 0.03 to 0.1 */
    float offset_adaptive;  /* added to offset, times the absolute mean of the latent's channel; may be negative */
    bool offset_random;     /* offset times a number from 0 to 1, drawn per step */
    int pyramid_iterations; /* coarser and coarser noise on top; usually 6 to 10 */
    float pyramid_discount; /* strength of each against the one before; usually 0.1 to 0.3 */
    float perturbation;     /* strength of a second noise in the model's input alone; usually 0.1 */
    bool perturbation_random;
};

struct noise_size {
    int n, h, w, c;
};

/* False with a sentence for numbers out of range. */
bool noise_params_check(const struct noise_params *p, struct error *e);

/* Adds offset and pyramid to normal noise, in place. latents: scaled, as the offset looks at their means. With a
 * pyramid the sum is divided by its standard deviation over the whole batch. Draws only what is asked for. room: as
 * many floats as noise, for the pyramid. */
void noise_shape(const struct noise_params *p, struct rng *rng, float *noise, const float *latents, const struct noise_size *s,
                 float *room);

/* dst = noise + strength * normal, n values. */
void noise_perturb(const struct noise_params *p, struct rng *rng, float *dst, const float *noise, size_t n);

/* Adds weight * (field, [n][fh][fw][c], brought to h x w bilinearly with half-pixel centres). */
void noise_add_scaled(float *dst, const struct noise_size *s, const float *field, int fh, int fw, float weight);

#endif
