// classes: cpu
#version 450
// y = a'b over rows (weight gradients). One subgroup makes R channels of a x 4W channels of b: a lane owns
// one plane of b; four rows of all R channels of a come in with one texel per lane and are broadcast.
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "lib/push.glsl"
#include "push/gemm_tn.h"
#include "lib/tensor.glsl"
layout(local_size_x_id = 0) in;
layout(constant_id = 2) const int R = 32;   // channels of a in the tile, a multiple of 4
layout(constant_id = 3) const int CONV = 0; // 1: rows of b are read through a convolution's tap
PUSH(push_gemm_tn)
#include "lib/conv.glsl"
const int LANES = int(W);
const int PLANES = LANES / 4;                     // planes of a that one load covers
const int LOADS = (R / 4 + PLANES - 1) / PLANES;

void main() {
    int lane = int(gl_SubgroupInvocationID), tap = int(gl_WorkGroupID.z) % p.taps;
    int first = int(gl_WorkGroupID.z) / p.taps * p.slice_rows, last = min(first + p.slice_rows, p.rows);
    // Lanes past the last plane repeat it.
    int plane = min(int(gl_WorkGroupID.x) * LANES + lane, p.b4 - 1), channel0 = int(gl_WorkGroupID.y) * R;
    int zi = tap % p.inner, zo = tap / p.inner;
    int a[LOADS], a_base = int(p.a.x) + zi * p.a_step + zo * p.a_outer + first + lane % 4;
    int b = int(p.b.x) + zi * p.b_step + zo * p.b_outer + plane * p.b_stride;
    [[unroll]] for (int l = 0; l < LOADS; l++)
        a[l] = a_base + min(channel0 / 4 + l * PLANES + lane / 4, p.a4 - 1) * p.a_stride;
    ivec3 at[4];
    if (CONV == 1) [[unroll]] for (int c = 0; c < 4; c++) at[c] = conv_pixel(first + c);
    vec4 acc[R];
    [[unroll]] for (int r = 0; r < R; r++) acc[r] = vec4(0);
    for (int m = first; m < last; m += 4) {
        vec4 av[LOADS], bv[4];
        // Rows past the last hold garbage: texel 0 of every view is zero.
        [[unroll]] for (int l = 0; l < LOADS; l++) {
            av[l] = imageLoad(T0, m + lane % 4 < last ? a[l] : 0);
            a[l] += 4;
        }
        [[unroll]] for (int c = 0; c < 4; c++) {
            int row = m + c;
            if (CONV == 1) {
                row = conv_row(at[c], tap);
                at[c] += ivec3(p.four_n, p.four_y, p.four_x);
                bool over = at[c].z >= hi16(p.dst_hw);
                at[c].yz += over ? ivec2(1, -hi16(p.dst_hw)) : ivec2(0);
                over = at[c].y >= lo16(p.dst_hw);
                at[c].xy += over ? ivec2(1, -lo16(p.dst_hw)) : ivec2(0);
            }
            bv[c] = imageLoad(T1, row >= 0 && m + c < last ? b + row : 0);
        }
        [[unroll]] for (int r = 0; r < R; r++)
            [[unroll]] for (int c = 0; c < 4; c++)
                acc[r] += subgroupShuffle(av[r / 4 / PLANES][r & 3], uint(r / 4 % PLANES * 4 + c)) * bv[c];
    }
    int y0 = int(gl_WorkGroupID.z) * p.y_step + plane * p.y_stride + channel0;
    [[unroll]] for (int r = 0; r < R; r++) STORE(4, p.y, y0 + r, acc[r]);
}
