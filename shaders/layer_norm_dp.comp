// classes: cpu gpu
// dgamma and dbeta (address 0: not wanted): sums over rows, one workgroup a plane.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/tensor.glsl"
#include "lib/push.glsl"
#include "lib/reduce.glsl"
#include "push/layer_norm.h"
layout(local_size_x = 64) in;
PUSH(push_layer_norm)

void main() {
    int plane = int(gl_WorkGroupID.x), lane = int(gl_LocalInvocationID.x);
    vec4 dgamma = vec4(0.0), dbeta = vec4(0.0);
    for (int r = lane; r < p.rows; r += 64) {
        vec4 s = LOAD(2, p.stats, r), g = LOAD(1, p.g, plane * p.g_stride + r);
        dgamma += g * (LOAD(0, p.x, plane * p.x_stride + r) - s.x) * s.y;
        dbeta += g;
    }
    dgamma = group_sum(dgamma);
    dbeta = group_sum(dbeta);
    if (lane == 0) {
        if (p.y != uvec2(0)) STORE(8, p.y, plane, dgamma);
        if (p.y2 != uvec2(0)) STORE(9, p.y2, plane, dbeta);
    }
}
