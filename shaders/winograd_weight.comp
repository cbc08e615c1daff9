// classes: cpu
#version 450
// 3x3 weights {9,1,O,I} to {N*N,1,O,I}, or to N*N weights as gemm_pack.comp lays them out; a lane owns an output channel
// of one plane.
#extension GL_GOOGLE_include_directive : require
#include "lib/push.glsl"
#include "push/winograd.h"
#include "lib/tensor.glsl"
layout(local_size_x_id = 0) in;
#include "lib/winograd.glsl"
layout(constant_id = 3) const int FLIP = 0;   // 1: taps reversed (gradient to the input)
layout(constant_id = 4) const int PACKED = 0; // 1: as gemm.comp (PACKED) reads it
PUSH(push_winograd)

// Texel of channel o, plane. The product contracts planes; the gradient's (FLIP) rows, and writes planes.
int packed_texel(int o, int plane) {
    int lanes = int(W), row = FLIP == 1 ? plane : o >> 2, k = FLIP == 1 ? o >> 2 : plane;
    return ((row / lanes * p.planes + k) * 4 + (o & 3)) * lanes + row % lanes;
}

void main() {
    int last = PACKED == 1 ? p.rows - 1 | 3 : p.rows - 1; // packed, four channels lie together: those past the last are zero
    int o = min(int(gl_GlobalInvocationID.x), last), plane = int(gl_WorkGroupID.y);
    int from = int(p.from.x) + plane * p.from_stride + min(o, p.rows - 1);
    int to = PACKED == 1 ? packed_texel(o, plane) : plane * p.to_stride + o;
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
        [[unroll]] for (int x = 0; x < N; x++)
            STORE(1, p.to, to + (y * N + x) * p.step, PACKED == 1 && o >= p.rows ? vec4(0) : row[x]);
    }
}
