/* Which memory is chosen on kinds of cards that are not here; the tables are those that drivers report. */
#include "tests/support/cm.h"

#include "gpu/memory_types.h"

#define LOCAL VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT
#define HOST (VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT)
#define CACHED VK_MEMORY_PROPERTY_HOST_CACHED_BIT
#define GIB(x) ((VkDeviceSize)(x) << 30)
#define MIB(x) ((VkDeviceSize)(x) << 20)

static int types(const VkPhysicalDeviceMemoryProperties *m, enum gpu_memory_use_kind kind, int *out) {
    return gpu_memory_types(m, ~0u, kind, out);
}

/* A window of 256 MiB: weights do not fit through it, so they must not be tried there first. */
static void test_small_window(void **state) {
    (void)state;
    const VkPhysicalDeviceMemoryProperties m = {
        .memoryHeapCount = 3,
        .memoryHeaps = {{GIB(8), VK_MEMORY_HEAP_DEVICE_LOCAL_BIT}, {GIB(16), 0}, {MIB(246), VK_MEMORY_HEAP_DEVICE_LOCAL_BIT}},
        .memoryTypeCount = 5,
        .memoryTypes = {{0, 1}, {LOCAL, 0}, {HOST, 1}, {HOST | CACHED, 1}, {LOCAL | HOST, 2}}};
    int t[VK_MAX_MEMORY_TYPES];
    assert_int_equal(types(&m, GPU_MEMORY_DEVICE, t), 2);
    assert_int_equal(t[0], 1);
    assert_int_equal(t[1], 4);
    assert_int_equal(types(&m, GPU_MEMORY_HOST, t), 3);
    assert_int_equal(t[0], 3);
    assert_int_equal(t[1], 2);
    assert_int_equal(t[2], 4);
}

static void test_whole_window(void **state) {
    (void)state;
    const VkPhysicalDeviceMemoryProperties m = {
        .memoryHeapCount = 2,
        .memoryHeaps = {{GIB(16), 0}, {GIB(16), VK_MEMORY_HEAP_DEVICE_LOCAL_BIT}},
        .memoryTypeCount = 6,
        .memoryTypes = {{LOCAL, 1}, {HOST, 0}, {LOCAL | HOST, 1}, {HOST | CACHED, 0},
                        {LOCAL | HOST | VK_MEMORY_PROPERTY_DEVICE_COHERENT_BIT_AMD, 1},
                        {LOCAL | VK_MEMORY_PROPERTY_PROTECTED_BIT, 1}}};
    int t[VK_MAX_MEMORY_TYPES];
    assert_int_equal(types(&m, GPU_MEMORY_DEVICE, t), 2);
    assert_int_equal(t[0], 2);
    assert_int_equal(t[1], 0);
    assert_int_equal(types(&m, GPU_MEMORY_HOST, t), 3);
    assert_int_equal(t[0], 3);
}

/* Shared memory (integrated, CPU): one heap, and cached if there is a choice. */
static void test_shared(void **state) {
    (void)state;
    const VkPhysicalDeviceMemoryProperties m = {
        .memoryHeapCount = 1,
        .memoryHeaps = {{GIB(12), VK_MEMORY_HEAP_DEVICE_LOCAL_BIT}},
        .memoryTypeCount = 2,
        .memoryTypes = {{LOCAL | HOST, 0}, {LOCAL | HOST | CACHED, 0}}};
    int t[VK_MAX_MEMORY_TYPES];
    assert_int_equal(types(&m, GPU_MEMORY_DEVICE, t), 2);
    assert_int_equal(t[0], 1);
    assert_int_equal(types(&m, GPU_MEMORY_HOST, t), 2);
    assert_int_equal(t[0], 1);
    assert_int_equal(gpu_memory_types(&m, 1, GPU_MEMORY_HOST, t), 1);
    assert_int_equal(t[0], 0);
    assert_int_equal(gpu_memory_types(&m, 0, GPU_MEMORY_DEVICE, t), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small_window),
        cmocka_unit_test(test_whole_window),
        cmocka_unit_test(test_shared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
