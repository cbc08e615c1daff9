// classes: cpu gpu
// dx = (gamma*g' - a - xhat*b)/std with the group means a, b of the pass before (in partial, bound at T5).
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
    int size = p.channels / p.groups;
    vec4 mean, inv, a, b, gamma = LOAD(3, p.gamma, plane), beta = LOAD(4, p.beta, plane);
    plane_stats(plane, n, mean, inv);
    [[unroll]] for (int i = 0; i < 4; i++) {
        int group = min((4 * plane + i) / size, p.groups - 1);
        vec4 m = LOAD(5, p.partial, group / 2 * p.n + n);
        a[i] = (group & 1) == 0 ? m.x : m.z;
        b[i] = (group & 1) == 0 ? m.y : m.w;
        if (4 * plane + i >= p.channels) inv[i] = 0.0;
    }
    int first = int(gl_WorkGroupID.x) * 512 + lane, last = min(int(gl_WorkGroupID.x) * 512 + 512, p.rows);
    for (int r = first; r < last; r += 64) {
        vec4 xhat = (LOAD(0, p.x, plane * p.x_stride + n * p.rows + r) - mean) * inv;
        vec4 g = LOAD(1, p.g, plane * p.g_stride + n * p.rows + r);
        if (SILU != 0) g *= silu_slope4(xhat * gamma + beta);
        STORE(8, p.y, plane * p.y_stride + n * p.rows + r, (gamma * g - a - xhat * b) * inv);
    }
}
