/* The device that tests run on: the CPU device, or what ATELIER_TEST_DEVICE names ("gpu", a part of a name).
 * Only the CPU device runs the cpu class. */
#ifndef ATELIER_TESTS_TEST_DEVICE_H
#define ATELIER_TESTS_TEST_DEVICE_H

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/kernel.h"

static inline const char *test_device(void) {
    const char *name = getenv("ATELIER_TEST_DEVICE");
    return name && *name ? name : "cpu";
}
static inline bool test_device_is_cpu(void) { return !strcmp(test_device(), "cpu"); }
static inline bool test_device_runs(enum kernel_class cls) { return cls == KERNEL_GPU || test_device_is_cpu(); }

#endif
