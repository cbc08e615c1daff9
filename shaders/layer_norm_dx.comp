// classes: cpu gpu
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/tensor.glsl"
#include "lib/push.glsl"
#include "push/layer_norm.h"
layout(local_size_x = 64) in;
PUSH(push_layer_norm)

void main() {
    int row = int(gl_GlobalInvocationID.x);
    if (row >= p.rows) return;
    vec4 s = LOAD(2, p.stats, row), sum = vec4(0.0), along = vec4(0.0);
    for (int k = 0; k < p.planes; k++) {
        vec4 g = LOAD(1, p.g, k * p.g_stride + row) * LOAD(3, p.gamma, k);
        sum += g;
        along += g * (LOAD(0, p.x, k * p.x_stride + row) - s.x) * s.y;
    }
    float a = dot(sum, vec4(1.0)) / float(p.channels), b = dot(along, vec4(1.0)) / float(p.channels);
    for (int k = 0; k < p.planes; k++) {
        vec4 g = LOAD(1, p.g, k * p.g_stride + row) * LOAD(3, p.gamma, k);
        vec4 xhat = (LOAD(0, p.x, k * p.x_stride + row) - s.x) * s.y;
        vec4 keep = vec4(lessThan(ivec4(4 * k) + ivec4(0, 1, 2, 3), ivec4(p.channels)));
        STORE(8, p.y, k * p.y_stride + row, (g - a - xhat * b) * s.y * keep);
    }
}
