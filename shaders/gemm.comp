// classes: cpu
#version 450
// y = x*W' (+ bias + res) on lavapipe, and convolution as the same product over shifted rows. One subgroup
// makes R rows x 4W channels: a lane owns one output plane, x is broadcast by shuffles.
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "lib/push.glsl"
#include "push/gemm.h"
#include "lib/tensor.glsl"
layout(local_size_x_id = 0) in;
layout(constant_id = 2) const int R = 32;    // rows of the tile
layout(constant_id = 3) const int TRANS = 0; // 1: rows of w are contracted (gradient to the input)
layout(constant_id = 4) const int CONV = 0;  // 0: product, 1: convolution, 2: its gradient to the input
layout(constant_id = 5) const int RES = 0;   // 1: add res
layout(constant_id = 6) const int TAIL = 0;  // 1: the last plane is partly padding
layout(constant_id = 7) const int PACKED = 0; // 1: w as gemm_pack.comp lays it out
PUSH(push_gemm)
#include "lib/conv.glsl"
const int LANES = int(W);
const int FRAGS = (R + LANES - 1) / LANES;
const int PER_FRAG = R < LANES ? R : LANES;
const int QUADS = PER_FRAG < 4 ? 1 : PER_FRAG / 4;

void main() {
    int lane = int(gl_SubgroupInvocationID), row0 = int(p.rows_first == 1 ? gl_WorkGroupID.x : gl_WorkGroupID.y) * R;
    int zi = int(gl_WorkGroupID.z) % p.inner, zo = int(gl_WorkGroupID.z) / p.inner;
    // Lanes past the last plane and rows past the last repeat it: the same values to the same place.
    int tile = int(p.rows_first == 1 ? gl_WorkGroupID.y : gl_WorkGroupID.x);
    int plane = min(tile * LANES + lane, p.n4 - 1);
    int x_base = int(p.x.x) + zi * p.x_step + zo * p.x_outer;
    int w_product = int(p.w.x) + zi * p.w_step + zo * p.w_outer;
    int w_base = w_product + (TRANS == 1 ? plane * p.w_stride : plane * 4);
    int w_next = TRANS == 1 ? 4 : p.w_stride, w_texel = 1;
    ivec3 at[FRAGS];
    int taps = 1, steps = 1;
    if (CONV != 0) {
        [[unroll]] for (int f = 0; f < FRAGS; f++) at[f] = conv_pixel(min(row0 + f * LANES + lane, p.rows - 1));
        taps = conv_taps();
        steps = taps << (CONV == 2 ? 2 * hi16(p.pad_up) : 0);
    }
    if (PACKED == 1) { // a round's texels of a tile lie together, and the rounds one after the other
        w_base = w_product + tile * taps * p.w_rows + plane - tile * LANES;
        w_next = 4 * LANES;
        w_texel = LANES;
    }
    vec4 acc[R];
    [[unroll]] for (int r = 0; r < R; r++) acc[r] = vec4(0);
    for (int s = 0; s < steps; s++) {
        int tap = s % taps;
        int o[FRAGS], next[FRAGS];
        vec4 a[FRAGS];
        [[unroll]] for (int f = 0; f < FRAGS; f++) {
            o[f] = x_base + min(row0 + f * LANES + lane, p.rows - 1);
            next[f] = p.x_stride;
            if (CONV != 0) {
                int row = CONV == 1 ? conv_row(at[f], tap) : conv_gradient_row(at[f], tap, s / taps);
                o[f] = row < 0 ? 0 : x_base + row; // texel 0 of every view is zero
                next[f] = row < 0 ? 0 : p.x_stride;
            }
            a[f] = imageLoad(T0, o[f]);
        }
        int b = w_base + tap * p.w_rows;
        for (int k = 0; k < p.k4; k++) {
            vec4 bv[4];
            [[unroll]] for (int c = 0; c < 4; c++) bv[c] = imageLoad(T1, b + c * w_texel);
            [[unroll]] for (int f = 0; f < FRAGS; f++) {
                o[f] += next[f];
                vec4 ahead = imageLoad(T0, o[f]); // of the next round, so that its latency hides; unused after the last
                // Lanes a quad apart follow each other: their broadcasts share an instruction.
                [[unroll]] for (int n = 0; n < PER_FRAG; n++) {
                    int i = PER_FRAG < 4 ? n : n % QUADS * 4 + n / QUADS;
                    vec4 sum = acc[f * LANES + i]; // one use of acc a round: it lives in memory
                    [[unroll]] for (int c = 0; c < 4; c++) {
                        vec4 bb = TRANS == 1 ? bv[c] : vec4(bv[0][c], bv[1][c], bv[2][c], bv[3][c]);
                        sum += subgroupShuffle(a[f][c], uint(i)) * bb; // term by term as gemm_tall: the same bytes at any batch
                    }
                    acc[f * LANES + i] = sum;
                }
                a[f] = ahead;
            }
            b += w_next;
        }
    }
    vec4 bias = imageLoad(T2, int(p.bias.x) + plane * p.bias_stride);
    bvec4 keep = lessThan(ivec4(0, 1, 2, 3), ivec4(plane == p.n4 - 1 ? p.n_tail : 4));
    int y0 = zi * p.y_step + zo * p.y_outer + plane * p.y_stride, r0 = int(p.res.x) + plane * p.res_stride;
    // All of res is read before any of y is stored: they may be one, and rows past the last repeat it.
    [[unroll]] for (int r = 0; r < R; r++) {
        acc[r] += bias;
        if (RES == 1) acc[r] += imageLoad(T3, r0 + min(row0 + r, p.rows - 1));
        if (TAIL == 1) acc[r] = mix(vec4(0), acc[r], keep);
    }
    [[unroll]] for (int r = 0; r < R; r++) STORE(4, p.y, y0 + min(row0 + r, p.rows - 1), acc[r]);
}
