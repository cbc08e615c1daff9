// classes: cpu
#version 450
// For the gradient, per problem and row: delta = sum over keys of weight*slope, and the log2 of the sum that the weights are
// divided by. Both from these very scores, so that the weights sum to 1 and their slopes to 0 as well as f32 can; a delta
// from the forward pass's output (o*g) differs by that output's rounding, which narrow gradients enlarge.
#extension GL_GOOGLE_include_directive : require
#include "lib/push.glsl"
#include "push/attention.h"
#include "lib/tensor.glsl"
#include "lib/head.glsl"
layout(local_size_x_id = 0) in;
layout(constant_id = 2) const int CAUSAL = 0;
PUSH(push_attention)

void main() {
    int z = int(gl_WorkGroupID.y), row = min(int(gl_GlobalInvocationID.x), p.rows - 1), own = p.z0 + z;
    int image = own / p.heads, head = own % p.heads, at = z * p.s_step + row;
    int keys = CAUSAL == 1 ? min(p.row0 + row + 1, p.keys) : p.keys;
    vec4 four = imageLoad(T2, int(p.lse.x) + (head >> 2) * p.lse_stride + image * p.row_count + p.row0 + row);
    float lse = of_head(four, head) * 1.44269504, factor = p.scale * 1.44269504;
    int s = int(p.s.x) + at, ds = int(p.ds.x) + at;
    vec4 sum = vec4(0), dots = vec4(0);
    for (int key = 0; key < p.keys; key += 4) {
        vec4 weight = exp2(imageLoad(T0, s) * factor - lse);
        weight = mix(vec4(0), weight, lessThan(ivec4(0, 1, 2, 3) + key, ivec4(keys)));
        sum += weight;
        dots += weight * imageLoad(T1, ds);
        s += p.s_stride, ds += p.s_stride;
    }
    float total = dot(sum, vec4(1));
    STORE(3, p.stats, own * p.stats_step + p.row0 + row, vec4(dot(dots, vec4(1)) / total, lse + log2(total), 0, 0));
}
