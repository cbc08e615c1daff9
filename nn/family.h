#pragma once
/* The families of Stable Diffusion that differ in layout, and what people call them. Adapters fit one family only. */

enum nn_family {
    NN_FAMILY_UNKNOWN,
    NN_FAMILY_SD1, /* also distilled ones: small, tiny */
    NN_FAMILY_SD2,
    NN_FAMILY_SDXL,
    NN_FAMILY_SSD_1B, /* SDXL with fewer layers; SDXL's adapters fit where the layers are */
    NN_FAMILY_VEGA,   /* likewise */
    NN_FAMILIES
};
/* "Stable Diffusion 1", "SDXL", ...; "unknown". */
const char *nn_family_name(enum nn_family f);
/* SDXL and what was made from it: two text encoders and the added vector. */
static inline int nn_family_is_xl(enum nn_family f) {
    return f == NN_FAMILY_SDXL || f == NN_FAMILY_SSD_1B || f == NN_FAMILY_VEGA;
}
