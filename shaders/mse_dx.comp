// classes: cpu gpu
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/tensor.glsl"
#include "lib/push.glsl"
#include "push/mse.h"
layout(local_size_x = 64) in;
PUSH(push_mse)

void main() {
    int row = int(gl_GlobalInvocationID.x), plane = int(gl_WorkGroupID.y);
    if (row >= p.rows * p.n) return;
    float seed = LOAD(2, p.seed, row / p.rows).x * p.scale;
    vec4 d = LOAD(0, p.a, plane * p.a_stride + row) - LOAD(1, p.b, plane * p.b_stride + row);
    STORE(8, p.y, plane * p.y_stride + row, d * seed);
}
