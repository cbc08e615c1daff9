// classes: cpu
#version 450
// gemm.comp for few output channels (adapter ranks, image outputs): here a lane owns F rows and the weight
// is broadcast, so that one subgroup makes F*W rows x 4*NP channels and no lane is idle.
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "lib/push.glsl"
#include "push/gemm.h"
#include "lib/tensor.glsl"
layout(local_size_x_id = 0) in;
layout(constant_id = 2) const int F = 4;     // rows per lane
layout(constant_id = 3) const int TRANS = 0; // as in gemm.comp
layout(constant_id = 4) const int CONV = 0;
layout(constant_id = 5) const int RES = 0;
layout(constant_id = 6) const int TAIL = 0;
layout(constant_id = 7) const int NP = 4; // output planes
PUSH(push_gemm)
#include "lib/conv.glsl"
const int LANES = int(W);
const int LOADS = (4 * NP + LANES - 1) / LANES; // texels of w per lane and step

void main() {
    int lane = int(gl_SubgroupInvocationID), plane0 = int(gl_WorkGroupID.x) * NP;
    int zi = int(gl_WorkGroupID.z) % p.inner, zo = int(gl_WorkGroupID.z) / p.inner;
    int x_base = int(p.x.x) + zi * p.x_step + zo * p.x_outer, y_base = zi * p.y_step + zo * p.y_outer;
    int rows[F], taps = 1, steps = 1;
    ivec3 at[F];
    // Lanes past the last row repeat it.
    [[unroll]] for (int f = 0; f < F; f++) rows[f] = min((int(gl_WorkGroupID.y) * F + f) * LANES + lane, p.rows - 1);
    if (CONV != 0) {
        [[unroll]] for (int f = 0; f < F; f++) at[f] = conv_pixel(rows[f]);
        taps = conv_taps();
        steps = taps << (CONV == 2 ? 2 * hi16(p.pad_up) : 0);
    }
    int w_base[LOADS];
    [[unroll]] for (int l = 0; l < LOADS; l++) {
        int e = min(plane0 * 4 + l * LANES + lane, p.n4 * 4 - 1); // output channel
        w_base[l] = int(p.w.x) + zi * p.w_step + zo * p.w_outer + (TRANS == 1 ? (e >> 2) * p.w_stride + (e & 3) : e);
    }
    int w_next = TRANS == 1 ? 4 : p.w_stride;
    vec4 acc[F * NP];
    [[unroll]] for (int i = 0; i < F * NP; i++) acc[i] = vec4(0);
    for (int s = 0; s < steps; s++) {
        int tap = s % taps;
        int o[F], next[F], b[LOADS];
        [[unroll]] for (int f = 0; f < F; f++) {
            int row = CONV == 0 ? rows[f] : CONV == 1 ? conv_row(at[f], tap) : conv_gradient_row(at[f], tap, s / taps);
            o[f] = row < 0 ? 0 : x_base + row; // texel 0 of every view is zero
            next[f] = row < 0 ? 0 : p.x_stride;
        }
        [[unroll]] for (int l = 0; l < LOADS; l++) b[l] = w_base[l] + tap * p.w_rows;
        for (int k = 0; k < p.k4; k++) {
            vec4 a[F], wv[LOADS];
            [[unroll]] for (int l = 0; l < LOADS; l++) {
                wv[l] = imageLoad(T1, b[l]);
                b[l] += w_next;
            }
            [[unroll]] for (int f = 0; f < F; f++) {
                a[f] = imageLoad(T0, o[f]);
                o[f] += next[f];
            }
            [[unroll]] for (int e = 0; e < 4 * NP; e++)
                [[unroll]] for (int c = 0; c < 4; c++) {
                    // TRANS: texel e is contraction e%4, component c the channel; else the other way round.
                    float t = subgroupShuffle(wv[e / LANES][c], uint(e % LANES));
                    int from = TRANS == 1 ? e & 3 : c, to = TRANS == 1 ? c : e & 3;
                    [[unroll]] for (int f = 0; f < F; f++) acc[f * NP + (e >> 2)][to] += a[f][from] * t;
                }
        }
    }
    [[unroll]] for (int q = 0; q < NP; q++) {
        int plane = plane0 + q;
        vec4 bias = imageLoad(T2, int(p.bias.x) + min(plane, p.n4 - 1) * p.bias_stride);
        bvec4 keep = lessThan(ivec4(0, 1, 2, 3), ivec4(plane == p.n4 - 1 ? p.n_tail : 4));
        if (plane < p.n4) {
            vec4 v[F]; // all read before any is stored: res may be y, and rows past the last repeat it
            [[unroll]] for (int f = 0; f < F; f++) {
                v[f] = acc[f * NP + q] + bias;
                if (RES == 1) v[f] += imageLoad(T3, int(p.res.x) + plane * p.res_stride + rows[f]);
                if (TAIL == 1) v[f] = mix(vec4(0), v[f], keep);
            }
            [[unroll]] for (int f = 0; f < F; f++) STORE(4, p.y, y_base + plane * p.y_stride + rows[f], v[f]);
        }
    }
}
