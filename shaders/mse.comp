// classes: cpu gpu
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/tensor.glsl"
#include "lib/push.glsl"
#include "lib/reduce.glsl"
#include "push/mse.h"
layout(local_size_x = 64) in;
PUSH(push_mse)

void main() {
    int n = int(gl_WorkGroupID.x), lane = int(gl_LocalInvocationID.x);
    vec4 sum = vec4(0.0);
    for (int k = 0; k < p.planes; k++)
        for (int r = lane; r < p.rows; r += 64) {
            vec4 d = LOAD(0, p.a, k * p.a_stride + n * p.rows + r) - LOAD(1, p.b, k * p.b_stride + n * p.rows + r);
            sum += d * d;
        }
    sum = group_sum(sum);
    if (lane == 0) STORE(8, p.y, n, vec4(dot(sum, vec4(1.0)) * p.scale, 0.0, 0.0, 0.0));
}
