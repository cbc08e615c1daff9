/* Pipelines, made at first request and kept; the driver's cache lies on disk. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/os.h"
#include "gpu/gpu_priv.h"
#include "gpu/shader_blobs.h"

static const struct shader_blob *blob_find(const char *name, struct shader_blob *out) {
    for (size_t i = 0; i < shader_blob_count(); i++) {
        *out = shader_blob_at(i);
        if (!strcmp(out->name, name)) return out;
    }
    return NULL;
}

static uint32_t hash_key(const char *shader, const uint32_t *spec, int n) {
    uint32_t h = 2166136261u;
    for (const char *c = shader; *c; c++) h = (h ^ (uint8_t)*c) * 16777619u;
    for (int i = 0; i < n; i++) h = (h ^ spec[i]) * 16777619u;
    return h;
}

static struct gpu_pipeline *find_entry(struct gpu_pipeline *table, int cap, const char *shader, const uint32_t *spec, int n) {
    for (uint32_t i = hash_key(shader, spec, n);; i++) {
        struct gpu_pipeline *p = &table[i & (uint32_t)(cap - 1)];
        if (!p->shader) return p;
        if (p->n_spec == n && !strcmp(p->shader, shader) && !memcmp(p->spec, spec, (size_t)n * 4)) return p;
    }
}

static void grow_table(struct gpu_device *dev) {
    int cap = dev->cap_pipelines ? dev->cap_pipelines * 2 : 256;
    struct gpu_pipeline *table = arena_alloc(dev->arena, (size_t)cap * sizeof *table);
    for (int i = 0; i < dev->cap_pipelines; i++) {
        struct gpu_pipeline *p = &dev->pipelines[i];
        if (p->shader) *find_entry(table, cap, p->shader, p->spec, p->n_spec) = *p;
    }
    dev->pipelines = table, dev->cap_pipelines = cap;
}

static VkPipeline create(struct gpu_device *dev, const char *shader, const uint32_t *spec, int n_spec, struct error *err) {
    char name[96];
    snprintf(name, sizeof name, "%s%s", shader, dev->caps.cls == KERNEL_GPU ? "_gpu" : "");
    struct shader_blob blob;
    if (!blob_find(name, &blob)) {
        error_set(err, "The shader %s is not part of this program (a build error).", name);
        return VK_NULL_HANDLE;
    }
    VkShaderModuleCreateInfo m = {.sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO, .codeSize = blob.bytes,
                                  .pCode = blob.words};
    VkShaderModule module;
    if (!gpu_vk_ok(vkCreateShaderModule(dev->handle, &m, NULL, &module), "Loading a shader", err)) return VK_NULL_HANDLE;
    VkSpecializationMapEntry entries[GPU_MAX_SPEC];
    for (int i = 0; i < n_spec; i++) entries[i] = (VkSpecializationMapEntry){(uint32_t)i, (uint32_t)(4 * i), 4};
    VkSpecializationInfo info = {(uint32_t)n_spec, entries, (size_t)n_spec * 4, spec};
    VkComputePipelineCreateInfo p = {
        .sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO,
        .stage = {.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO, .stage = VK_SHADER_STAGE_COMPUTE_BIT,
                  .module = module, .pName = "main", .pSpecializationInfo = &info},
        .layout = dev->pipeline_layout};
    VkPipeline handle = VK_NULL_HANDLE;
    VkResult r = vkCreateComputePipelines(dev->handle, dev->cache, 1, &p, NULL, &handle);
    vkDestroyShaderModule(dev->handle, module, NULL);
    char what[128];
    snprintf(what, sizeof what, "Compiling the shader %s", name);
    return gpu_vk_ok(r, what, err) ? handle : VK_NULL_HANDLE;
}

VkPipeline gpu_pipeline_get(struct gpu_device *dev, const char *shader, const uint32_t *spec, int n_spec, struct error *err) {
    if (2 * (dev->n_pipelines + 1) > dev->cap_pipelines) grow_table(dev);
    struct gpu_pipeline *p = find_entry(dev->pipelines, dev->cap_pipelines, shader, spec, n_spec);
    if (p->shader) return p->handle;
    VkPipeline handle = create(dev, shader, spec, n_spec, err);
    if (!handle) return VK_NULL_HANDLE;
    p->shader = arena_strdup(dev->arena, shader);
    memcpy(p->spec, spec, (size_t)n_spec * 4);
    p->n_spec = n_spec;
    p->handle = handle;
    dev->n_pipelines++;
    return handle;
}

int gpu_device_pipelines(const struct gpu_device *dev, struct gpu_pipeline_use *out, int max) {
    int n = 0;
    for (int i = 0; i < dev->cap_pipelines; i++) {
        const struct gpu_pipeline *p = &dev->pipelines[i];
        if (!p->shader) continue;
        if (n < max) out[n] = (struct gpu_pipeline_use){p->shader, p->spec, p->n_spec};
        n++;
    }
    return n;
}

void gpu_pipelines_destroy(struct gpu_device *dev) {
    for (int i = 0; i < dev->cap_pipelines; i++)
        if (dev->pipelines[i].shader) vkDestroyPipeline(dev->handle, dev->pipelines[i].handle, NULL);
    dev->cap_pipelines = dev->n_pipelines = 0;
}

static char *cache_path(struct gpu_device *dev, struct arena *a) {
    const uint8_t *u = dev->properties.pipelineCacheUUID;
    return arena_printf(a, "%s/pipelines-%02x%02x%02x%02x%02x%02x%02x%02x-%u.bin", dev->params.cache_dir, u[0], u[1], u[2],
                        u[3], u[4], u[5], u[6], u[7], dev->properties.driverVersion);
}

/* The driver checks the header and its own UUID; a stale or broken file is simply not used. */
void gpu_pipeline_cache_load(struct gpu_device *dev) {
    struct arena *a = arena_create(NULL);
    struct os_map map = {0};
    VkPipelineCacheCreateInfo info = {.sType = VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO};
    if (dev->params.cache_dir) {
        char *path = cache_path(dev, a);
        struct error ignored;
        if (os_path_is_file(path) && os_file_map(&map, path, &ignored))
            info.initialDataSize = map.bytes, info.pInitialData = map.data;
    }
    if (vkCreatePipelineCache(dev->handle, &info, NULL, &dev->cache) != VK_SUCCESS) dev->cache = VK_NULL_HANDLE;
    dev->cache_loaded_bytes = info.initialDataSize;
    os_file_unmap(&map);
    arena_destroy(&a);
}

void gpu_pipeline_cache_save(struct gpu_device *dev) {
    size_t n = 0;
    if (!dev->cache || !dev->params.cache_dir || !dev->n_pipelines) return;
    if (vkGetPipelineCacheData(dev->handle, dev->cache, &n, NULL) != VK_SUCCESS || n <= dev->cache_loaded_bytes) return;
    struct arena *a = arena_create(NULL);
    void *data = arena_alloc(a, n);
    struct error e;
    if (vkGetPipelineCacheData(dev->handle, dev->cache, &n, data) == VK_SUCCESS &&
        !(os_dir_make(dev->params.cache_dir, &e) && os_file_write_atomic(cache_path(dev, a), data, n, &e)))
        log_debug("pipeline cache not kept: %s", e.text); /* costs time at the next start, nothing else */
    arena_destroy(&a);
}
