/* Buffers with addresses and views; copies to and from them; the host side of the layout. */
#include <assert.h>
#include <string.h>

#include "base/half.h"
#include "base/thread.h"
#include "gpu/gpu_priv.h"
#include "gpu/memory_types.h"

enum { STAGING_BYTES = 32 << 20 };

/* Tries the fitting kinds of memory in turn: a card's window for the host may be full before the card is. */
static int allocate_any(struct gpu_device *dev, struct gpu_chunk *c, bool device_local, const VkMemoryRequirements *req) {
    int types[VK_MAX_MEMORY_TYPES];
    int n = gpu_memory_types(&dev->memory_properties, req->memoryTypeBits, device_local ? GPU_MEMORY_DEVICE : GPU_MEMORY_HOST,
                             types);
    VkMemoryAllocateFlagsInfo flags = {.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_FLAGS_INFO,
                                       .flags = VK_MEMORY_ALLOCATE_DEVICE_ADDRESS_BIT};
    for (int i = 0; i < n; i++) {
        VkMemoryAllocateInfo info = {.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO, .pNext = &flags,
                                     .allocationSize = req->size, .memoryTypeIndex = (uint32_t)types[i]};
        if (vkAllocateMemory(dev->handle, &info, NULL, &c->memory) == VK_SUCCESS) return types[i];
    }
    return -1;
}

static bool allocate(struct gpu_device *dev, struct gpu_chunk *c, bool device_local, const char *what, struct error *err) {
    VkMemoryRequirements req;
    vkGetBufferMemoryRequirements(dev->handle, c->buffer, &req);
    int type = allocate_any(dev, c, device_local, &req);
    if (type < 0)
        return error_set(err, "The device %s has no %.0f MiB left for %s; close other programs that use it, or make the "
                         "picture or the batch smaller.", dev->properties.deviceName, (double)req.size / 1048576, what);
    if (!gpu_vk_ok(vkBindBufferMemory(dev->handle, c->buffer, c->memory, 0), "Binding memory", err)) return false;
    VkMemoryPropertyFlags f = dev->memory_properties.memoryTypes[type].propertyFlags;
    VkMemoryPropertyFlags host = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    c->reads_fast = gpu_memory_reads_fast(f);
    if ((f & host) != host || (device_local && dev->params.force_staging)) return true;
    return gpu_vk_ok(vkMapMemory(dev->handle, c->memory, 0, VK_WHOLE_SIZE, 0, (void **)&c->mapped), "Mapping memory", err);
}

static bool add_view(struct gpu_device *dev, struct gpu_chunk *c, struct error *err) {
    if (dev->caps.cls != KERNEL_CPU) return true;
    VkBufferViewCreateInfo v = {.sType = VK_STRUCTURE_TYPE_BUFFER_VIEW_CREATE_INFO, .buffer = c->buffer,
                                .format = VK_FORMAT_R32G32B32A32_SFLOAT, .range = VK_WHOLE_SIZE};
    if (!gpu_vk_ok(vkCreateBufferView(dev->handle, &v, NULL, &c->view), "Making a texel view", err)) return false;
    for (int i = 0; i < GPU_MAX_VIEWS; i++)
        if (!dev->views[i]) {
            dev->views[i] = c->view;
            c->view_id = i;
            return true;
        }
    return error_set(err, "More than %d buffers are in use at once.", GPU_MAX_VIEWS);
}

static bool clear_chunk(struct gpu_device *dev, struct gpu_chunk *c, int64_t bytes, struct error *err) {
    if (c->mapped) {
        memset(c->mapped, 0, (size_t)bytes);
        return true;
    }
    VkCommandBuffer cb;
    if (!gpu_commands_begin(dev, &cb, err)) return false;
    vkCmdFillBuffer(cb, c->buffer, 0, (VkDeviceSize)bytes, 0);
    bool ok = gpu_vk_ok(vkEndCommandBuffer(cb), "Recording", err) && gpu_submit(dev, cb, err);
    vkFreeCommandBuffers(dev->handle, dev->pool, 1, &cb);
    return ok;
}

bool gpu_chunk_create(struct gpu_device *dev, struct gpu_chunk *c, int64_t bytes, bool device_local, bool clear,
                      const char *what, struct error *err) {
    *c = (struct gpu_chunk){.bytes = (bytes + 255) / 256 * 256, .view_id = -1};
    VkBufferUsageFlags usage = VK_BUFFER_USAGE_SHADER_DEVICE_ADDRESS_BIT | VK_BUFFER_USAGE_STORAGE_BUFFER_BIT |
                               VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT;
    if (dev->caps.cls == KERNEL_CPU) usage |= VK_BUFFER_USAGE_STORAGE_TEXEL_BUFFER_BIT;
    VkBufferCreateInfo info = {.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO, .size = (VkDeviceSize)c->bytes, .usage = usage};
    if (!gpu_vk_ok(vkCreateBuffer(dev->handle, &info, NULL, &c->buffer), "Making a buffer", err)) return false;
    if (!allocate(dev, c, device_local, what, err) || !add_view(dev, c, err)) {
        gpu_chunk_destroy(dev, c);
        return false;
    }
    dev->memory_used += c->bytes;
    if (dev->memory_used > dev->memory_peak) dev->memory_peak = dev->memory_used;
    VkBufferDeviceAddressInfo address = {.sType = VK_STRUCTURE_TYPE_BUFFER_DEVICE_ADDRESS_INFO, .buffer = c->buffer};
    c->address = vkGetBufferDeviceAddress(dev->handle, &address);
    return clear_chunk(dev, c, clear || c->bytes < PLAN_ZERO_BYTES ? c->bytes : PLAN_ZERO_BYTES, err);
}

bool gpu_chunk_create_away(struct gpu_device *dev, struct gpu_chunk *c, int64_t bytes, const char *what, struct error *err) {
    int64_t peak = dev->memory_peak;
    if (!gpu_chunk_create(dev, c, bytes, false, true, what, err)) return false;
    c->away = true;
    dev->memory_used -= c->bytes, dev->away_used += c->bytes;
    dev->memory_peak = peak;
    return true;
}

void gpu_chunk_destroy(struct gpu_device *dev, struct gpu_chunk *c) {
    if (!c->buffer) return;
    if (c->view) {
        for (int i = 0; i < GPU_MAX_VIEWS; i++)
            if (dev->views[i] == c->view) dev->views[i] = VK_NULL_HANDLE;
        vkDestroyBufferView(dev->handle, c->view, NULL);
    }
    vkDestroyBuffer(dev->handle, c->buffer, NULL);
    vkFreeMemory(dev->handle, c->memory, NULL);
    if (c->address && c->away) dev->away_used -= c->bytes;
    else if (c->address) dev->memory_used -= c->bytes;
    *c = (struct gpu_chunk){0};
}

bool gpu_commands_begin(struct gpu_device *dev, VkCommandBuffer *cb, struct error *err) {
    VkCommandBufferAllocateInfo a = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO, .commandPool = dev->pool,
                                     .commandBufferCount = 1};
    VkCommandBufferBeginInfo b = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO};
    return gpu_vk_ok(vkAllocateCommandBuffers(dev->handle, &a, cb), "Allocating commands", err) &&
           gpu_vk_ok(vkBeginCommandBuffer(*cb, &b), "Recording", err);
}

bool gpu_submit(struct gpu_device *dev, VkCommandBuffer cb, struct error *err) {
    VkSubmitInfo s = {.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO, .commandBufferCount = 1, .pCommandBuffers = &cb};
    return gpu_vk_ok(vkQueueSubmit(dev->queue, 1, &s, dev->fence), "Running on the device", err) &&
           gpu_vk_ok(vkWaitForFences(dev->handle, 1, &dev->fence, VK_TRUE, UINT64_MAX), "Waiting for the device", err) &&
           gpu_vk_ok(vkResetFences(dev->handle, 1, &dev->fence), "Waiting for the device", err);
}

static bool copy_staged(struct gpu_device *dev, struct gpu_chunk *c, int64_t offset, uint8_t *data, int64_t bytes, bool up,
                        struct error *err) {
    if (!dev->staging.buffer && !gpu_chunk_create_away(dev, &dev->staging, STAGING_BYTES, "the staging buffer", err))
        return false;
    for (int64_t at = 0; at < bytes; at += STAGING_BYTES) {
        int64_t n = bytes - at < STAGING_BYTES ? bytes - at : STAGING_BYTES;
        VkCommandBuffer cb;
        if (up) memcpy(dev->staging.mapped, data + at, (size_t)n);
        if (!gpu_commands_begin(dev, &cb, err)) return false;
        VkBufferCopy copy = {.srcOffset = up ? 0 : (VkDeviceSize)(offset + at),
                             .dstOffset = up ? (VkDeviceSize)(offset + at) : 0,
                             .size = (VkDeviceSize)n};
        vkCmdCopyBuffer(cb, up ? dev->staging.buffer : c->buffer, up ? c->buffer : dev->staging.buffer, 1, &copy);
        VkMemoryBarrier b = {.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER, .srcAccessMask = VK_ACCESS_TRANSFER_WRITE_BIT,
                             .dstAccessMask = VK_ACCESS_HOST_READ_BIT};
        vkCmdPipelineBarrier(cb, VK_PIPELINE_STAGE_TRANSFER_BIT, VK_PIPELINE_STAGE_HOST_BIT, 0, 1, &b, 0, NULL, 0, NULL);
        bool ok = gpu_vk_ok(vkEndCommandBuffer(cb), "Recording", err) && gpu_submit(dev, cb, err);
        vkFreeCommandBuffers(dev->handle, dev->pool, 1, &cb);
        if (!ok) return false;
        if (!up) memcpy(data + at, dev->staging.mapped, (size_t)n);
    }
    return true;
}

bool gpu_chunk_upload(struct gpu_device *dev, struct gpu_chunk *c, int64_t offset, const void *data, int64_t bytes,
                      struct error *err) {
    assert(offset >= 0 && offset + bytes <= c->bytes);
    if (!c->mapped) return copy_staged(dev, c, offset, (uint8_t *)(uintptr_t)data, bytes, true, err);
    memcpy(c->mapped + offset, data, (size_t)bytes);
    return true;
}

bool gpu_chunk_download(struct gpu_device *dev, struct gpu_chunk *c, int64_t offset, void *data, int64_t bytes,
                        struct error *err) {
    assert(offset >= 0 && offset + bytes <= c->bytes);
    if (!c->mapped || !c->reads_fast) return copy_staged(dev, c, offset, data, bytes, false, err);
    memcpy(data, c->mapped + offset, (size_t)bytes);
    return true;
}

struct pack_job {
    void *dst;
    const float *src;
    enum tensor_dtype dtype;
    struct shape s;
};

static void pack_planes(void *ctx, size_t begin, size_t end) {
    const struct pack_job *j = ctx;
    int64_t rows = shape_rows(j->s), stride = shape_stride(j->s);
    int c = j->s.c;
    for (size_t p = begin; p < end; p++) {
        int left = c - 4 * (int)p < 4 ? c - 4 * (int)p : 4;
        for (int64_t r = 0; r < stride; r++) {
            float v[4] = {0};
            if (r < rows) memcpy(v, j->src + r * c + 4 * (int64_t)p, (size_t)left * sizeof(float));
            int64_t t = (int64_t)p * stride + r;
            if (j->dtype == TENSOR_F32) memcpy((float *)j->dst + 4 * t, v, sizeof v);
            else half_from_float_n((uint16_t *)j->dst + 4 * t, v, 4);
        }
    }
}

void gpu_layout_pack(void *dst, enum tensor_dtype dtype, struct shape s, const float *src) {
    if (quant_is_coded(dtype)) {
        quant_pack(dst, dtype, s, src);
        return;
    }
    struct pack_job j = {dst, src, dtype, s};
    if (shape_elems(s) < 65536) pack_planes(&j, 0, (size_t)shape_planes(s));
    else thread_parallel_for((size_t)shape_planes(s), pack_planes, &j);
}

void gpu_layout_unpack(float *dst, enum tensor_dtype dtype, struct shape s, const void *src) {
    if (quant_is_coded(dtype)) {
        quant_unpack(dst, dtype, s, src);
        return;
    }
    int64_t rows = shape_rows(s), stride = shape_stride(s);
    for (int p = 0; p < shape_planes(s); p++) {
        int left = s.c - 4 * p < 4 ? s.c - 4 * p : 4;
        for (int64_t r = 0; r < rows; r++) {
            int64_t t = p * stride + r;
            float v[4];
            if (dtype == TENSOR_F32) memcpy(v, (const float *)src + 4 * t, sizeof v);
            else half_to_float_n(v, (const uint16_t *)src + 4 * t, 4);
            memcpy(dst + r * s.c + 4 * p, v, (size_t)left * sizeof(float));
        }
    }
}
