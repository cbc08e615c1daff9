// classes: cpu gpu
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/tensor.glsl"
#include "lib/push.glsl"
#include "push/layer_norm.h"
layout(local_size_x = 64) in;
layout(constant_id = 2) const int KEEP_STATS = 0;
PUSH(push_layer_norm)

// Channels that a plane really has: 1 for each, 0 for padding.
vec4 real_channels(int plane) { return vec4(lessThan(ivec4(4 * plane) + ivec4(0, 1, 2, 3), ivec4(p.channels))); }

void main() {
    int row = int(gl_GlobalInvocationID.x);
    if (row >= p.rows) return;
    vec4 sum = vec4(0.0), square = vec4(0.0);
    for (int k = 0; k < p.planes; k++) sum += LOAD(0, p.x, k * p.x_stride + row);
    float mean = dot(sum, vec4(1.0)) / float(p.channels);
    for (int k = 0; k < p.planes; k++) {
        vec4 d = (LOAD(0, p.x, k * p.x_stride + row) - mean) * real_channels(k);
        square += d * d;
    }
    float inv = 1.0 / sqrt(dot(square, vec4(1.0)) / float(p.channels) + p.eps);
    if (KEEP_STATS != 0) STORE(9, p.stats, row, vec4(mean, inv, 0.0, 0.0));
    for (int k = 0; k < p.planes; k++) {
        vec4 y = (LOAD(0, p.x, k * p.x_stride + row) - mean) * inv;
        STORE(8, p.y, k * p.y_stride + row, y * LOAD(1, p.gamma, k) + LOAD(2, p.beta, k));
    }
}
