// classes: cpu
#version 450
// Adds the slices that gemm_tn left, in order, and what is accumulated onto.
#extension GL_GOOGLE_include_directive : require
#include "lib/push.glsl"
#include "push/gemm_tn.h"
#include "lib/tensor.glsl"
layout(local_size_x_id = 0) in;
layout(constant_id = 2) const int SWAP = 0; // 1: the parts are transposed (their planes are y's rows)
layout(constant_id = 3) const int ACC = 0;
PUSH(push_tn_sum)

void main() {
    int plane = int(gl_WorkGroupID.y), tap = int(gl_WorkGroupID.z);
    int row = min(int(gl_GlobalInvocationID.x) * (SWAP == 1 ? 4 : 1), p.rows - 1);
    int from = int(p.part.x) + tap * p.tap_step;
    int at = tap % p.inner * p.y_step + tap / p.inner * p.y_outer;
    int to = at + plane * p.y_stride, acc = int(p.acc.x) + at + plane * p.acc_stride;
    if (SWAP == 0) {
        vec4 v = vec4(0);
        for (int s = 0; s < p.slices; s++) v += imageLoad(T0, from + s * p.slice_step + plane * p.part_stride + row);
        if (ACC == 1) v += imageLoad(T1, acc + row);
        STORE(2, p.y, to + row, v);
    } else {
        row &= ~3;
        vec4 v[4];
        [[unroll]] for (int j = 0; j < 4; j++) v[j] = vec4(0);
        for (int s = 0; s < p.slices; s++)
            [[unroll]] for (int j = 0; j < 4; j++)
                v[j] += imageLoad(T0, from + s * p.slice_step + row / 4 * p.part_stride + plane * 4 + j);
        [[unroll]] for (int i = 0; i < 4; i++) {
            vec4 u = vec4(v[0][i], v[1][i], v[2][i], v[3][i]);
            int r = min(row + i, p.rows - 1);
            if (ACC == 1) u += imageLoad(T1, acc + r);
            // Rows past the last are padding of y's plane unless y is a single row.
            if (row + i < p.rows) STORE(2, p.y, to + row + i, u);
        }
    }
}
