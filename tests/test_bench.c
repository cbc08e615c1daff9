/* What `atelier bench` times, on a miniature: that it runs, and reports what it must. */
#include "tests/support/cm.h"
#include "tests/support/golden.h"
#include "tests/support/test_device.h"

#include <math.h>

#include "engine/bench.h"

static void test_unet_items(void **state) {
    struct error e = {{0}};
    struct arena *a = arena_create(NULL);
    struct gpu_params gp = {.device = test_device(), .cache_dir = ATELIER_BINARY_DIR "/test-cache"};
    struct gpu_device *dev = gpu_device_create(&gp, &e);
    if (!dev) fail_msg("%s", e.text);
    struct unet_config cfg;
    if (!unet_config_load(&cfg, golden_path(a, "mini-sd1/unet/config.json"), &e)) fail_msg("%s", e.text);
    struct bench_unet_params p = {.side = 16, .runs = 1};
    struct bench_unet_result forward, step, again;
    if (!bench_unet_forward(dev, &cfg, &p, &forward, &e)) fail_msg("%s", e.text);
    if (!bench_unet_train(dev, &cfg, &p, &step, &e)) fail_msg("%s", e.text);
    p.remat = true;
    if (!bench_unet_train(dev, &cfg, &p, &again, &e)) fail_msg("%s", e.text);
    assert_true(forward.time.best > 0 && step.time.best > 0 && isfinite(step.time.best) && again.time.best > 0);
    assert_true(forward.n_weights == step.n_weights && forward.n_weights > 0);
    assert_true(forward.n_shares > 0 && step.n_shares > forward.n_shares);
    assert_true(step.peak_bytes > forward.activation_bytes && again.activation_bytes < step.activation_bytes);
    gpu_device_destroy(&dev);
    arena_destroy(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_unet_items)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
