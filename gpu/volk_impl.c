/* The Vulkan loader's entry points, resolved at run time: no link to libvulkan, so a missing loader is an
 * error message, not a failure to start. */
#define VOLK_IMPLEMENTATION
#include <volk.h>
