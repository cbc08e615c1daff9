// classes: gpu
// What the backward of attention needs per head and row. Grid: rows, heads. Operands: 0 o, 1 g, 2 lse.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/push.glsl"
#include "push/attn_delta.h"
#include "lib/tensor.glsl"
#include "lib/head.glsl"
layout(local_size_x = 64) in;
layout(constant_id = 2) const int DP = 10; // planes of a head
layout(push_constant) uniform Push { push_attn_delta p; };
layout(buffer_reference, std430, buffer_reference_align = 8) buffer Pair { vec2 v; };
void main() {
    int row = int(gl_GlobalInvocationID.x), head = int(gl_WorkGroupID.y);
    if (row >= p.rows) return;
    float delta = 0;
    for (int j = head * DP; j < (head + 1) * DP; j++)
        delta += dot(LOAD(0, p.o, j * p.o_stride + row), LOAD(1, p.g, j * p.g_stride + row));
    vec4 four = LOAD(2, p.lse, (head >> 2) * p.lse_stride + row);
    float lse = of_head(four, head);
    Pair(packUint2x32(p.pairs) + uint64_t(head * p.rows + row) * 8ul).v = vec2(lse * 1.4426950408889634, delta);
}
