// classes: gpu
// Weight gradients: y = a' b summed over rows, for a convolution once per tap with b's rows gathered.
// A workgroup of 128 makes 32*TA rows of y (channels of a) x 64*TB channels (of b); an invocation
// 4*TA x 4*TB. Each z slice sums its own rows. Operands: 0 a, 1 b, 2 acc, 3 y.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/push.glsl"
#include "push/gemm_tn_tiled.h"
#include "lib/tensor.glsl"
layout(local_size_x = 128) in;
layout(constant_id = 2) const int TA = 2;
layout(constant_id = 3) const int TB = 1;
layout(constant_id = 4) const int GATHER = 0;
layout(constant_id = 5) const int KSIZE = 1;
layout(constant_id = 6) const int STRIDE = 1;
layout(constant_id = 7) const int UP = 0;
layout(constant_id = 8) const int EPILOGUE = 0; // bit 1: acc
const int DX = 0;
#include "lib/gather.glsl"
layout(push_constant) uniform Push { push_gemm_tn_tiled p; };

const int BR = 16;      // rows per step
const int PITCH = BR + 1; // keeps reads across planes off one bank
shared vec4 as[8 * TA * PITCH];
shared vec4 bs[16 * TB * PITCH];

void main() {
    const int t = int(gl_LocalInvocationID.x);
    const int a0 = int(gl_WorkGroupID.x) * 8 * TA, b0 = int(gl_WorkGroupID.y) * 16 * TB; // planes
    const int tap = int(gl_WorkGroupID.z) / p.slices, slice = int(gl_WorkGroupID.z) - tap * p.slices;
    const int a_planes = (p.a_channels + 3) / 4, b_planes = (p.b_channels + 3) / 4;
    const int first = slice * p.slice_rows, last = min(first + p.slice_rows, p.rows);
    const int r = t & 15, q = t >> 4; // staging: row, first plane
    const int tb = t & 15, ta = t >> 4;

    vec4 acc[TA * TB * 4];
    [[unroll]] for (int i = 0; i < TA * TB * 4; i++) acc[i] = vec4(0);

    for (int r0 = first; r0 < last; r0 += BR) {
        int row = r0 + r, from = row < last ? row : -1;
        [[unroll]] for (int i = 0; i < TA; i++) {
            int plane = a0 + q + 8 * i;
            as[(q + 8 * i) * PITCH + r] = from >= 0 && plane < a_planes ? LOAD(0, p.a, plane * p.a_stride + row) : vec4(0);
        }
        if (GATHER != 0 && from >= 0)
            from = source_row(pixel_of(row, ivec2(p.dst_h, p.dst_w)), tap, ivec2(p.src_h, p.src_w), p.pad);
        [[unroll]] for (int i = 0; i < 2 * TB; i++) {
            int plane = b0 + q + 8 * i;
            bs[(q + 8 * i) * PITCH + r] = from >= 0 && plane < b_planes ? LOAD(1, p.b, plane * p.b_stride + from) : vec4(0);
        }
        barrier();
        [[unroll]] for (int k = 0; k < BR; k++) {
            vec4 b[TB];
            [[unroll]] for (int j = 0; j < TB; j++) b[j] = bs[(tb + 16 * j) * PITCH + k];
            [[unroll]] for (int i = 0; i < TA; i++) {
                vec4 a = as[(ta + 8 * i) * PITCH + k];
                [[unroll]] for (int j = 0; j < TB; j++) {
                    [[unroll]] for (int c = 0; c < 4; c++) {
                        int at = (i * TB + j) * 4 + c;
                        acc[at] = fma(vec4(a[c]), b[j], acc[at]);
                    }
                }
            }
        }
        barrier();
    }

    [[unroll]] for (int i = 0; i < TA; i++) {
        [[unroll]] for (int c = 0; c < 4; c++) {
            int o = (a0 + ta + 8 * i) * 4 + c;
            if (o >= p.a_channels) continue; // the next rows belong to the next tap
            [[unroll]] for (int j = 0; j < TB; j++) {
                int plane = b0 + tb + 16 * j, row = tap * p.a_channels + o;
                if (plane >= b_planes) continue;
                vec4 v = acc[(i * TB + j) * 4 + c];
                if ((EPILOGUE & 2) != 0) v += LOAD(2, p.acc, plane * p.acc_stride + row);
                STORE(3, p.y, (slice * b_planes + plane) * p.y_stride + row, v);
            }
        }
    }
}
