#include "nn/family.h"

const char *nn_family_name(enum nn_family f) {
    static const char *const names[NN_FAMILIES] = {"unknown", "Stable Diffusion 1", "Stable Diffusion 2", "SDXL",
                                                   "SSD-1B",  "Segmind-Vega"};
    return names[f];
}
