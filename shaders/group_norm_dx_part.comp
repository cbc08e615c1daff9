// classes: cpu gpu
// Per image and plane: sums over rows of the gradient before gamma, and of it times the normalised input.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/tensor.glsl"
#include "lib/push.glsl"
#include "lib/math.glsl"
#include "lib/reduce.glsl"
#include "push/group_norm.h"
layout(local_size_x = 64) in;
layout(constant_id = 2) const int SILU = 0;
PUSH(push_group_norm)
#include "lib/group_norm.glsl"

void main() {
    int plane = int(gl_WorkGroupID.x), n = int(gl_WorkGroupID.y), lane = int(gl_LocalInvocationID.x);
    vec4 mean, inv;
    plane_stats(plane, n, mean, inv);
    vec4 gamma = LOAD(3, p.gamma, plane), beta = LOAD(4, p.beta, plane), s1 = vec4(0.0), s2 = vec4(0.0);
    for (int r = lane; r < p.rows; r += 64) {
        vec4 xhat = (LOAD(0, p.x, plane * p.x_stride + n * p.rows + r) - mean) * inv;
        vec4 g = LOAD(1, p.g, plane * p.g_stride + n * p.rows + r);
        if (SILU != 0) g *= silu_slope4(xhat * gamma + beta);
        s1 += g;
        s2 += g * xhat;
    }
    s1 = group_sum(s1);
    s2 = group_sum(s2);
    if (lane < 2) STORE(8, p.partial, 2 * (n * p.planes + plane) + lane, lane == 0 ? s1 : s2);
}
