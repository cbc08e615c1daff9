#pragma once
/* How ops run: a table of kernel rows (gpu/kernels.def), best first per op; the first row whose class
 * and fits() accept the node is taken, unless a measurement or --kernel forces another.
 *
 * cpu class: lavapipe. Reads through rgba32f storage texel buffers (imageLoad), writes through buffer
 * addresses as u64vec2; everything f32. gpu class: reads and writes through buffer addresses, f16 or f32
 * storage per operand, f32 maths, shared memory, no subgroup assumptions.
 * Spec constant 0 is always the subgroup width W, 1 the storage mask (bit i: operand i is f16, in the
 * shader's own operand numbering); the row's own constants start at id 2. */
#include "graph/graph.h"

enum kernel_class { KERNEL_CPU = 1, KERNEL_GPU = 2 };

struct kernel_caps {
    enum kernel_class cls;
    uint32_t subgroup;      /* width W */
    uint32_t shared_bytes;  /* workgroup shared memory */
    uint32_t max_workgroup; /* invocations */
    uint32_t max_groups[3];
    bool float16;
};
struct kernel_query {
    const struct graph *g;
    const struct node *node;
    const struct kernel_caps *caps;
};
/* Where an operand lies. Absent optional operands have address 0. */
struct operand {
    uint64_t address;  /* device address of texel 0 of the tensor */
    int32_t texel;     /* index of that texel in its chunk's view (cpu class) */
    int32_t stride;    /* texels between planes */
    int32_t view;      /* chunk view id for emit_dispatch (cpu class) */
    enum tensor_dtype dtype;
    struct shape shape;
};
struct emit {
    struct kernel_query q;
    struct operand in[GRAPH_MAX_IN], out[GRAPH_MAX_OUT];
    struct operand scratch; /* scratch_bytes() of it, f32, shape unset */
    struct operand prep;    /* prep_bytes() of it, kept between runs when the weight is frozen */
    struct gpu_recorder *recorder;
};
struct kernel {
    enum op op;
    const char *variant; /* name is op__variant */
    enum kernel_class cls;
    bool (*fits)(const struct kernel_query *q);            /* NULL: always */
    int64_t (*scratch_bytes)(const struct kernel_query *q); /* NULL: none */
    int64_t (*prep_bytes)(const struct kernel_query *q);    /* NULL: none */
    void (*emit_prep)(struct emit *e);                      /* fills e->prep from the weight operand */
    void (*emit)(struct emit *e);
    bool decodes; /* its weight (input 1) is narrower than the class's own storage, and only that */
};
extern const struct kernel kernel_table[];
extern const int kernel_count;
/* Whether a row of the right op and class can run the node: fits(), and the weights are stored as it reads them. */
bool kernel_accepts(const struct kernel *k, const struct kernel_query *q);

/* A view table for one dispatch: operand i is read at binding i (cpu class; ignored in gpu class).
 * Unused bindings: pass n smaller. At most 6. */
struct dispatch {
    const char *shader; /* blob name without "_gpu" */
    uint32_t spec[14];  /* constants from id 2 on */
    int n_spec;
    const void *push;
    size_t push_bytes; /* <= 128 */
    const struct operand *reads[6];
    int n_reads;
    uint32_t storage_mask; /* spec constant 1 */
    uint32_t groups[3];
};
void emit_dispatch(struct emit *e, const struct dispatch *d);
/* Orders the dispatches before it and after it (between stages of one kernel; nodes are ordered anyway). */
void emit_barrier(struct emit *e);
/* A part of the scratch (or prep) area, `offset` in bytes (multiple of 64), as an f32 operand. */
struct operand operand_part(const struct operand *whole, int64_t offset_bytes, int32_t stride);

static inline uint32_t ceil_div(int64_t a, int64_t b) { return (uint32_t)((a + b - 1) / b); }
