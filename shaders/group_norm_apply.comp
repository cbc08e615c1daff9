// classes: cpu gpu
// y = (x - mean)/std * gamma + beta, then SiLU if asked. A workgroup takes 512 rows of one plane.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/tensor.glsl"
#include "lib/push.glsl"
#include "lib/math.glsl"
#include "push/group_norm.h"
layout(local_size_x = 64) in;
layout(constant_id = 2) const int SILU = 0;
PUSH(push_group_norm)
#include "lib/group_norm.glsl"

void main() {
    int plane = int(gl_WorkGroupID.y), n = int(gl_WorkGroupID.z), lane = int(gl_LocalInvocationID.x);
    vec4 mean, inv;
    plane_stats(plane, n, mean, inv);
    vec4 scale = inv * LOAD(3, p.gamma, plane), shift = LOAD(4, p.beta, plane);
    int first = int(gl_WorkGroupID.x) * 512 + lane, last = min(int(gl_WorkGroupID.x) * 512 + 512, p.rows);
    for (int r = first; r < last; r += 64) {
        vec4 y = (LOAD(0, p.x, plane * p.x_stride + n * p.rows + r) - mean) * scale + shift;
        if (SILU != 0) y = silu4(y);
        STORE(8, p.y, plane * p.y_stride + n * p.rows + r, y);
    }
}
