// classes: cpu gpu
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/tensor.glsl"
#include "lib/push.glsl"
#include "push/dropout.h"
layout(local_size_x = 64) in;
layout(constant_id = 2) const int EACH = 0; // enum dropout_each
PUSH(push_dropout)

// As in graph/op_dropout.c.
uint mix_bits(uint x) {
    x = (x ^ x >> 16) * 0x21f0aaadu;
    x = (x ^ x >> 15) * 0xd35a2d97u;
    return x ^ x >> 15;
}

void main() {
    int row = int(gl_GlobalInvocationID.x), plane = int(gl_WorkGroupID.y);
    if (row >= p.rows) return;
    vec4 words = LOAD(1, p.key, 0), x = LOAD(0, p.x, plane * p.x_stride + row);
    uint key = mix_bits(mix_bits(uint(words.x) + uint(p.stream) * 0x9e3779b9u) ^ uint(words.y));
    int first = EACH == 0 ? row : EACH == 1 ? row / p.image_rows : 0;
    uint place = EACH == 2 ? 0u : uint(first) * uint(p.channels) + uint(plane) * 4u;
    [[unroll]] for (int c = 0; c < 4; c++) {
        uint h = mix_bits(key + (EACH == 2 ? 0u : place + uint(c)));
        x[c] = h >= uint(p.threshold) ? x[c] * p.scale : 0.0;
    }
    STORE(8, p.y, plane * p.y_stride + row, x);
}
