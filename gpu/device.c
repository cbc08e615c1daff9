/* The logical device: features, limits, layouts, destruction. */
#include "gpu/device.h"

#include <string.h>

#include "base/os.h"
#include "gpu/instance_priv.h"

bool gpu_vk_ok(VkResult r, const char *what, struct error *err) {
    if (r == VK_SUCCESS) return true;
    const char *why = r == VK_ERROR_OUT_OF_DEVICE_MEMORY ? "the device is out of memory"
                      : r == VK_ERROR_OUT_OF_HOST_MEMORY ? "the host is out of memory"
                      : r == VK_ERROR_DEVICE_LOST        ? "the device was lost; its driver may have reset it (try again, or "
                                                           "smaller sizes)"
                                                         : "the Vulkan driver reports an error";
    return error_set(err, "%s failed: %s (code %d).", what, why, r);
}

static bool create_logical(struct gpu_device *dev, struct error *err) {
    uint32_t n = 16;
    VkQueueFamilyProperties families[16];
    vkGetPhysicalDeviceQueueFamilyProperties(dev->physical, &n, families);
    dev->queue_family = UINT32_MAX;
    for (uint32_t i = 0; i < n && dev->queue_family == UINT32_MAX; i++)
        if (families[i].queueFlags & VK_QUEUE_COMPUTE_BIT) dev->queue_family = i;
    if (dev->queue_family == UINT32_MAX)
        return error_set(err, "The device %s has no compute queue; choose another with --device.", dev->properties.deviceName);
    VkPhysicalDeviceVulkan12Features have = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES};
    VkPhysicalDeviceFeatures2 have2 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2, .pNext = &have};
    vkGetPhysicalDeviceFeatures2(dev->physical, &have2);
    VkPhysicalDeviceVulkan12Features f12 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES,
                                            .bufferDeviceAddress = VK_TRUE, .hostQueryReset = have.hostQueryReset};
    VkPhysicalDeviceFeatures2 f = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2, .pNext = &f12,
                                   .features = {.shaderInt64 = VK_TRUE}};
    float priority = 1;
    VkDeviceQueueCreateInfo queue = {.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO, .queueCount = 1,
                                     .queueFamilyIndex = dev->queue_family, .pQueuePriorities = &priority};
    VkDeviceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO, .pNext = &f, .queueCreateInfoCount = 1,
                               .pQueueCreateInfos = &queue};
    if (!gpu_vk_ok(vkCreateDevice(dev->physical, &info, NULL, &dev->handle), "Opening the Vulkan device", err)) return false;
    volkLoadDevice(dev->handle);
    vkGetDeviceQueue(dev->handle, dev->queue_family, 0, &dev->queue);
    return true;
}

static void read_limits(struct gpu_device *dev) {
    VkPhysicalDeviceMaintenance3Properties m3 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_3_PROPERTIES};
    VkPhysicalDeviceSubgroupProperties sg = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_PROPERTIES, .pNext = &m3};
    VkPhysicalDeviceProperties2 p = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, .pNext = &sg};
    vkGetPhysicalDeviceProperties2(dev->physical, &p);
    const VkPhysicalDeviceLimits *l = &p.properties.limits;
    bool cpu = p.properties.deviceType == VK_PHYSICAL_DEVICE_TYPE_CPU;
    dev->caps.cls = dev->params.force_class ? dev->params.force_class : cpu ? KERNEL_CPU : KERNEL_GPU;
    dev->caps.subgroup = sg.subgroupSize;
    dev->caps.shared_bytes = l->maxComputeSharedMemorySize;
    if (dev->params.limit_shared_bytes && dev->params.limit_shared_bytes < dev->caps.shared_bytes)
        dev->caps.shared_bytes = dev->params.limit_shared_bytes;
    dev->caps.max_workgroup = l->maxComputeWorkGroupInvocations;
    memcpy(dev->caps.max_groups, l->maxComputeWorkGroupCount, sizeof dev->caps.max_groups);
    dev->storage = dev->caps.cls == KERNEL_GPU && !dev->params.f32 ? TENSOR_F16 : TENSOR_F32;
    dev->caps.float16 = dev->storage == TENSOR_F16;
    int64_t limit = ((int64_t)2 << 30) - 65536; /* operands are indexed in 32-bit bytes inside a chunk */
    if ((int64_t)m3.maxMemoryAllocationSize < limit) limit = (int64_t)m3.maxMemoryAllocationSize;
    if (dev->caps.cls == KERNEL_CPU && (int64_t)l->maxTexelBufferElements * 16 < limit)
        limit = (int64_t)l->maxTexelBufferElements * 16;
    dev->max_chunk = limit & ~(int64_t)65535;
    vkGetPhysicalDeviceMemoryProperties(dev->physical, &dev->memory_properties);
    for (uint32_t h = 0; h < dev->memory_properties.memoryHeapCount; h++)
        if (dev->memory_properties.memoryHeaps[h].flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT &&
            (int64_t)dev->memory_properties.memoryHeaps[h].size > dev->memory_total)
            dev->memory_total = (int64_t)dev->memory_properties.memoryHeaps[h].size;
    /* Lavapipe's heap is a round number; what it hands out is the host's memory. */
    if (cpu) dev->memory_total = (int64_t)os_memory_total();
    if (dev->params.memory_limit && (dev->params.plan_only || dev->params.memory_limit < dev->memory_total))
        dev->memory_total = dev->params.memory_limit;
}

static bool create_layouts(struct gpu_device *dev, struct error *err) {
    VkDescriptorSetLayoutBinding b[GPU_READS];
    uint32_t n = dev->caps.cls == KERNEL_CPU ? GPU_READS : 0;
    for (uint32_t i = 0; i < n; i++)
        b[i] = (VkDescriptorSetLayoutBinding){.binding = i, .descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_TEXEL_BUFFER,
                                              .descriptorCount = 1, .stageFlags = VK_SHADER_STAGE_COMPUTE_BIT};
    VkDescriptorSetLayoutCreateInfo sl = {.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO, .bindingCount = n,
                                          .pBindings = b};
    VkPushConstantRange range = {VK_SHADER_STAGE_COMPUTE_BIT, 0, GPU_PUSH_BYTES};
    VkPipelineLayoutCreateInfo pl = {.sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO, .setLayoutCount = 1,
                                     .pSetLayouts = &dev->set_layout, .pushConstantRangeCount = 1,
                                     .pPushConstantRanges = &range};
    VkCommandPoolCreateInfo cp = {.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
                                  .flags = VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT,
                                  .queueFamilyIndex = dev->queue_family};
    VkFenceCreateInfo fc = {.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO};
    return gpu_vk_ok(vkCreateDescriptorSetLayout(dev->handle, &sl, NULL, &dev->set_layout), "Making the descriptor layout",
                     err) &&
           gpu_vk_ok(vkCreatePipelineLayout(dev->handle, &pl, NULL, &dev->pipeline_layout), "Making the pipeline layout",
                     err) &&
           gpu_vk_ok(vkCreateCommandPool(dev->handle, &cp, NULL, &dev->pool), "Making the command pool", err) &&
           gpu_vk_ok(vkCreateFence(dev->handle, &fc, NULL, &dev->fence), "Making a fence", err);
}

struct gpu_device *gpu_device_create(const struct gpu_params *p, struct error *err) {
    struct arena *a = arena_create(NULL);
    struct gpu_device *dev = arena_alloc(a, sizeof *dev);
    dev->arena = a;
    dev->params = *p;
    if (p->device) dev->params.device = arena_strdup(a, p->device);
    if (p->cache_dir) dev->params.cache_dir = arena_strdup(a, p->cache_dir);
    if (!gpu_instance_create(dev, err) || !gpu_instance_pick(dev, err) || !create_logical(dev, err)) goto fail;
    read_limits(dev);
    if (!create_layouts(dev, err)) goto fail;
    if (!gpu_chunk_create(dev, &dev->dummy, PLAN_ZERO_BYTES, false, true, "a placeholder", err)) goto fail;
    gpu_pipeline_cache_load(dev);
    return dev;
fail:
    gpu_device_destroy(&dev);
    return NULL;
}

void gpu_device_destroy(struct gpu_device **p) {
    struct gpu_device *dev = *p;
    if (!dev) return;
    *p = NULL;
    if (dev->handle) {
        vkDeviceWaitIdle(dev->handle);
        gpu_pipeline_cache_save(dev);
        gpu_pipelines_destroy(dev);
        gpu_chunk_destroy(dev, &dev->dummy);
        gpu_chunk_destroy(dev, &dev->staging);
        vkDestroyPipelineCache(dev->handle, dev->cache, NULL);
        vkDestroyFence(dev->handle, dev->fence, NULL);
        vkDestroyCommandPool(dev->handle, dev->pool, NULL);
        vkDestroyPipelineLayout(dev->handle, dev->pipeline_layout, NULL);
        vkDestroyDescriptorSetLayout(dev->handle, dev->set_layout, NULL);
        vkDestroyDevice(dev->handle, NULL);
    }
    if (dev->messenger) vkDestroyDebugUtilsMessengerEXT(dev->instance, dev->messenger, NULL);
    if (dev->instance) vkDestroyInstance(dev->instance, NULL);
    struct arena *a = dev->arena;
    arena_destroy(&a);
}

const char *gpu_device_name(const struct gpu_device *dev) { return dev->properties.deviceName; }
const struct kernel_caps *gpu_device_caps(const struct gpu_device *dev) { return &dev->caps; }
enum tensor_dtype gpu_device_storage(const struct gpu_device *dev) { return dev->storage; }
int64_t gpu_device_max_chunk(const struct gpu_device *dev) { return dev->max_chunk; }
int64_t gpu_device_memory_total(const struct gpu_device *dev) { return dev->memory_total; }
int64_t gpu_device_memory_used(const struct gpu_device *dev) { return dev->memory_used; }
int64_t gpu_device_memory_peak(const struct gpu_device *dev) { return dev->memory_peak; }
int64_t gpu_device_memory_away(const struct gpu_device *dev) { return dev->away_used; }
int gpu_device_messages(const struct gpu_device *dev) { return dev->messages; }
