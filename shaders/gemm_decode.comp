// classes: cpu
#version 450
// gemm.comp for weights stored in f16, int8 or nf4 (graph/quant.h): a lane decodes the 4x4 values of w that a step of
// its output plane takes, once for all R rows of the tile.
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "lib/push.glsl"
#include "push/gemm_decode.h"
#include "lib/tensor.glsl"
layout(local_size_x_id = 0) in;
layout(constant_id = 2) const int R = 32;    // rows of the tile
layout(constant_id = 3) const int TRANS = 0; // 1: rows of w are contracted (gradient to the input)
layout(constant_id = 4) const int CONV = 0;  // 0: product, 1: convolution, 2: its gradient to the input
layout(constant_id = 5) const int RES = 0;   // 1: add res
layout(constant_id = 6) const int CODE = 2;  // enum tensor_dtype: 1 f16, 2 int8, 3 nf4
PUSH(push_gemm_decode)
#include "lib/conv.glsl"
#include "lib/nf4.glsl"
const int LANES = int(W);
const int FRAGS = (R + LANES - 1) / LANES;
const int PER_FRAG = R < LANES ? R : LANES;

// Rows 4*tile.. of plane `plane` of w. The codes come as the bits of a float view, which is read as it is.
void load_tile(int plane, int tile, out vec4 v[4]) {
    if (CODE == 1) {
        int at = p.w + (plane * p.w_stride >> 1) + tile * 2;
        uvec4 a = floatBitsToUint(imageLoad(T1, at)), b = floatBitsToUint(imageLoad(T1, at + 1));
        v[0] = vec4(unpackHalf2x16(a.x), unpackHalf2x16(a.y));
        v[1] = vec4(unpackHalf2x16(a.z), unpackHalf2x16(a.w));
        v[2] = vec4(unpackHalf2x16(b.x), unpackHalf2x16(b.y));
        v[3] = vec4(unpackHalf2x16(b.z), unpackHalf2x16(b.w));
        return;
    }
    vec4 scale = imageLoad(T1, p.scale + (plane >> 4) * p.w_stride + tile);
    int at = plane * p.w_stride + tile;
    if (CODE == 2) {
        ivec4 u = floatBitsToInt(imageLoad(T1, p.w + at));
        [[unroll]] for (int r = 0; r < 4; r++)
            v[r] = vec4(ivec4(u[r] << 24, u[r] << 16, u[r] << 8, u[r]) >> 24) * scale[r];
    } else {
        uvec4 two = floatBitsToUint(imageLoad(T1, p.w + (at >> 1)));
        uvec2 u = (at & 1) == 0 ? two.xy : two.zw;
        [[unroll]] for (int r = 0; r < 4; r++) v[r] = nf4_select(u[r >> 1] >> (16 * (r & 1))) * scale[r];
    }
}

void main() {
    int lane = int(gl_SubgroupInvocationID), row0 = int(p.rows_first == 1 ? gl_WorkGroupID.x : gl_WorkGroupID.y) * R;
    // Lanes past the last plane and rows past the last repeat it: the same values to the same place.
    int plane = min(int(p.rows_first == 1 ? gl_WorkGroupID.y : gl_WorkGroupID.x) * LANES + lane, p.n4 - 1);
    ivec3 at[FRAGS];
    int taps = 1, steps = 1;
    if (CONV != 0) {
        [[unroll]] for (int f = 0; f < FRAGS; f++) at[f] = conv_pixel(min(row0 + f * LANES + lane, p.rows - 1));
        taps = conv_taps();
        steps = taps << (CONV == 2 ? 2 * hi16(p.pad_up) : 0);
    }
    vec4 acc[R];
    [[unroll]] for (int r = 0; r < R; r++) acc[r] = vec4(0);
    for (int s = 0; s < steps; s++) {
        int tap = s % taps;
        int o[FRAGS], next[FRAGS];
        [[unroll]] for (int f = 0; f < FRAGS; f++) {
            o[f] = int(p.x.x) + min(row0 + f * LANES + lane, p.rows - 1);
            next[f] = p.x_stride;
            if (CONV != 0) {
                int row = CONV == 1 ? conv_row(at[f], tap) : conv_gradient_row(at[f], tap, s / taps);
                o[f] = row < 0 ? 0 : int(p.x.x) + row; // texel 0 of every view is zero
                next[f] = row < 0 ? 0 : p.x_stride;
            }
        }
        int tile0 = tap * p.w_rows >> 2;
        for (int k = 0; k < p.k4; k++) {
            vec4 bv[4];
            if (TRANS == 1) load_tile(plane, tile0 + k, bv);
            else load_tile(k, tile0 + plane, bv);
            [[unroll]] for (int f = 0; f < FRAGS; f++) {
                vec4 a = imageLoad(T0, o[f]);
                [[unroll]] for (int i = 0; i < PER_FRAG; i++)
                    [[unroll]] for (int c = 0; c < 4; c++) {
                        vec4 bb = TRANS == 1 ? bv[c] : vec4(bv[0][c], bv[1][c], bv[2][c], bv[3][c]);
                        acc[f * LANES + i] += subgroupShuffle(a[c], uint(i)) * bb;
                    }
                o[f] += next[f];
            }
        }
    }
    vec4 bias = imageLoad(T2, int(p.bias.x) + plane * p.bias_stride);
    int y0 = plane * p.y_stride, r0 = int(p.res.x) + plane * p.res_stride;
    // All of res is read before any of y is stored: they may be one, and rows past the last repeat it.
    [[unroll]] for (int r = 0; r < R; r++) {
        acc[r] += bias;
        if (RES == 1) acc[r] += imageLoad(T3, r0 + min(row0 + r, p.rows - 1));
    }
    [[unroll]] for (int r = 0; r < R; r++) STORE(4, p.y, y0 + min(row0 + r, p.rows - 1), acc[r]);
}
