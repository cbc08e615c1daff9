/* What the shaders may ask of a device, read from the SPIR-V that is built into the program: gpu-class
 * shaders run on anything that has Vulkan 1.2, buffer addresses and 64-bit integers, and give the same bytes
 * every time. */
#include "tests/support/cm.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "gpu/shader_blobs.h"

/* From the SPIR-V specification. */
enum {
    OP_EXECUTION_MODE = 16,
    OP_CAPABILITY = 17,
    OP_TYPE_FLOAT = 22,
    OP_DECORATE = 71,
    OP_ATOMIC_FIRST = 227,
    OP_ATOMIC_LAST = 242,
    MODE_LOCAL_SIZE = 17,
    DECORATION_BINDING = 33,
    CAPABILITY_SHADER = 1,
    CAPABILITY_INT64 = 11,
    CAPABILITY_ADDRESSES = 5347,
    LEAST_WORKGROUP = 128 /* maxComputeWorkGroupInvocations of the smallest Vulkan device */
};

struct instruction {
    uint32_t op, n;
    const uint32_t *words;
};
/* Calls `visit` for every instruction. */
static void each_instruction(struct shader_blob blob, void (*visit)(struct shader_blob, struct instruction)) {
    size_t n = blob.bytes / 4;
    assert_true(n > 5 && blob.words[0] == 0x07230203);
    for (size_t at = 5; at < n;) {
        struct instruction i = {blob.words[at] & 0xffff, blob.words[at] >> 16, blob.words + at};
        assert_true(i.n > 0 && at + i.n <= n);
        visit(blob, i);
        at += i.n;
    }
}

static bool of_gpu_class(struct shader_blob blob) {
    size_t n = strlen(blob.name);
    return n > 4 && !strcmp(blob.name + n - 4, "_gpu");
}

static void no_atomics(struct shader_blob blob, struct instruction i) {
    if (i.op >= OP_ATOMIC_FIRST && i.op <= OP_ATOMIC_LAST)
        fail_msg("%s uses an atomic operation: sums would depend on the order of invocations", blob.name);
}

static void gpu_minimum(struct shader_blob blob, struct instruction i) {
    if (!of_gpu_class(blob)) return;
    if (i.op == OP_CAPABILITY && i.words[1] != CAPABILITY_SHADER && i.words[1] != CAPABILITY_INT64 &&
        i.words[1] != CAPABILITY_ADDRESSES)
        fail_msg("%s needs SPIR-V capability %u, which the device is not asked for", blob.name, i.words[1]);
    if (i.op == OP_TYPE_FLOAT && i.words[2] != 32) fail_msg("%s computes in %u-bit floats", blob.name, i.words[2]);
    if (i.op == OP_DECORATE && i.words[2] == DECORATION_BINDING)
        fail_msg("%s has a descriptor: gpu-class shaders get addresses only", blob.name);
    if (i.op == OP_EXECUTION_MODE && i.words[2] == MODE_LOCAL_SIZE &&
        i.words[3] * i.words[4] * i.words[5] > LEAST_WORKGROUP)
        fail_msg("%s has workgroups of %u invocations, more than every device runs", blob.name,
                 i.words[3] * i.words[4] * i.words[5]);
}

static void check_all(void (*visit)(struct shader_blob, struct instruction)) {
    for (size_t i = 0; i < shader_blob_count(); i++) each_instruction(shader_blob_at(i), visit);
}
static void test_no_atomics(void **state) {
    (void)state;
    check_all(no_atomics);
}
static void test_gpu_class_minimum(void **state) {
    (void)state;
    check_all(gpu_minimum);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_atomics),
        cmocka_unit_test(test_gpu_class_minimum),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
