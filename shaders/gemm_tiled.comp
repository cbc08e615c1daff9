// classes: gpu
// Matrix product, convolution and its gradient to the input as one implicit GEMM through shared memory.
// A workgroup of 128 makes 16*TM rows x 64 channels; an invocation TM rows x 2 planes of 4 channels.
// Both tiles hold 4 values of the contraction per vec4. Operands: 0 x, 1 w, 2 bias, 3 res, 4 y.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/push.glsl"
#include "push/gemm_tiled.h"
#include "lib/tensor.glsl"
layout(local_size_x = 128) in;
layout(constant_id = 2) const int TM = 4;     // 1, 2, 4 or 8
layout(constant_id = 3) const int TRANS = 0;  // w rows are what is contracted
layout(constant_id = 4) const int GATHER = 0; // rows of x follow source_row()
layout(constant_id = 5) const int KSIZE = 1;
layout(constant_id = 6) const int STRIDE = 1;
layout(constant_id = 7) const int UP = 0;
layout(constant_id = 8) const int DX = 0;
layout(constant_id = 9) const int EPILOGUE = 0; // bit 0 bias, bit 1 res
layout(constant_id = 10) const int CODE = 0;    // 2 int8, 3 nf4 (enum tensor_dtype); 0: w as STORAGE says
#include "lib/gather.glsl"
layout(push_constant) uniform Push { push_gemm_tiled p; };

const int KP = 4;             // planes per step
const int BM = 16 * TM, BN = 64;
const int XL = (BM + 31) / 32; // rows an invocation stages
shared vec4 xs[KP * BM];
shared vec4 ws[KP * BN];

#include "lib/decode.glsl"

// Texel of w: its row `row` (taps included) of plane `plane`.
vec4 load_w(int plane, int row) {
    return CODE == 0 ? LOAD(1, p.w, plane * p.w_stride + row) : decode_texel(plane, row);
}

// A plane of the contraction: tap and plane in the tap, stepped without division.
struct plane_at { int tap, plane; };
plane_at plane_first(int kk) {
    int tap = kk / p.tap_planes;
    return plane_at(tap, kk - tap * p.tap_planes);
}
void plane_step(inout plane_at at) {
    at.plane += KP;
    while (at.plane >= p.tap_planes) { at.plane -= p.tap_planes; at.tap++; }
}

void main() {
    const int t = int(gl_LocalInvocationID.x);
    const int m0 = int(gl_WorkGroupID.x) * BM, n0 = int(gl_WorkGroupID.y) * BN;
    const int first = int(gl_WorkGroupID.z) * p.slice_planes;
    const int last = min(first + p.slice_planes, p.all_planes);
    const int tx = t & 15, ty = t >> 4;
    const int x_lane = t & 31, x_plane = t >> 5; // staging: 32 rows of one plane
    // Staging w across rows: 8 pairs of rows x 16 planes of channels.
    const int pair = t & 7, w_channels = t >> 3;

    if (CODE == 3) decode_prepare(t);
    ivec3 pixel[XL];
    [[unroll]] for (int i = 0; i < XL; i++) pixel[i] = pixel_of(m0 + x_lane + 32 * i, ivec2(p.dst_h, p.dst_w));
    plane_at x_at = plane_first(first + x_plane), w_at = plane_first(first + (TRANS != 0 ? pair >> 1 : x_plane));

    vec4 acc[TM * 2];
    [[unroll]] for (int i = 0; i < TM * 2; i++) acc[i] = vec4(0);

    for (int k0 = first; k0 < last; k0 += KP) {
        bool x_in = k0 + x_plane < last;
        [[unroll]] for (int i = 0; i < XL; i++) {
            int m = x_lane + 32 * i, row = m0 + m;
            vec4 v = vec4(0);
            if (x_in && row < p.rows && m < BM) {
                if (GATHER != 0) row = source_row(pixel[i], x_at.tap, ivec2(p.src_h, p.src_w), p.pad);
                if (row >= 0) v = LOAD(0, p.x, x_at.plane * p.x_stride + row);
            }
            if (m < BM) xs[x_plane * BM + m] = v;
        }
        // The backward's taps repeat for the four upsampled pixels; the weight has them once.
        int w_tap = DX != 0 && UP != 0 ? w_at.tap % TAPS : w_at.tap;
        if (TRANS == 0) {
            [[unroll]] for (int i = 0; i < 2; i++) {
                int n = x_lane + 32 * i;
                vec4 v = vec4(0);
                if (x_in && n0 + n < p.w_rows) v = load_w(w_at.plane, w_tap * p.w_rows + n0 + n);
                ws[x_plane * BN + n] = v;
            }
        } else {
            int k = w_at.plane * 4 + (pair & 1) * 2, plane = n0 / 4 + w_channels;
            int at = w_tap * p.w_rows + k;
            bool w_in = k0 + (pair >> 1) < last && plane * 4 < p.channels;
            vec4 a = vec4(0), b = vec4(0);
            if (w_in && k < p.w_rows) a = load_w(plane, at);
            if (w_in && k + 1 < p.w_rows) b = load_w(plane, at + 1);
            int to = (pair >> 1) * BN + w_channels * 4;
            [[unroll]] for (int c = 0; c < 4; c++) {
                if ((pair & 1) == 0) ws[to + c].xy = vec2(a[c], b[c]);
                else ws[to + c].zw = vec2(a[c], b[c]);
            }
        }
        plane_step(x_at);
        plane_step(w_at);
        barrier();
        [[unroll]] for (int k = 0; k < KP; k++) {
            vec4 x[TM];
            [[unroll]] for (int i = 0; i < TM; i++) x[i] = xs[k * BM + tx + 16 * i];
            [[unroll]] for (int j = 0; j < 2; j++) {
                [[unroll]] for (int c = 0; c < 4; c++) {
                    vec4 w = ws[k * BN + (ty + 8 * j) * 4 + c];
                    [[unroll]] for (int i = 0; i < TM; i++) {
                        float s = acc[i * 2 + j][c];
                        s = fma(x[i].x, w.x, s);
                        s = fma(x[i].y, w.y, s);
                        s = fma(x[i].z, w.z, s);
                        acc[i * 2 + j][c] = fma(x[i].w, w.w, s);
                    }
                }
            }
        }
        barrier();
    }

    const int planes = (p.channels + 3) / 4;
    [[unroll]] for (int j = 0; j < 2; j++) {
        int plane = n0 / 4 + ty + 8 * j;
        if (plane >= planes) continue;
        vec4 bias = (EPILOGUE & 1) != 0 ? LOAD(2, p.bias, plane) : vec4(0);
        [[unroll]] for (int i = 0; i < TM; i++) {
            int row = m0 + tx + 16 * i;
            if (row >= p.rows) continue;
            vec4 v = acc[i * 2 + j] + bias;
            if ((EPILOGUE & 2) != 0) v += LOAD(3, p.res, plane * p.res_stride + row);
            STORE(4, p.y, (int(gl_WorkGroupID.z) * planes + plane) * p.y_stride + row, v);
        }
    }
}
