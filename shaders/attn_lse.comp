// classes: gpu
// Gathers four heads' log-sums into a texel. Grid: rows, planes. Operand: 0 lse.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/push.glsl"
#include "push/attn_lse.h"
#include "lib/tensor.glsl"
layout(local_size_x = 64) in;
layout(push_constant) uniform Push { push_attn_lse p; };
layout(buffer_reference, std430, buffer_reference_align = 4) buffer Scalar { float v; };
void main() {
    int row = int(gl_GlobalInvocationID.x), plane = int(gl_WorkGroupID.y);
    if (row >= p.rows) return;
    vec4 v = vec4(0);
    [[unroll]] for (int c = 0; c < 4; c++)
        if (plane * 4 + c < p.heads)
            v[c] = Scalar(packUint2x32(p.from) + uint64_t((plane * 4 + c) * p.rows + row) * 4ul).v;
    STORE(0, p.lse, plane * p.lse_stride + row, v);
}
