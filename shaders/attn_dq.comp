// classes: gpu
// Gradient of attention to the queries, scores recomputed. Grid: query tiles, heads, images.
// Operands: 0 q, 1 k, 2 v, 3 g, 4 dq.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/push.glsl"
#include "push/attn_grad.h"
#include "lib/tensor.glsl"
layout(local_size_x = 128) in;
layout(constant_id = 2) const int RQ = 4;  // query rows of an invocation
layout(constant_id = 3) const int DP = 10; // planes of a head
layout(constant_id = 4) const int RP = 2;  // result planes of an invocation
#define ACCS 1
#include "lib/flash.glsl"
layout(push_constant) uniform Push { push_attn_grad p; };
layout(buffer_reference, std430, buffer_reference_align = 8) buffer Pair { vec2 v; };

void main() {
    const int tq = lane_tq(), tg = lane_tg();
    const int head = int(gl_WorkGroupID.y), image = int(gl_WorkGroupID.z), q0 = first_row();
    side q = side_of(p.q, p.q_stride, p.q_rows, head, image);
    side k = side_of(p.k, p.k_stride, p.k_rows, head, image);
    side v = side_of(p.v, p.v_stride, p.k_rows, head, image);
    side g = side_of(p.g, p.g_stride, p.q_rows, head, image);

    vec2 pair[RQ]; // lse in log2, sum of g*o
    [[unroll]] for (int i = 0; i < RQ; i++) {
        int row = min(q0 + tq + 16 * i, p.q_rows - 1);
        pair[i] = Pair(packUint2x32(p.pairs) + uint64_t((head * p.n + image) * p.q_rows + row) * 8ul).v;
    }
    acc_clear();

    int k_end = p.causal != 0 ? min(p.k_rows, q0 + BQ) : p.k_rows;
    for (int k0 = 0; k0 < k_end; k0 += BK) {
        vec4 s[RQ];
        tile_dot(0, q, q0, 1, k, k0);
        [[unroll]] for (int i = 0; i < RQ; i++) s[i] = score[i];
        tile_dot(3, g, q0, 2, v, k0);
        barrier();
        [[unroll]] for (int i = 0; i < RQ; i++) {
            int last = p.causal != 0 ? min(p.k_rows - 1, q0 + tq + 16 * i) : p.k_rows - 1;
            [[unroll]] for (int j = 0; j < 4; j++) {
                float e = exp2(s[i][j] * (p.scale * 1.4426950408889634) - pair[i].x);
                s[i][j] = k0 + 4 * tg + j <= last ? e * (score[i][j] - pair[i].y) * p.scale : 0.0;
            }
            tile_put(i, s[i]);
        }
        tile_accumulate(0, 1, k, k0);
    }
    [[unroll]] for (int i = 0; i < RQ; i++) {
        int row = q0 + tq + 16 * i;
        [[unroll]] for (int j = 0; j < RP; j++) {
            int plane = plane_of(j);
            if (plane < DP && row < p.q_rows)
                STORE(4, p.y0, (head * DP + plane) * p.y0_stride + image * p.q_rows + row, acc[i * RP + j]);
        }
    }
}
