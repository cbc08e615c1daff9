// classes: cpu gpu
// PASS 0: each workgroup sums its own stretch of the bank into one texel of parts. PASS 1: one workgroup adds
// the parts and the optional earlier total.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/tensor.glsl"
#include "lib/push.glsl"
#include "lib/reduce.glsl"
#include "push/optimise.h"
layout(local_size_x = 64) in;
layout(constant_id = 2) const int PASS = 0;
layout(constant_id = 3) const int ADD_TOTAL = 0;
PUSH(push_optimise)

void main() {
    int lane = int(gl_LocalInvocationID.x), group = int(gl_WorkGroupID.x);
    vec4 sum = vec4(0.0);
    if (PASS == 0) {
        int last = min((group + 1) * p.per_group, p.texels);
        for (int i = group * p.per_group + lane; i < last; i += 64) {
            vec4 x = LOAD(0, p.grad, i);
            sum += x * x;
        }
    } else {
        for (int i = lane; i < p.n_parts; i += 64) sum += LOAD(0, p.grad, i);
    }
    sum = group_sum(sum);
    if (lane > 0) return;
    if (PASS == 0) {
        STORE(8, p.param_out, group, sum);
    } else {
        float total = dot(sum, vec4(1.0));
        if (ADD_TOTAL != 0) total += LOAD(1, p.more, 0).x;
        STORE(8, p.param_out, 0, vec4(total, 0.0, 0.0, 0.0));
    }
}
