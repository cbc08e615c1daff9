// classes: cpu
#version 450
// Scores become weights in place; for the gradient, those of the weights (ds) become those of the scores.
#extension GL_GOOGLE_include_directive : require
#include "lib/push.glsl"
#include "push/attention.h"
#include "lib/tensor.glsl"
layout(local_size_x_id = 0) in;
layout(constant_id = 2) const int CAUSAL = 0;
layout(constant_id = 3) const int GRADIENT = 0;
PUSH(push_attention)

void main() {
    int plane = int(gl_WorkGroupID.y), z = int(gl_WorkGroupID.z), row = min(int(gl_GlobalInvocationID.x), p.rows - 1);
    int keys = CAUSAL == 1 ? min(p.row0 + row + 1, p.keys) : p.keys, at = z * p.s_step + plane * p.s_stride + row;
    vec4 stats = imageLoad(T2, int(p.stats.x) + (p.z0 + z) * p.stats_step + p.row0 + row);
    bvec4 seen = lessThan(ivec4(0, 1, 2, 3) + plane * 4, ivec4(keys));
    vec4 weight = mix(vec4(0), exp2(imageLoad(T0, int(p.s.x) + at) * (p.scale * 1.44269504) - stats.y), seen);
    if (GRADIENT == 1) {
        vec4 slope = imageLoad(T1, int(p.ds.x) + at);
        STORE(4, p.ds_out, at, mix(vec4(0), weight * (slope - stats.x) * p.scale, seen));
    }
    STORE(3, p.s_out, at, weight);
}
