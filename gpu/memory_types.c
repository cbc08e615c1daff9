#include "gpu/memory_types.h"

enum { HOST = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT };

/* Higher is better; 0: unfit. */
static int score(const VkPhysicalDeviceMemoryProperties *m, int type, enum gpu_memory_use_kind kind) {
    VkMemoryPropertyFlags f = m->memoryTypes[type].propertyFlags;
    bool host = (f & HOST) == HOST, local = f & VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT;
    if (f & (VK_MEMORY_PROPERTY_PROTECTED_BIT | VK_MEMORY_PROPERTY_LAZILY_ALLOCATED_BIT |
             VK_MEMORY_PROPERTY_DEVICE_COHERENT_BIT_AMD))
        return 0;
    if (kind == GPU_MEMORY_HOST) return !host ? 0 : gpu_memory_reads_fast(f) ? 3 : local ? 1 : 2;
    if (!local) return 0;
    /* Host-visible device memory saves a copy, unless it is the small window of a card without a resizable BAR. */
    VkDeviceSize largest = 0, heap = m->memoryHeaps[m->memoryTypes[type].heapIndex].size;
    for (uint32_t h = 0; h < m->memoryHeapCount; h++)
        if (m->memoryHeaps[h].flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT && m->memoryHeaps[h].size > largest)
            largest = m->memoryHeaps[h].size;
    if (heap < largest / 2) return 1;
    return !host ? 2 : gpu_memory_reads_fast(f) ? 4 : 3;
}

int gpu_memory_types(const VkPhysicalDeviceMemoryProperties *m, uint32_t allowed, enum gpu_memory_use_kind kind,
                     int out[VK_MAX_MEMORY_TYPES]) {
    int n = 0;
    for (int want = 4; want > 0; want--)
        for (int i = 0; i < (int)m->memoryTypeCount; i++)
            if (allowed >> i & 1 && score(m, i, kind) == want) out[n++] = i;
    if (n || kind == GPU_MEMORY_HOST) return n;
    return gpu_memory_types(m, allowed, GPU_MEMORY_HOST, out); /* a device without memory of its own */
}
