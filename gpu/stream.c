/* Weights that do not fit the device come to it in turn, copied by the device itself from the host's memory. The copies
 * for the next segment of nodes are recorded beside the computing of this one, so that a card with a copy engine or idle
 * bandwidth hides them. */
#include <assert.h>
#include <string.h>

#include "gpu/gpu_priv.h"

enum { COPY_ALIGN = 256 };

static int64_t slot_bytes(const struct tensor_set *set, int slot) {
    const struct tensor_slot *t = &set->slots[slot];
    return (tensor_bytes(t->dtype, t->shape) + COPY_ALIGN - 1) / COPY_ALIGN * COPY_ALIGN;
}

/* The streamed set that input i of a node reads from while the tensor is away, or NULL. */
static struct gpu_set *away_input(const struct gpu_program *prog, const struct node *node, int i, int *slot) {
    if (node->in[i] < 0) return NULL;
    const struct value *v = &prog->g->values[node->in[i]];
    struct gpu_set *data = v->cls == VALUE_SET ? gpu_program_bound(prog, v->set, v->bank) : NULL;
    int64_t offset;
    if (!data || !gpu_set_is_streamed(data) || !gpu_set_place(data, v->slot, &offset)->away) return NULL;
    *slot = v->slot;
    return data;
}

int64_t gpu_program_ring_least(const struct graph *g, const struct tensor_set *set) {
    struct gpu_stay stay = gpu_set_stay(set);
    int64_t most = 0;
    for (int n = 0; n < g->n_nodes; n++) {
        int64_t need = 0;
        for (int i = 0; i < g->nodes[n].n_in; i++) {
            const struct value *v = g->nodes[n].in[i] < 0 ? NULL : &g->values[g->nodes[n].in[i]];
            if (v && v->cls == VALUE_SET && v->set == set && !gpu_stays(stay, tensor_bytes(v->dtype, v->shape)))
                need += slot_bytes(set, v->slot);
        }
        if (need > most) most = need;
    }
    return 2 * (most + PLAN_ZERO_BYTES);
}

static const struct gpu_copy *find_copy(const struct gpu_stream *s, int segment, int end, const struct gpu_set *data,
                                        int slot) {
    for (int i = s->first_copy[segment]; i < end; i++)
        if (s->copies[i].data == data && s->copies[i].slot == slot) return &s->copies[i];
    return NULL;
}

/* Bytes that a node adds to the segment; with `add`, adds them. */
static int64_t node_copies(struct gpu_program *prog, int n, int segment, int *n_copies, int64_t at, bool add) {
    struct gpu_stream *s = prog->stream;
    const struct node *node = &prog->g->nodes[n];
    int64_t bytes = 0;
    int slot;
    for (int i = 0; i < node->n_in; i++) {
        struct gpu_set *data = away_input(prog, node, i, &slot);
        if (!data || find_copy(s, segment, *n_copies, data, slot)) continue;
        int64_t more = slot_bytes(prog->g->values[node->in[i]].set, slot);
        if (add) s->copies[(*n_copies)++] = (struct gpu_copy){data, slot, at + bytes, more};
        bytes += more;
    }
    return bytes;
}

bool gpu_stream_plan(struct gpu_program *prog, struct error *err) {
    const struct graph *g = prog->g;
    int64_t half = prog->params.ring_bytes / 2 / COPY_ALIGN * COPY_ALIGN;
    int slot;
    bool any = false;
    for (int n = 0; n < g->n_nodes; n++)
        for (int i = 0; i < g->nodes[n].n_in; i++) any |= away_input(prog, &g->nodes[n], i, &slot) != NULL;
    if (!any) return true;
    for (int i = 0; i < prog->params.n_bindings; i++) {
        const struct gpu_binding *b = &prog->params.bindings[i]; /* an unused bank has no data */
        int64_t least = b->data && gpu_set_is_streamed(b->data) ? gpu_program_ring_least(g, b->set) / 2 : 0;
        if (half < least) half = least;
    }
    if (half > prog->dev->max_chunk) half = prog->dev->max_chunk;
    struct gpu_stream *s = prog->stream = arena_alloc(prog->arena, sizeof *s);
    const struct gpu_stream *shared = prog->params.share ? prog->params.share->stream : NULL;
    s->borrowed = shared && shared->half_bytes >= half;
    if (s->borrowed) half = shared->half_bytes;
    s->half_bytes = half;
    s->segment = arena_alloc_n(prog->arena, (size_t)g->n_nodes, sizeof *s->segment);
    s->first_copy = arena_alloc_n(prog->arena, (size_t)g->n_nodes + 2, sizeof *s->first_copy);
    s->copies = arena_alloc_n(prog->arena, (size_t)g->n_nodes * GRAPH_MAX_IN, sizeof *s->copies);
    int n_copies = 0, segment = 0;
    int64_t used = PLAN_ZERO_BYTES;
    for (int n = 0; n < g->n_nodes; n++) {
        if (used + node_copies(prog, n, segment, &n_copies, 0, false) > half) {
            s->first_copy[++segment] = n_copies;
            used = PLAN_ZERO_BYTES;
        }
        used += node_copies(prog, n, segment, &n_copies, used, true);
        s->segment[n] = segment;
        if (used > half)
            return error_set(err, "%s: its weights take %.0f MiB at once, more than a buffer of this device can hold.",
                             g->nodes[n].label, (double)used / 1048576);
    }
    s->n_segments = segment + 1;
    s->first_copy[s->n_segments] = n_copies;
    prog->use.ring = s->borrowed ? 0 : 2 * half;
    return true;
}

bool gpu_stream_allocate(struct gpu_program *prog, struct error *err) {
    for (int i = 0; prog->stream && i < 2; i++)
        if (prog->stream->borrowed) prog->stream->half[i] = prog->params.share->stream->half[i];
        else if (!gpu_chunk_create(prog->dev, &prog->stream->half[i], prog->stream->half_bytes, true, false, "weights in turn",
                                   err))
            return false;
    return true;
}

void gpu_stream_destroy(struct gpu_program *prog) {
    for (int i = 0; prog->stream && !prog->stream->borrowed && i < 2; i++) gpu_chunk_destroy(prog->dev, &prog->stream->half[i]);
}

struct gpu_chunk *gpu_stream_place(struct gpu_program *prog, int node, const struct gpu_set *data, int slot, int64_t *offset) {
    struct gpu_stream *s = prog->stream;
    int segment = s->segment[node];
    const struct gpu_copy *c = find_copy(s, segment, s->first_copy[segment + 1], data, slot);
    assert(c);
    *offset = c->offset;
    return &s->half[segment % 2];
}

static void record_copy(struct gpu_program *prog, VkCommandBuffer cb, const struct gpu_copy *c, int segment) {
    int64_t offset;
    const struct gpu_chunk *from = gpu_set_place(c->data, c->slot, &offset);
    VkBufferCopy copy = {.srcOffset = (VkDeviceSize)offset, .dstOffset = (VkDeviceSize)c->offset,
                         .size = (VkDeviceSize)c->bytes};
    vkCmdCopyBuffer(cb, from->buffer, prog->stream->half[segment % 2].buffer, 1, &copy);
}

/* Kernels and copies before it are done before kernels and copies after it begin. */
static void barrier(VkCommandBuffer cb) {
    VkMemoryBarrier b = {.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
                         .srcAccessMask = VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_TRANSFER_WRITE_BIT,
                         .dstAccessMask =
                             VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_WRITE_BIT};
    VkPipelineStageFlags stages = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT;
    vkCmdPipelineBarrier(cb, stages, stages, 0, 1, &b, 0, NULL, 0, NULL);
}

static void record_copies(struct gpu_program *prog, VkCommandBuffer cb, int segment) {
    const struct gpu_stream *s = prog->stream;
    for (int i = s->first_copy[segment]; i < s->first_copy[segment + 1]; i++) record_copy(prog, cb, &s->copies[i], segment);
}

void gpu_stream_record(struct gpu_program *prog, VkCommandBuffer cb, int n) {
    const struct gpu_stream *s = prog->stream;
    if (!s || (n > 0 && s->segment[n] == s->segment[n - 1])) return;
    if (n == 0) record_copies(prog, cb, 0);
    barrier(cb);
    if (s->segment[n] + 1 < s->n_segments) record_copies(prog, cb, s->segment[n] + 1);
}

void gpu_stream_record_step(struct gpu_program *prog, VkCommandBuffer cb, int n) {
    const struct gpu_stream *s = prog->stream;
    if (!s) return;
    const struct node *node = &prog->g->nodes[n];
    int slot, segment = s->segment[n];
    for (int i = 0; i < node->n_in; i++) {
        struct gpu_set *data = away_input(prog, node, i, &slot);
        if (data) record_copy(prog, cb, find_copy(s, segment, s->first_copy[segment + 1], data, slot), segment);
    }
    barrier(cb);
}
