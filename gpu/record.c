/* Recording: operands into addresses, dispatches into command buffers, one node into many. */
#include <assert.h>
#include <string.h>

#include "gpu/gpu_priv.h"

struct gpu_view_set {
    int32_t views[GPU_READS];
    VkDescriptorSet handle;
};
struct gpu_recorder {
    struct gpu_program *prog;
    VkCommandBuffer cb;
    VkPipeline bound;
    bool failed;
    struct error error;
};

enum { MAX_VIEW_SETS = 4096 };

static struct operand locate(struct gpu_chunk *c, int64_t offset, struct shape s, enum tensor_dtype dtype) {
    /* The cpu class reads everything through views of 16 bytes, whatever is in them. */
    return (struct operand){.address = c->address + (uint64_t)offset, .texel = (int32_t)(offset / 16),
                            .stride = (int32_t)shape_stride(s), .view = c->view_id, .dtype = dtype, .shape = s};
}

struct gpu_set *gpu_program_bound(const struct gpu_program *prog, const struct tensor_set *set, enum set_bank bank) {
    for (int i = 0; i < prog->params.n_bindings; i++)
        if (prog->params.bindings[i].set == set && prog->params.bindings[i].bank == bank) return prog->params.bindings[i].data;
    return NULL;
}

/* The chunk that holds a value and its byte offset there, as `node` finds it; -1: where it lies for good. */
static struct gpu_chunk *value_chunk(struct gpu_program *prog, int node, int v, int64_t *offset) {
    const struct value *val = &prog->g->values[v];
    struct plan_place place = prog->plan.values[v];
    *offset = place.offset;
    if (val->cls == VALUE_ACT) return place.chunk >= 0 ? &prog->act[place.chunk] : NULL;
    if (val->cls == VALUE_IO) return place.chunk >= 0 ? &prog->io : NULL;
    struct gpu_set *data = gpu_program_bound(prog, val->set, val->bank);
    assert(data && "a program must bind every set that its graph names");
    int64_t texels = 0;
    for (int w = v; prog->g->values[w].view_of >= 0; w = prog->g->values[w].view_of) texels += prog->g->values[w].view_texels;
    if (val->cls == VALUE_FLAT) {
        *offset = 0;
        return gpu_set_chunk(data, val->slot);
    }
    assert(!texels || !quant_is_coded(val->dtype)); /* a part of a coded weight has no place of its own */
    struct gpu_chunk *c = gpu_set_place(data, val->slot, offset);
    if (c->away && node >= 0) c = gpu_stream_place(prog, node, data, val->slot, offset);
    *offset += texels * (int64_t)tensor_texel_bytes(val->dtype);
    return c;
}

static struct operand value_operand(struct gpu_program *prog, int node, int v) {
    if (v < 0) return (struct operand){.view = -1};
    int64_t offset;
    struct gpu_chunk *c = value_chunk(prog, node, v, &offset);
    if (!c) return (struct operand){.view = -1};
    return locate(c, offset, prog->g->values[v].shape, prog->g->values[v].dtype);
}

bool gpu_program_fetch(struct gpu_program *prog, int v, float *data, struct error *err) {
    int64_t offset;
    const struct value *val = &prog->g->values[v];
    struct gpu_chunk *c = value_chunk(prog, -1, v, &offset);
    int64_t bytes = tensor_bytes(val->dtype, val->shape);
    struct arena *a = arena_create(NULL);
    void *raw = arena_alloc(a, (size_t)bytes);
    bool ok = c && gpu_chunk_download(prog->dev, c, offset, raw, bytes, err);
    if (ok) gpu_layout_unpack(data, val->dtype, val->shape, raw);
    arena_destroy(&a);
    return ok;
}

static int64_t own_scratch(const struct gpu_program *prog, int n) {
    struct kernel_query q = {prog->g, &prog->g->nodes[n], &prog->dev->caps};
    const struct kernel *k = prog->kernels[n];
    return ((k->scratch_bytes ? k->scratch_bytes(&q) : 0) + 63) / 64 * 64;
}

void gpu_program_operands(struct gpu_program *prog, int n, struct emit *e) {
    struct node *node = &prog->g->nodes[n];
    *e = (struct emit){.q = {prog->g, node, &prog->dev->caps}, .recorder = e->recorder};
    for (int i = 0; i < GRAPH_MAX_IN; i++) e->in[i] = value_operand(prog, n, node->in[i]);
    for (int i = 0; i < GRAPH_MAX_OUT; i++) e->out[i] = value_operand(prog, n, node->out[i]);
    struct shape none = {1, 1, 1, 4};
    struct plan_place s = prog->plan.scratch[n];
    if (s.chunk >= 0) e->scratch = locate(&prog->act[s.chunk], s.offset, none, TENSOR_F32);
    struct plan_place prep = prog->prep[n];
    if (prep.chunk >= 0) e->prep = locate(&prog->prepared[prep.chunk], prep.offset, none, TENSOR_F32);
    else if (prog->kernels[n]->prep_bytes && s.chunk >= 0)
        e->prep = locate(&prog->act[s.chunk], s.offset + own_scratch(prog, n), none, TENSOR_F32);
}

struct operand operand_part(const struct operand *whole, int64_t offset, int32_t stride) {
    struct operand o = *whole;
    o.address += (uint64_t)offset;
    o.texel += (int32_t)(offset / 16);
    o.stride = stride;
    return o;
}

/* Descriptor sets by the tuple of buffers that a dispatch reads; few tuples occur. */
static VkDescriptorSet view_set(struct gpu_recorder *r, const int32_t *views) {
    struct gpu_program *prog = r->prog;
    for (int i = 0; i < prog->n_view_sets; i++)
        if (!memcmp(prog->view_sets[i].views, views, sizeof prog->view_sets[i].views)) return prog->view_sets[i].handle;
    if (prog->n_view_sets == MAX_VIEW_SETS) {
        r->failed = !error_set(&r->error, "The program reads more than %d combinations of buffers.", MAX_VIEW_SETS);
        return VK_NULL_HANDLE;
    }
    struct gpu_view_set *s = &prog->view_sets[prog->n_view_sets];
    VkDescriptorSetAllocateInfo info = {.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO, .descriptorPool = prog->pool,
                                        .descriptorSetCount = 1, .pSetLayouts = &prog->dev->set_layout};
    if (!gpu_vk_ok(vkAllocateDescriptorSets(prog->dev->handle, &info, &s->handle), "Allocating descriptors", &r->error)) {
        r->failed = true;
        return VK_NULL_HANDLE;
    }
    memcpy(s->views, views, sizeof s->views);
    VkBufferView handles[GPU_READS];
    for (int i = 0; i < GPU_READS; i++) handles[i] = prog->dev->views[views[i]];
    VkWriteDescriptorSet w = {.sType = VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET, .dstSet = s->handle,
                              .descriptorCount = GPU_READS, .descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_TEXEL_BUFFER,
                              .pTexelBufferView = handles};
    vkUpdateDescriptorSets(prog->dev->handle, 1, &w, 0, NULL);
    prog->n_view_sets++;
    return s->handle;
}

void emit_barrier(struct emit *e) {
    VkMemoryBarrier b = {.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
                         .srcAccessMask = VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_SHADER_READ_BIT,
                         .dstAccessMask = VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT};
    vkCmdPipelineBarrier(e->recorder->cb, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, 0, 1, &b,
                         0, NULL, 0, NULL);
}

void emit_dispatch(struct emit *e, const struct dispatch *d) {
    struct gpu_recorder *r = e->recorder;
    struct gpu_device *dev = r->prog->dev;
    if (r->failed) return;
    assert(d->n_spec <= GPU_MAX_SPEC - 2 && d->push_bytes <= GPU_PUSH_BYTES && d->n_reads <= GPU_READS);
    for (int i = 0; i < 3; i++) assert(d->groups[i] > 0 && d->groups[i] <= dev->caps.max_groups[i]);
    uint32_t spec[GPU_MAX_SPEC] = {dev->caps.subgroup, d->storage_mask};
    memcpy(spec + 2, d->spec, (size_t)d->n_spec * 4);
    VkPipeline p = gpu_pipeline_get(dev, d->shader, spec, d->n_spec + 2, &r->error);
    if (!p) {
        r->failed = true;
        return;
    }
    if (p != r->bound) vkCmdBindPipeline(r->cb, VK_PIPELINE_BIND_POINT_COMPUTE, p);
    r->bound = p;
    if (dev->caps.cls == KERNEL_CPU) {
        int32_t views[GPU_READS];
        for (int i = 0; i < GPU_READS; i++) {
            bool real = i < d->n_reads && d->reads[i] && d->reads[i]->address;
            views[i] = real ? d->reads[i]->view : dev->dummy.view_id;
        }
        VkDescriptorSet set = view_set(r, views);
        if (r->failed) return;
        vkCmdBindDescriptorSets(r->cb, VK_PIPELINE_BIND_POINT_COMPUTE, dev->pipeline_layout, 0, 1, &set, 0, NULL);
    }
    vkCmdPushConstants(r->cb, dev->pipeline_layout, VK_SHADER_STAGE_COMPUTE_BIT, 0, (uint32_t)d->push_bytes, d->push);
    vkCmdDispatch(r->cb, d->groups[0], d->groups[1], d->groups[2]);
}

/* Host writes before, shader accesses within, host reads after. */
static void host_barrier(VkCommandBuffer cb, bool before) {
    VkMemoryBarrier b = {.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER};
    VkPipelineStageFlags compute = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT;
    b.srcAccessMask = before ? VK_ACCESS_HOST_WRITE_BIT : VK_ACCESS_SHADER_WRITE_BIT;
    b.dstAccessMask =
        before ? VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT : VK_ACCESS_HOST_READ_BIT | VK_ACCESS_HOST_WRITE_BIT;
    vkCmdPipelineBarrier(cb, before ? VK_PIPELINE_STAGE_HOST_BIT : compute, before ? compute : VK_PIPELINE_STAGE_HOST_BIT, 0, 1,
                         &b, 0, NULL, 0, NULL);
}

static void record_node(struct gpu_recorder *r, int n) {
    struct gpu_program *prog = r->prog;
    struct emit e = {.recorder = r};
    gpu_program_operands(prog, n, &e);
    const struct kernel *k = prog->kernels[n];
    if (k->prep_bytes && e.prep.address && prog->prep[n].chunk < 0) {
        k->emit_prep(&e);
        emit_barrier(&e);
    }
    k->emit(&e);
    emit_barrier(&e);
}

static bool finish(struct gpu_recorder *r, struct error *err) {
    host_barrier(r->cb, false);
    if (!gpu_vk_ok(vkEndCommandBuffer(r->cb), "Recording", err)) return false;
    return !r->failed || error_set(err, "%s", r->error.text);
}

static bool record_prep(struct gpu_program *prog, struct error *err) {
    if (!prog->n_prepared) return true;
    struct gpu_recorder r = {.prog = prog};
    if (!gpu_commands_begin(prog->dev, &r.cb, err)) return false;
    prog->prep_commands = r.cb;
    host_barrier(r.cb, true);
    for (int n = 0; n < prog->g->n_nodes; n++) {
        if (prog->prep[n].chunk < 0) continue;
        struct emit e = {.recorder = &r};
        gpu_program_operands(prog, n, &e);
        prog->kernels[n]->emit_prep(&e);
    }
    return finish(&r, err);
}

bool gpu_program_record_steps(struct gpu_program *prog, struct error *err) {
    prog->step_commands = arena_alloc(prog->arena, (size_t)(prog->g->n_nodes + 1) * sizeof *prog->step_commands);
    for (int n = 0; n < prog->g->n_nodes; n++) {
        struct gpu_recorder r = {.prog = prog};
        if (!gpu_commands_begin(prog->dev, &r.cb, err)) return false;
        prog->step_commands[n] = r.cb;
        host_barrier(r.cb, true);
        gpu_stream_record_step(prog, r.cb, n);
        record_node(&r, n);
        if (!finish(&r, err)) return false;
    }
    return true;
}

static bool record_whole(struct gpu_program *prog, struct error *err) {
    struct gpu_recorder r = {.prog = prog};
    int n_nodes = prog->g->n_nodes;
    bool profile = prog->params.profile;
    if (profile) {
        VkQueryPoolCreateInfo q = {.sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO, .queryType = VK_QUERY_TYPE_TIMESTAMP,
                                   .queryCount = (uint32_t)n_nodes + 1};
        if (!gpu_vk_ok(vkCreateQueryPool(prog->dev->handle, &q, NULL, &prog->queries), "Making timestamps", err)) return false;
        prog->seconds = arena_alloc(prog->arena, (size_t)(n_nodes + 1) * sizeof *prog->seconds);
    }
    if (!gpu_commands_begin(prog->dev, &r.cb, err)) return false;
    prog->commands = r.cb;
    if (profile) vkCmdResetQueryPool(r.cb, prog->queries, 0, (uint32_t)n_nodes + 1);
    host_barrier(r.cb, true);
    if (profile) vkCmdWriteTimestamp(r.cb, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, prog->queries, 0);
    for (int n = 0; n < n_nodes && !r.failed; n++) {
        gpu_stream_record(prog, r.cb, n);
        record_node(&r, n);
        if (profile) vkCmdWriteTimestamp(r.cb, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, prog->queries, (uint32_t)n + 1);
    }
    return finish(&r, err);
}

bool gpu_program_record(struct gpu_program *prog, struct error *err) {
    if (prog->dev->caps.cls == KERNEL_CPU) {
        VkDescriptorPoolSize size = {VK_DESCRIPTOR_TYPE_STORAGE_TEXEL_BUFFER, GPU_READS * MAX_VIEW_SETS};
        VkDescriptorPoolCreateInfo p = {.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO, .maxSets = MAX_VIEW_SETS,
                                        .poolSizeCount = 1, .pPoolSizes = &size};
        if (!gpu_vk_ok(vkCreateDescriptorPool(prog->dev->handle, &p, NULL, &prog->pool), "Making a descriptor pool", err))
            return false;
        prog->view_sets = arena_alloc(prog->arena, MAX_VIEW_SETS * sizeof *prog->view_sets);
    }
    if (!record_prep(prog, err)) return false;
    return prog->params.step ? gpu_program_record_steps(prog, err) : record_whole(prog, err);
}
