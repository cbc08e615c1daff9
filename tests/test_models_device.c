/* The same answers as test_models and test_lora_stack, computed by the kernels: every kernel class that the
 * device can run, with validation where the layer is installed. */
#include "tests/support/cm.h"
#include "tests/support/lora_checks.h"
#include "tests/support/model_checks.h"
#include "tests/support/test_device.h"

#include "base/os.h"
#include "gpu/device.h"

static struct gpu_device *open_device(enum kernel_class class, bool f32) {
    if (!test_device_runs(class)) skip();
    struct error e = {0};
    struct gpu_params p = {
        .device = test_device(), .force_class = class, .f32 = f32, .cache_dir = ATELIER_BINARY_DIR "/test-cache"};
    struct gpu_device *dev = gpu_device_create(&p, &e);
    if (!dev) fail_msg("%s", e.text);
    return dev;
}

static void run_models(enum kernel_class class, bool f32) {
    struct gpu_device *dev = open_device(class, f32);
    for (int i = 0; i < n_model_checks; i++) {
        double start = os_now_seconds();
        model_check_run(&model_checks[i], dev);
        print_message("%s: %.1f s\n", model_checks[i].name, os_now_seconds() - start);
    }
    gpu_device_destroy(&dev);
}

static void run_lora(enum kernel_class class, bool f32) {
    struct gpu_device *dev = open_device(class, f32);
    lora_check_mixtures(dev);
    lora_check_gradients(dev);
    gpu_device_destroy(&dev);
}

static void test_models_cpu_class(void **state) {
    run_models(KERNEL_CPU, true);
}
static void test_models_gpu_class(void **state) {
    run_models(KERNEL_GPU, true);
}
static void test_lora_cpu_class(void **state) {
    run_lora(KERNEL_CPU, true);
}
static void test_lora_gpu_class(void **state) {
    run_lora(KERNEL_GPU, true);
}

static void test_models_gpu_class_f16(void **state) {
    run_models(KERNEL_GPU, false);
}
static void test_lora_gpu_class_f16(void **state) {
    run_lora(KERNEL_GPU, false);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models_cpu_class),     cmocka_unit_test(test_lora_cpu_class),
        cmocka_unit_test(test_models_gpu_class),     cmocka_unit_test(test_lora_gpu_class),
        cmocka_unit_test(test_models_gpu_class_f16), cmocka_unit_test(test_lora_gpu_class_f16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
