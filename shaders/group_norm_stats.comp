// classes: cpu gpu
// One invocation joins the channels of two groups (one texel of stats) of one image.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/tensor.glsl"
#include "lib/push.glsl"
#include "push/group_norm.h"
layout(local_size_x = 64) in;
PUSH(push_group_norm)

vec2 group_stats(int n, int group) {
    if (group >= p.groups) return vec2(0.0);
    int size = p.channels / p.groups, base = 2 * n * p.planes;
    float sum = 0.0, square = 0.0;
    for (int c = group * size; c < (group + 1) * size; c++) sum += LOAD(0, p.partial, base + 2 * (c / 4))[c % 4];
    float mean = sum / float(size);
    for (int c = group * size; c < (group + 1) * size; c++) {
        float d = LOAD(0, p.partial, base + 2 * (c / 4))[c % 4] - mean;
        square += LOAD(0, p.partial, base + 2 * (c / 4) + 1)[c % 4] + d * d * float(p.rows);
    }
    return vec2(mean, 1.0 / sqrt(square / float(size * p.rows) + p.eps));
}

void main() {
    int pair = int(gl_GlobalInvocationID.x), n = int(gl_WorkGroupID.y);
    if (2 * pair >= p.groups) return;
    STORE(8, p.stats, pair * p.stats_stride + n, vec4(group_stats(n, 2 * pair), group_stats(n, 2 * pair + 1)));
}
