// classes: cpu
#version 450
// 3x3 weights {9,1,O,I} to {N*N,1,O,I}; a lane owns an output channel of one plane.
#extension GL_GOOGLE_include_directive : require
#include "lib/push.glsl"
#include "push/winograd.h"
#include "lib/tensor.glsl"
layout(local_size_x_id = 0) in;
#include "lib/winograd.glsl"
layout(constant_id = 3) const int FLIP = 0; // 1: taps reversed (gradient to the input)
PUSH(push_winograd)

void main() {
    int o = min(int(gl_GlobalInvocationID.x), p.rows - 1), plane = int(gl_WorkGroupID.y);
    int from = int(p.from.x) + plane * p.from_stride + o, to = plane * p.to_stride + o;
    vec4 d[18];
    [[unroll]] for (int x = 0; x < 3; x++) {
        vec4 column[6];
        [[unroll]] for (int y = 0; y < 3; y++) {
            int tap = y * 3 + x;
            column[y] = imageLoad(T0, from + (FLIP == 1 ? 8 - tap : tap) * p.rows);
        }
        transform_weight(column);
        [[unroll]] for (int y = 0; y < N; y++) d[y * 3 + x] = column[y];
    }
    [[unroll]] for (int y = 0; y < N; y++) {
        vec4 row[6];
        [[unroll]] for (int x = 0; x < 3; x++) row[x] = d[y * 3 + x];
        transform_weight(row);
        [[unroll]] for (int x = 0; x < N; x++) STORE(1, p.to, to + (y * N + x) * p.rows, row[x]);
    }
}
