// classes: cpu
#version 450
// The op's second output from the per-problem sums: natural logarithms, four heads to a texel.
#extension GL_GOOGLE_include_directive : require
#include "lib/push.glsl"
#include "push/attention.h"
#include "lib/tensor.glsl"
layout(local_size_x_id = 0) in;
PUSH(push_attention)

void main() {
    int row = min(int(gl_GlobalInvocationID.x), p.row_count - 1), plane = int(gl_WorkGroupID.y), image = int(gl_WorkGroupID.z);
    vec4 v = vec4(0);
    [[unroll]] for (int j = 0; j < 4; j++) {
        int head = min(plane * 4 + j, p.heads - 1);
        float sum = imageLoad(T0, int(p.stats.x) + (image * p.heads + head) * p.stats_step + row).y;
        v[j] = plane * 4 + j < p.heads ? sum * 0.69314718 : 0;
    }
    STORE(1, p.lse, plane * p.lse_stride + image * p.row_count + row, v);
}
