// classes: cpu gpu
// PASS 0: each workgroup updates its own stretch of s and adds up into one texel of parts: x sum of grad*(p0 - param),
// y sum of |s|. PASS 1: one workgroup adds the parts and the optional earlier sums.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/tensor.glsl"
#include "lib/push.glsl"
#include "lib/reduce.glsl"
#include "push/optimise.h"
layout(local_size_x = 64) in;
layout(constant_id = 2) const int PASS = 0;
layout(constant_id = 3) const int ADD_EARLIER = 0;
PUSH(push_optimise)

void main() {
    int lane = int(gl_LocalInvocationID.x), group = int(gl_WorkGroupID.x);
    vec4 sum = vec4(0.0);
    if (PASS == 0) {
        float factor = LOAD(4, p.hyper, 0).z;
        vec2 h = LOAD(4, p.hyper, 2).xy; // beta3, factor of s
        int last = min((group + 1) * p.per_group, p.texels);
        for (int i = group * p.per_group + lane; i < last; i += 64) {
            vec4 g = LOAD(1, p.grad, i) * factor, s = h.x * LOAD(3, p.v, i) + h.y * g;
            sum.x += dot(g, LOAD(2, p.m, i) - LOAD(0, p.param, i));
            sum.y += dot(abs(s), vec4(1.0));
            STORE(8, p.param_out, i, s);
        }
    } else {
        for (int i = lane; i < p.n_parts; i += 64) sum += LOAD(0, p.param, i);
    }
    sum = group_sum(sum);
    if (lane > 0) return;
    if (PASS == 0) {
        STORE(9, p.m_out, group, sum);
    } else {
        if (ADD_EARLIER != 0) sum += LOAD(1, p.more, 0);
        STORE(9, p.m_out, 0, vec4(sum.xy, 0.0, 0.0));
    }
}
