// classes: cpu
#version 450
// Input tiles to N*N images {tiles, c}; a lane owns a tile of one plane.
#extension GL_GOOGLE_include_directive : require
#include "lib/push.glsl"
#include "push/winograd.h"
#include "lib/tensor.glsl"
layout(local_size_x_id = 0) in;
#include "lib/winograd.glsl"
layout(constant_id = 3) const int UP = 0; // 1: the input is read as if upsampled x2
PUSH(push_winograd)

void main() {
    int slot = min(int(gl_GlobalInvocationID.x), p.tiles - 1), tile = p.tile0 + slot, plane = int(gl_WorkGroupID.y);
    int image = tile / (p.tiles_y * p.tiles_x), yx = tile - image * p.tiles_y * p.tiles_x;
    int y0 = yx / p.tiles_x * M - 1, x0 = yx % p.tiles_x * M - 1;
    int base = int(p.from.x) + plane * p.from_stride + image * p.h * p.w;
    vec4 d[36];
    [[unroll]] for (int x = 0; x < N; x++) {
        vec4 column[6];
        int ix = x0 + x;
        bool inside_x = ix >= 0 && ix < p.w << UP;
        [[unroll]] for (int y = 0; y < N; y++) {
            int iy = y0 + y;
            bool inside = inside_x && iy >= 0 && iy < p.h << UP;
            // Texel 0 of every view is zero.
            column[y] = imageLoad(T0, inside ? base + (iy >> UP) * p.w + (ix >> UP) : 0);
        }
        transform_input(column);
        [[unroll]] for (int y = 0; y < N; y++) d[y * 6 + x] = column[y];
    }
    int to = plane * p.to_stride + slot;
    [[unroll]] for (int y = 0; y < N; y++) {
        vec4 row[6];
        [[unroll]] for (int x = 0; x < N; x++) row[x] = d[y * 6 + x];
        transform_input(row);
        [[unroll]] for (int x = 0; x < N; x++) STORE(1, p.to, to + (y * N + x) * p.step, row[x]);
    }
}
