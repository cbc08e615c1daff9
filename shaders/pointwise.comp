// classes: cpu gpu
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/tensor.glsl"
#include "lib/push.glsl"
#include "lib/math.glsl"
#include "push/pointwise.h"
layout(local_size_x = 64) in;
layout(constant_id = 2) const int KIND = 0;  // see enum pointwise_kind in gpu/kern_pointwise.c
layout(constant_id = 3) const int BCAST = 0; // enum bcast
PUSH(push_pointwise)

vec4 apply(vec4 a, vec4 b) {
    switch (KIND) {
    case 0: return silu4(a);
    case 1: return gelu4(a);
    case 2: return quick_gelu4(a);
    case 3: return b * silu_slope4(a);
    case 4: return b * gelu_slope4(a);
    case 5: return b * quick_gelu_slope4(a);
    case 6: return a + b;
    case 7: return a * b;
    case 8: return a * p.factor;
    case 9: return vec4(0.0);
    case 11: return max(a, 0.0);
    case 12: return b * vec4(greaterThan(a, vec4(0.0)));
    default: return a;
    }
}

void main() {
    int row = int(gl_GlobalInvocationID.x), plane = int(gl_WorkGroupID.y);
    if (row >= p.rows) return;
    vec4 a = vec4(0.0), b = vec4(0.0);
    if (KIND != 9) a = LOAD(0, p.a, plane * p.a_stride + row);
    if ((KIND >= 3 && KIND <= 7) || KIND == 12) {
        int brow = BCAST == 0 || BCAST == 4 ? row : BCAST == 2 ? 0 : row / p.image_rows;
        b = LOAD(1, p.b, (BCAST >= 3 ? 0 : plane * p.b_stride) + brow);
        if (BCAST == 3) b = b.xxxx;
        if (BCAST == 4) b = vec4(b[p.channel]);
    }
    STORE(8, p.y, plane * p.y_stride + row, apply(a, b));
}
