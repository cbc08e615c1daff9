// classes: cpu gpu
// PASS 0: a workgroup per rank i adds over ranks j the products of the dot products of rows of down and columns of up.
// PASS 1: one workgroup makes the factor of it. PASS 2 and 3: down and up, times the factor.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/tensor.glsl"
#include "lib/push.glsl"
#include "lib/reduce.glsl"
#include "push/pair_norm.h"
layout(local_size_x = 64) in;
layout(constant_id = 2) const int PASS = 0;
PUSH(push_pair_norm)

float dot_down(int i, int j) {
    float sum = 0.0;
    for (int tap = 0; tap < p.taps; tap++)
        for (int plane = 0; plane < p.down_planes; plane++) {
            int at = plane * p.down_stride + tap * p.ranks;
            sum += dot(LOAD(0, p.down, at + i), LOAD(0, p.down, at + j));
        }
    return sum;
}

float dot_up(int i, int j) {
    float sum = 0.0;
    for (int row = 0; row < p.out_rows; row++)
        sum += LOAD(1, p.up, (i >> 2) * p.up_stride + row)[i & 3] * LOAD(1, p.up, (j >> 2) * p.up_stride + row)[j & 3];
    return sum;
}

void main() {
    int lane = int(gl_LocalInvocationID.x), group = int(gl_WorkGroupID.x);
    if (PASS >= 2) {
        int i = int(gl_GlobalInvocationID.x);
        float factor = LOAD(2, p.scratch, 0).x;
        if (i >= p.texels) return;
        if (PASS == 2) {
            STORE(8, p.out_ref, i, LOAD(0, p.down, i) * factor);
        } else {
            STORE(8, p.out_ref, i, LOAD(1, p.up, i) * factor);
        }
        return;
    }
    vec4 sum = vec4(0.0);
    if (PASS == 0)
        for (int j = lane; j < p.ranks; j += 64) sum.x += dot_down(group, j) * dot_up(group, j);
    else
        for (int i = lane; i < p.n_parts; i += 64) sum.x += LOAD(2, p.scratch, i).x;
    sum = group_sum(sum);
    if (lane > 0) return;
    float n = p.scale * sqrt(max(sum.x, 0.0));
    if (PASS == 1) sum.x = n > p.most ? sqrt(p.most / n) : 1.0;
    STORE(8, p.out_ref, PASS == 0 ? group : 0, sum);
}
