// classes: cpu gpu
// Per image and plane: mean and sum of squared deviations per channel (two passes: no cancellation).
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/tensor.glsl"
#include "lib/push.glsl"
#include "lib/reduce.glsl"
#include "push/group_norm.h"
layout(local_size_x = 64) in;
PUSH(push_group_norm)

void main() {
    int plane = int(gl_WorkGroupID.x), n = int(gl_WorkGroupID.y), lane = int(gl_LocalInvocationID.x);
    int base = plane * p.x_stride + n * p.rows;
    vec4 sum = vec4(0.0);
    for (int r = lane; r < p.rows; r += 64) sum += LOAD(0, p.x, base + r);
    vec4 mean = group_sum(sum) / float(p.rows);
    vec4 square = vec4(0.0);
    for (int r = lane; r < p.rows; r += 64) {
        vec4 d = LOAD(0, p.x, base + r) - mean;
        square += d * d;
    }
    square = group_sum(square);
    if (lane < 2) STORE(8, p.partial, 2 * (n * p.planes + plane) + lane, lane == 0 ? mean : square);
}
