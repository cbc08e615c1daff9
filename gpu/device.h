#pragma once
/* One Vulkan 1.2 compute device: choice, limits, memory, pipelines. One thread owns it. */
#include "gpu/kernel.h"

enum gpu_prefer { GPU_ANY, GPU_DISCRETE, GPU_INTEGRATED, GPU_CPU };

struct gpu_params {
    const char *device;       /* NULL: best (discrete, integrated, CPU); "cpu", "gpu", an index or part of a name */
    bool validate;            /* Khronos validation, core and synchronization; messages count as errors */
    enum kernel_class force_class; /* 0: cpu class on CPU devices, gpu class elsewhere */
    bool f32;                 /* gpu class: keep activations and weights in f32 */
    bool force_staging;       /* upload through a staging buffer even where memory is mapped (tests) */
    uint32_t limit_shared_bytes; /* 0: the device's; else pretend this much (tests) */
    const char *cache_dir;    /* pipeline cache; NULL: none on disk */
    int64_t memory_limit;     /* 0: the device's heap */
    bool plan_only;           /* memory_limit may be more than the device has: plans for another one, allocates little */
};

struct gpu_device;
struct gpu_device *gpu_device_create(const struct gpu_params *p, struct error *err);
void gpu_device_destroy(struct gpu_device **dev);

const char *gpu_device_name(const struct gpu_device *dev);
const struct kernel_caps *gpu_device_caps(const struct gpu_device *dev);
/* What activations and frozen weights are stored as on this device. */
enum tensor_dtype gpu_device_storage(const struct gpu_device *dev);
int64_t gpu_device_max_chunk(const struct gpu_device *dev); /* bytes of one buffer and one texel view */
int64_t gpu_device_memory_total(const struct gpu_device *dev);
int64_t gpu_device_memory_used(const struct gpu_device *dev); /* allocated through this device object */
int64_t gpu_device_memory_peak(const struct gpu_device *dev);
/* Weights kept with the host for gpu_set_create_streamed; not part of the above. */
int64_t gpu_device_memory_away(const struct gpu_device *dev);
/* Validation messages seen so far (0 without validation). */
int gpu_device_messages(const struct gpu_device *dev);

/* The pipelines made so far: shader blob and all spec constants from id 0. For tests; valid until the device
 * makes another. Returns how many there are. */
struct gpu_pipeline_use {
    const char *shader; /* without "_gpu" */
    const uint32_t *spec;
    int n_spec;
};
int gpu_device_pipelines(const struct gpu_device *dev, struct gpu_pipeline_use *out, int max);

/* A line per device for `atelier devices`. */
struct gpu_listing {
    char name[256], driver[520], kind[32];
    int64_t memory_bytes;
    uint32_t subgroup, shared_bytes;
    bool usable;
    char reason[512]; /* why not */
};
int gpu_device_list(struct gpu_listing *list, int max, struct error *err);

/* Device copy of one bank of a tensor_set. */
struct gpu_set;
struct gpu_set *gpu_set_create(struct gpu_device *dev, const struct tensor_set *set, enum set_bank bank,
                               struct error *err);
/* The same for a set of which every slot gets written before anything reads it: what a slot covers is not cleared. */
struct gpu_set *gpu_set_create_unfilled(struct gpu_device *dev, const struct tensor_set *set, enum set_bank bank,
                                        struct error *err);
/* The same for a frozen set that is larger than the memory for it: small tensors and as many of the others as fit
 * `resident_bytes` stay on the device, the rest stays with the host and comes to the device piece by piece while a
 * program runs (gpu_program_params.ring_bytes). Writes and reads as usual. */
struct gpu_set *gpu_set_create_streamed(struct gpu_device *dev, const struct tensor_set *set, int64_t resident_bytes,
                                        struct error *err);
/* Bytes that stay on the device even with resident_bytes 0. */
int64_t gpu_set_streamed_least(const struct tensor_set *set);
bool gpu_set_is_streamed(const struct gpu_set *s);
void gpu_set_destroy(struct gpu_set **s);
int64_t gpu_set_bytes(const struct gpu_set *s); /* on the device */
/* Where the slot's bytes lie, for writing them as they are; NULL where the device's memory is not mapped. */
void *gpu_set_slot(struct gpu_set *s, int slot);
/* Canonical [rows][c] f32 of one slot. */
bool gpu_set_write(struct gpu_set *s, int slot, const float *data, struct error *err);
bool gpu_set_read(struct gpu_set *s, int slot, float *data, struct error *err);
/* The raw device bytes of a chunk (checkpoints of optimiser state). Size: gpu_set_chunk_bytes. */
int64_t gpu_set_chunk_bytes(const struct gpu_set *s, int chunk);
bool gpu_set_read_raw(struct gpu_set *s, int chunk, void *data, struct error *err);
bool gpu_set_write_raw(struct gpu_set *s, int chunk, const void *data, struct error *err);
