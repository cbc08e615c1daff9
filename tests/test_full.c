/* Models of the real size beside diffusers, part by part. Slow, and needs gigabytes: run by tests/reference/compare_full.py,
 * which makes the models and sets ATELIER_FULL to a name in the folder ATELIER_GOLDENS; skipped without. */
#include "tests/support/cm.h"
#include "tests/support/part_checks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"

static void told(struct page *p, const char *part, void (*check)(struct page *)) {
    double start = os_now_seconds();
    check(p);
    print_message("%s %s: %.1f s, at most %.0f MiB on the device so far\n", p->name, part, os_now_seconds() - start,
                  (double)gpu_device_memory_peak(p->e->dev) / 1048576);
    for (int i = 0; i < ENGINE_PARTS; i++) engine_unload(p->e, (enum engine_part)i);
}

static void test_full(void **state) {
    const char *name = getenv("ATELIER_FULL");
    if (!name) skip();
    const char *weights = getenv("ATELIER_FULL_WEIGHTS"); /* f16: as the file has them, half the memory */
    bool half = weights && !strcmp(weights, "f16");
    struct page p = page_open(name, 1e-3, half ? ENGINE_WEIGHTS_F16 : ENGINE_WEIGHTS_F32);
    told(&p, "VAE", page_check_vae);
    told(&p, "text", page_check_text);
    told(&p, "UNet", page_check_unet);
    page_close(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_full)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
