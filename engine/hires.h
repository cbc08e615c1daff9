#pragma once
/* A picture in two passes: small, then scaled up and drawn over. The second pass is img2img with the same seed. */
#include "engine/generate.h"

enum hires_upscaler {
    HIRES_LATENT,  /* latents, bilinearly: soft, wants a strength above 0.5 */
    HIRES_LANCZOS, /* the decoded picture */
};
struct hires_params {
    double scale;    /* above 1; sides are rounded down to the model's multiple */
    double strength; /* of the second pass */
    enum hires_upscaler upscaler;
    int steps; /* of the second pass before strength; 0: as many as the first */
};
/* Size of the result for a first pass of w x h. */
void hires_size(const struct model *m, const struct hires_params *p, int w, int h, int *out_w, int *out_h);

struct hires;
struct hires *hires_create(struct engine *e, const struct generate_params *first, const struct hires_params *p,
                           struct error *err);
void hires_destroy(struct hires **h);
/* As generator_run; rgb has the larger size. A trace gets the second pass with hires_ before its names. */
bool hires_run(struct hires *h, const struct generate_picture *p, const struct generate_progress *progress, uint8_t *rgb,
               struct error *err);
double hires_first_step_seconds(const struct hires *h);
