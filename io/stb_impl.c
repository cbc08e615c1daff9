/* The one place where stb_image's code is compiled. Only the formats we read are in. */
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_NO_STDIO
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#define STBI_NO_LINEAR
#define STBI_NO_HDR
#define STBI_MAX_DIMENSIONS (1 << 24) /* our own limits come first and say more */
#include "io/stb_priv.h"

#pragma GCC diagnostic ignored "-Wunused-function"
#include <stb_image.h>

uint8_t *image_stb_load(const uint8_t *data, int bytes, int *w, int *h, int *channels) {
    return stbi_load_from_memory(data, bytes, w, h, channels, 0);
}

bool image_stb_info(const uint8_t *data, int bytes, int *w, int *h) {
    int channels;
    return stbi_info_from_memory(data, bytes, w, h, &channels) == 1;
}

const char *image_stb_reason(void) { return stbi_failure_reason(); }
