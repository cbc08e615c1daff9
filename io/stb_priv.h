/* stb_image behind three functions, so that its names and warnings stay in one file. */
#ifndef ATELIER_IO_STB_PRIV_H
#define ATELIER_IO_STB_PRIV_H

#include <stdbool.h>
#include <stdint.h>

uint8_t *image_stb_load(const uint8_t *data, int bytes, int *w, int *h, int *channels); /* free() it */
bool image_stb_info(const uint8_t *data, int bytes, int *w, int *h);
const char *image_stb_reason(void); /* of this thread's last failure */

#endif
