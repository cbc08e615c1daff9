// classes: cpu gpu
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/tensor.glsl"
#include "lib/push.glsl"
#include "lib/reduce.glsl"
#include "push/row_sum.h"
layout(local_size_x = 64) in;
PUSH(push_row_sum)

void main() {
    int plane = int(gl_WorkGroupID.x), n = int(gl_WorkGroupID.y), lane = int(gl_LocalInvocationID.x);
    vec4 sum = vec4(0.0);
    for (int r = lane; r < p.rows; r += 64) sum += LOAD(0, p.x, plane * p.x_stride + n * p.rows + r);
    sum = group_sum(sum);
    if (lane == 0) STORE(8, p.y, plane * p.y_stride + n, sum);
}
