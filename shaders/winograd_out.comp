// classes: cpu
#version 450
// N*N products {tiles, c} to output pixels, plus bias and residual; a lane owns a tile of one plane.
#extension GL_GOOGLE_include_directive : require
#include "lib/push.glsl"
#include "push/winograd.h"
#include "lib/tensor.glsl"
layout(local_size_x_id = 0) in;
#include "lib/winograd.glsl"
layout(constant_id = 3) const int UP = 0;   // 1: gradient of an upsampled read: four pixels are summed into one
layout(constant_id = 4) const int RES = 0;
layout(constant_id = 5) const int EDGE = 0; // 1: tiles may reach past the image
layout(constant_id = 6) const int TAIL = 0; // 1: the last plane is partly padding
PUSH(push_winograd)
const int SIDE = M >> UP;

void main() {
    int slot = min(int(gl_GlobalInvocationID.x), p.tiles - 1), tile = p.tile0 + slot, plane = int(gl_WorkGroupID.y);
    int image = tile / (p.tiles_y * p.tiles_x), yx = tile - image * p.tiles_y * p.tiles_x;
    int y0 = yx / p.tiles_x * SIDE, x0 = yx % p.tiles_x * SIDE;
    int from = int(p.from.x) + plane * p.from_stride + slot;
    vec4 d[24], v[16];
    [[unroll]] for (int x = 0; x < N; x++) {
        vec4 column[6];
        [[unroll]] for (int y = 0; y < N; y++) column[y] = imageLoad(T0, from + (y * N + x) * p.step);
        transform_output(column);
        [[unroll]] for (int y = 0; y < M; y++) d[y * 6 + x] = column[y];
    }
    [[unroll]] for (int i = 0; i < SIDE * SIDE; i++) v[i] = vec4(0);
    [[unroll]] for (int y = 0; y < M; y++) {
        vec4 row[6];
        [[unroll]] for (int x = 0; x < N; x++) row[x] = d[y * 6 + x];
        transform_output(row);
        [[unroll]] for (int x = 0; x < M; x++) v[(y >> UP) * SIDE + (x >> UP)] += row[x];
    }
    vec4 bias = imageLoad(T1, int(p.bias.x) + plane * p.bias_stride);
    bvec4 keep = lessThan(ivec4(0, 1, 2, 3), ivec4(plane == p.planes - 1 ? p.n_tail : 4));
    int at = (image * p.h + y0) * p.w + x0, res = int(p.res.x) + plane * p.res_stride + at;
    // All of res is read before any of it may be overwritten: lanes past the last tile repeat it.
    [[unroll]] for (int i = 0; i < SIDE * SIDE; i++) {
        v[i] += bias;
        if (RES == 1) v[i] += imageLoad(T2, res + i / SIDE * p.w + i % SIDE);
        if (TAIL == 1) v[i] = mix(vec4(0), v[i], keep);
    }
    [[unroll]] for (int i = 0; i < SIDE * SIDE; i++) {
        int to = plane * p.to_stride + at + i / SIDE * p.w + i % SIDE;
        if (EDGE == 0) STORE(3, p.to, to, v[i]);
        else if (y0 + i / SIDE < p.h && x0 + i % SIDE < p.w) STORE(3, p.to, to, v[i]);
    }
}
