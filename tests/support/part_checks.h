/* Text, UNet and VAE of a whole model on the device beside NAME.golden: the miniatures of every family, and, in
 * test_full, models of the real size. */
#ifndef ATELIER_TESTS_PART_CHECKS_H
#define ATELIER_TESTS_PART_CHECKS_H

#include "engine/engine.h"
#include "io/safetensors.h"

struct page {
    const char *name;
    struct arena *a;
    struct st_file *golden;
    struct engine *e;
    struct error err;
    double tolerance; /* of the range of what is wanted */
};

/* Opens tests/data/NAME (or that of ATELIER_GOLDENS) and its golden file. Every function fails the test on error. */
struct page page_open(const char *name, double tolerance, enum engine_weights weights);
void page_close(struct page *p);

void page_check_text(struct page *p);
void page_check_unet(struct page *p);
void page_check_vae(struct page *p);

#endif
