#pragma once
/* Which kinds of memory to try for a buffer. Pure: tested with the tables of real cards. */
#include <stdbool.h>
#include <volk.h>

enum gpu_memory_use_kind {
    GPU_MEMORY_DEVICE, /* the kernels' own: weights, activations */
    GPU_MEMORY_HOST    /* read and written by the host: inputs, outputs, staging */
};
/* Indices of memory types among `allowed` (a bit each), best first; returns how many. */
int gpu_memory_types(const VkPhysicalDeviceMemoryProperties *m, uint32_t allowed, enum gpu_memory_use_kind kind,
                     int out[VK_MAX_MEMORY_TYPES]);
/* The host may read it at memory speed; what is only write-combined crosses the bus word by word. */
static inline bool gpu_memory_reads_fast(VkMemoryPropertyFlags f) { return f & VK_MEMORY_PROPERTY_HOST_CACHED_BIT; }
