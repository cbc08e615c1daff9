// classes: gpu
// Attention with a running softmax: no score leaves the workgroup. Grid: query tiles, heads, images.
// Operands: 0 q, 1 k, 2 v, 3 o.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/push.glsl"
#include "push/attn_flash.h"
#include "lib/tensor.glsl"
layout(local_size_x = 128) in;
layout(constant_id = 2) const int RQ = 4;  // query rows of an invocation
layout(constant_id = 3) const int DP = 10; // planes of a head
layout(constant_id = 4) const int RP = 2;  // result planes of an invocation
#define ACCS 1
#include "lib/flash.glsl"
layout(push_constant) uniform Push { push_attn_flash p; };
layout(buffer_reference, std430, buffer_reference_align = 4) buffer Scalar { float v; };
shared float rows_red[BQ * 9];

const float NEVER = -1e30;

void main() {
    const int tq = lane_tq(), tg = lane_tg();
    const int head = int(gl_WorkGroupID.y), image = int(gl_WorkGroupID.z), q0 = first_row();
    side q = side_of(p.q, p.q_stride, p.q_rows, head, image);
    side k = side_of(p.k, p.k_stride, p.k_rows, head, image);
    side v = side_of(p.v, p.v_stride, p.k_rows, head, image);

    float top[RQ], total[RQ]; // total: this invocation's columns only, until the end
    acc_clear();
    [[unroll]] for (int i = 0; i < RQ; i++) { top[i] = NEVER; total[i] = 0; }

    int k_end = p.causal != 0 ? min(p.k_rows, q0 + BQ) : p.k_rows;
    for (int k0 = 0; k0 < k_end; k0 += BK) {
        tile_dot(0, q, q0, 1, k, k0);
        [[unroll]] for (int i = 0; i < RQ; i++) {
            int last = p.causal != 0 ? min(p.k_rows - 1, q0 + tq + 16 * i) : p.k_rows - 1;
            [[unroll]] for (int j = 0; j < 4; j++) score[i][j] = k0 + 4 * tg + j <= last ? score[i][j] * p.scale : NEVER;
            rows_red[(tq + 16 * i) * 9 + tg] = max(max(score[i].x, score[i].y), max(score[i].z, score[i].w));
        }
        barrier();
        [[unroll]] for (int i = 0; i < RQ; i++) {
            float m = top[i];
            [[unroll]] for (int j = 0; j < 8; j++) m = max(m, rows_red[(tq + 16 * i) * 9 + j]);
            float keep = exp2(top[i] - m);
            score[i] = exp2(score[i] - m);
            total[i] = total[i] * keep + dot(score[i], vec4(1));
            top[i] = m;
            tile_put(i, score[i]);
            [[unroll]] for (int j = 0; j < RP; j++) acc[i * RP + j] *= keep;
        }
        tile_accumulate(0, 2, v, k0);
    }

    barrier();
    [[unroll]] for (int i = 0; i < RQ; i++) rows_red[(tq + 16 * i) * 9 + tg] = total[i];
    barrier();
    [[unroll]] for (int i = 0; i < RQ; i++) {
        float sum = 0;
        [[unroll]] for (int j = 0; j < 8; j++) sum += rows_red[(tq + 16 * i) * 9 + j];
        int row = q0 + tq + 16 * i;
        if (row >= p.q_rows) continue;
        [[unroll]] for (int j = 0; j < RP; j++) {
            int plane = plane_of(j);
            if (plane < DP)
                STORE(3, p.o, (head * DP + plane) * p.o_stride + image * p.q_rows + row, acc[i * RP + j] / sum);
        }
        if (plane_of(0) == 0 && (p.lse.x | p.lse.y) != 0u) {
            // Four heads share a texel: each workgroup stores its own float, the last one the padding too.
            uint64_t at = packUint2x32(p.lse) + uint64_t((head >> 2) * p.lse_stride + image * p.q_rows + row) * 16ul;
            Scalar(at + uint64_t(head & 3) * 4ul).v = (top[i] + log2(sum)) * 0.6931471805599453;
            if (head + 1 == int(gl_NumWorkGroups.y))
                for (int c = (head & 3) + 1; c < 4; c++) Scalar(at + uint64_t(c) * 4ul).v = 0.0;
        }
    }
}
