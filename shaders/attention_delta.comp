// classes: cpu
#version 450
// For the gradient: delta = sum over channels of o*g, and the forward pass's sum, per problem and row.
#extension GL_GOOGLE_include_directive : require
#include "lib/push.glsl"
#include "push/attention.h"
#include "lib/tensor.glsl"
layout(local_size_x_id = 0) in;
PUSH(push_attention)

void main() {
    int z = int(gl_WorkGroupID.y), row = min(int(gl_GlobalInvocationID.x), p.row_count - 1);
    int image = z / p.heads, head = z % p.heads, at = image * p.row_count + row;
    int o = int(p.o.x) + head * p.head_planes * p.o_stride + at, g = int(p.g.x) + head * p.head_planes * p.g_stride + at;
    vec4 sum = vec4(0);
    for (int d = 0; d < p.head_planes; d++) {
        sum += imageLoad(T0, o) * imageLoad(T1, g);
        o += p.o_stride;
        g += p.g_stride;
    }
    vec4 lse = imageLoad(T2, int(p.lse.x) + (head >> 2) * p.lse_stride + at);
    vec2 half_lse = (head & 2) == 0 ? lse.xy : lse.zw;
    float own = (head & 1) == 0 ? half_lse.x : half_lse.y;
    STORE(3, p.stats, z * p.stats_step + row, vec4(dot(sum, vec4(1)), own * 1.44269504, 0, 0));
}
