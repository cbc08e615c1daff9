#pragma once
/* Inside gpu/ only. */
#include <volk.h>
#include "gpu/device.h"
#include "gpu/program.h"

enum { GPU_READS = 6, GPU_PUSH_BYTES = 128, GPU_MAX_SPEC = 16, GPU_MAX_VIEWS = 256 };

/* One buffer with its address, its texel view (cpu class) and, where the host sees it, its mapping. */
struct gpu_chunk {
    VkBuffer buffer;
    VkDeviceMemory memory;
    VkBufferView view;
    uint64_t address;
    uint8_t *mapped;
    bool reads_fast; /* the mapping, by the host */
    bool away;       /* lies with the host and does not count as device memory */
    int64_t bytes;
    int32_t view_id; /* slot in the device's view table */
};

struct gpu_pipeline {
    const char *shader;
    uint32_t spec[GPU_MAX_SPEC];
    int n_spec;
    VkPipeline handle;
};

struct gpu_device {
    struct arena *arena;
    struct gpu_params params;
    VkInstance instance;
    VkDebugUtilsMessengerEXT messenger;
    int messages;
    VkPhysicalDevice physical;
    VkPhysicalDeviceProperties properties;
    VkPhysicalDeviceMemoryProperties memory_properties;
    VkDevice handle;
    uint32_t queue_family;
    VkQueue queue;
    VkCommandPool pool;
    VkFence fence;
    VkDescriptorSetLayout set_layout;
    VkPipelineLayout pipeline_layout;
    VkPipelineCache cache;
    size_t cache_loaded_bytes;
    struct kernel_caps caps;
    enum tensor_dtype storage;
    int64_t max_chunk, memory_total, memory_used, memory_peak, away_used;
    struct gpu_pipeline *pipelines; /* open-addressed by shader and constants */
    int n_pipelines, cap_pipelines;
    VkBufferView views[GPU_MAX_VIEWS]; /* VK_NULL_HANDLE: free */
    struct gpu_chunk dummy;            /* fills unused bindings */
    struct gpu_chunk staging;          /* made on first need */
};

bool gpu_vk_ok(VkResult r, const char *what, struct error *err);
/* device_local: weights and activations; else host-visible memory. Zeroes the first PLAN_ZERO_BYTES. */
bool gpu_chunk_create(struct gpu_device *dev, struct gpu_chunk *c, int64_t bytes, bool device_local, bool clear,
                      const char *what, struct error *err);
/* In the host's memory, where the device can copy from; does not count as device memory. */
bool gpu_chunk_create_away(struct gpu_device *dev, struct gpu_chunk *c, int64_t bytes, const char *what, struct error *err);
void gpu_chunk_destroy(struct gpu_device *dev, struct gpu_chunk *c);
bool gpu_chunk_upload(struct gpu_device *dev, struct gpu_chunk *c, int64_t offset, const void *data, int64_t bytes,
                      struct error *err);
bool gpu_chunk_download(struct gpu_device *dev, struct gpu_chunk *c, int64_t offset, void *data, int64_t bytes,
                        struct error *err);
bool gpu_submit(struct gpu_device *dev, VkCommandBuffer cb, struct error *err);
bool gpu_commands_begin(struct gpu_device *dev, VkCommandBuffer *cb, struct error *err);

/* Pipelines are made at first request; NULL with a message on failure. spec includes ids 0 and 1. */
VkPipeline gpu_pipeline_get(struct gpu_device *dev, const char *shader, const uint32_t *spec, int n_spec,
                            struct error *err);
void gpu_pipelines_destroy(struct gpu_device *dev);
void gpu_pipeline_cache_load(struct gpu_device *dev);
void gpu_pipeline_cache_save(struct gpu_device *dev);

struct gpu_chunk *gpu_set_chunk(struct gpu_set *s, int chunk);
/* Where a slot lies: chunk and byte offset. The chunk may be away (gpu_set_create_streamed). */
struct gpu_chunk *gpu_set_place(struct gpu_set *s, int slot, int64_t *offset);

/* Which tensors of a streamed set stay on the device whatever its budget: small ones, and a few outsized ones. */
struct gpu_stay {
    int64_t below, above; /* bytes */
};
struct gpu_stay gpu_set_stay(const struct tensor_set *set);
static inline bool gpu_stays(struct gpu_stay s, int64_t bytes) { return bytes < s.below || bytes > s.above; }

/* --- weights that come to the device in turn (gpu/stream.c) --- */
struct gpu_copy {
    struct gpu_set *data;
    int slot;
    int64_t offset, bytes; /* in the ring's half */
};
/* Nodes are cut into segments whose weights fit one half of a ring; while one segment computes, the next one's
 * weights are copied into the other half. */
struct gpu_stream {
    struct gpu_chunk half[2];
    int64_t half_bytes;
    bool borrowed; /* the ring of the program that shares its memory */
    int n_segments;
    int *segment;    /* per node */
    int *first_copy; /* per segment, and one more */
    struct gpu_copy *copies;
};
struct gpu_program;
/* Plans; prog->stream stays NULL where no bound set is streamed. */
bool gpu_stream_plan(struct gpu_program *prog, struct error *err);
bool gpu_stream_allocate(struct gpu_program *prog, struct error *err);
void gpu_stream_destroy(struct gpu_program *prog);
/* Where a node finds a slot that is away. */
struct gpu_chunk *gpu_stream_place(struct gpu_program *prog, int node, const struct gpu_set *data, int slot, int64_t *offset);
/* Records what must stand before `node`: copies for the next segment where one begins. */
void gpu_stream_record(struct gpu_program *prog, VkCommandBuffer cb, int node);
/* The node's own weights only (stepping). */
void gpu_stream_record_step(struct gpu_program *prog, VkCommandBuffer cb, int node);
/* Data of a bound set, or NULL. */
struct gpu_set *gpu_program_bound(const struct gpu_program *prog, const struct tensor_set *set, enum set_bank bank);

/* Canonical rows to and from the device layout. */
void gpu_layout_pack(void *dst, enum tensor_dtype dtype, struct shape s, const float *src);
void gpu_layout_unpack(float *dst, enum tensor_dtype dtype, struct shape s, const void *src);

struct gpu_stage {
    int node; /* -1: preparation */
    uint32_t first_dispatch, n_dispatches;
};

struct gpu_program {
    struct arena *arena;
    struct gpu_device *dev;
    struct graph *g;
    struct gpu_program_params params;
    struct plan plan;
    const struct kernel **kernels; /* per node */
    struct gpu_chunk act[PLAN_MAX_CHUNKS], io, prepared[PLAN_MAX_CHUNKS];
    struct plan_place *prep; /* per node; chunk -1: none */
    int64_t prepared_bytes[PLAN_MAX_CHUNKS];
    int n_prepared;
    bool prepared_ready;
    VkDescriptorPool pool;
    struct gpu_view_set *view_sets;
    int n_view_sets;
    VkCommandBuffer prep_commands, commands;
    VkCommandBuffer *step_commands; /* per node when stepping */
    VkQueryPool queries;
    double *seconds; /* per node, last profiled run */
    struct gpu_memory_use use;
    struct gpu_stream *stream;
};

/* Resolves operands of a node into addresses and view indices. */
void gpu_program_operands(struct gpu_program *prog, int node, struct emit *e);
bool gpu_program_record(struct gpu_program *prog, struct error *err);
bool gpu_program_record_steps(struct gpu_program *prog, struct error *err);
bool gpu_program_run_stepwise(struct gpu_program *prog, struct error *err);
/* Bytes and a reader for one value wherever it lives. */
bool gpu_program_fetch(struct gpu_program *prog, int value, float *data, struct error *err);

bool gpu_kernels_select(struct gpu_program *prog, struct error *err);
