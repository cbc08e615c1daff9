// classes: gpu
// Gradients of attention to keys and values, scores recomputed transposed: the row tile is keys, the
// column tile queries. Grid: key tiles, heads, images * query slices; slice s of a result lies
// heads*DP planes after slice s-1. Operands: 0 q, 1 k, 2 v, 3 g, 4 dk, 5 dv.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/push.glsl"
#include "push/attn_grad.h"
#include "lib/tensor.glsl"
layout(local_size_x = 128) in;
layout(constant_id = 2) const int RQ = 2;  // key rows of an invocation
layout(constant_id = 3) const int DP = 10; // planes of a head
layout(constant_id = 4) const int RP = 2;  // result planes of an invocation
layout(constant_id = 5) const int WANT = 3; // bit 0 dk, bit 1 dv
#define ACCS 2
#include "lib/flash.glsl"
layout(push_constant) uniform Push { push_attn_grad p; };
layout(buffer_reference, std430, buffer_reference_align = 8) buffer Pair { vec2 v; };

void main() {
    const int tq = lane_tq(), tg = lane_tg();
    const int head = int(gl_WorkGroupID.y), k0 = first_row();
    const int slice = int(gl_WorkGroupID.z) / p.n, image = int(gl_WorkGroupID.z) - slice * p.n;
    side q = side_of(p.q, p.q_stride, p.q_rows, head, image);
    side k = side_of(p.k, p.k_stride, p.k_rows, head, image);
    side v = side_of(p.v, p.v_stride, p.k_rows, head, image);
    side g = side_of(p.g, p.g_stride, p.q_rows, head, image);

    acc_clear(); // first dk, then dv

    int q_begin = slice * p.slice_rows, q_end = min(q_begin + p.slice_rows, p.q_rows);
    if (p.causal != 0) q_begin = max(q_begin, k0 / BK * BK);
    for (int q0 = q_begin; q0 < q_end; q0 += BK) {
        vec4 s[RQ];
        tile_dot(1, k, k0, 0, q, q0);
        [[unroll]] for (int i = 0; i < RQ; i++) s[i] = score[i];
        if ((WANT & 1) != 0) tile_dot(2, v, k0, 3, g, q0);
        [[unroll]] for (int j = 0; j < 4; j++) {
            int column = q0 + 4 * tg + j, row = min(column, p.q_rows - 1);
            vec2 pair = Pair(packUint2x32(p.pairs) + uint64_t((head * p.n + image) * p.q_rows + row) * 8ul).v;
            [[unroll]] for (int i = 0; i < RQ; i++) {
                bool live = column < p.q_rows && (p.causal == 0 || k0 + tq + 16 * i <= column);
                s[i][j] = live ? exp2(s[i][j] * (p.scale * 1.4426950408889634) - pair.x) : 0.0;
                if ((WANT & 1) != 0) score[i][j] = s[i][j] * (score[i][j] - pair.y) * p.scale;
            }
        }
        if ((WANT & 2) != 0) {
            barrier();
            [[unroll]] for (int i = 0; i < RQ; i++) tile_put(i, s[i]);
            tile_accumulate(1, 3, g, q0);
        }
        if ((WANT & 1) != 0) {
            barrier();
            [[unroll]] for (int i = 0; i < RQ; i++) tile_put(i, score[i]);
            tile_accumulate(0, 0, q, q0);
        }
    }
    [[unroll]] for (int i = 0; i < RQ; i++) {
        int row = k0 + tq + 16 * i;
        [[unroll]] for (int j = 0; j < RP; j++) {
            int plane = (slice * int(gl_NumWorkGroups.y) + head) * DP + plane_of(j);
            if (plane_of(j) >= DP || row >= p.k_rows) continue;
            if ((WANT & 1) != 0) STORE(4, p.y0, plane * p.y0_stride + image * p.k_rows + row, acc[i * RP + j]);
            if ((WANT & 2) != 0) STORE(5, p.y1, plane * p.y1_stride + image * p.k_rows + row, acc[RQ * RP + i * RP + j]);
        }
    }
}
