// classes: cpu gpu
// Per image and group: means of gamma*s1 and gamma*s2 over the group's elements, two groups a texel.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/tensor.glsl"
#include "lib/push.glsl"
#include "push/group_norm.h"
layout(local_size_x = 64) in;
PUSH(push_group_norm)

vec2 group_means(int n, int group) {
    if (group >= p.groups) return vec2(0.0);
    int size = p.channels / p.groups, base = 2 * n * p.planes;
    vec2 sum = vec2(0.0);
    for (int c = group * size; c < (group + 1) * size; c++) {
        float gamma = LOAD(1, p.gamma, c / 4)[c % 4];
        sum += gamma * vec2(LOAD(0, p.partial, base + 2 * (c / 4))[c % 4], LOAD(0, p.partial, base + 2 * (c / 4) + 1)[c % 4]);
    }
    return sum / float(size * p.rows);
}

void main() {
    int pair = int(gl_GlobalInvocationID.x), n = int(gl_WorkGroupID.y);
    if (2 * pair >= p.groups) return;
    STORE(8, p.y, pair * p.y_stride + n, vec4(group_means(n, 2 * pair), group_means(n, 2 * pair + 1)));
}
