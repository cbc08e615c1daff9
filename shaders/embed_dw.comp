// classes: cpu gpu
// One invocation per table row and plane gathers the gradients of its tokens: no atomics, fixed order.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/tensor.glsl"
#include "lib/push.glsl"
#include "push/embed.h"
layout(local_size_x = 64) in;
PUSH(push_embed)

void main() {
    int id = int(gl_GlobalInvocationID.x), plane = int(gl_WorkGroupID.y);
    if (id >= p.vocabulary) return;
    vec4 sum = vec4(0.0);
    for (int r = 0; r < p.rows; r++)
        if (int(LOAD(0, p.ids, r).x) == id) sum += LOAD(1, p.table, plane * p.table_stride + r);
    STORE(8, p.y, plane * p.y_stride + id, sum);
}
