// classes: cpu gpu
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/tensor.glsl"
#include "lib/push.glsl"
#include "push/optimise.h"
layout(local_size_x = 64) in;
layout(constant_id = 2) const int AVERAGE = 0; // 0: param*keep + grad; 1: param moves towards grad
PUSH(push_optimise)

void main() {
    int i = int(gl_GlobalInvocationID.x + gl_WorkGroupID.y * gl_NumWorkGroups.x * 64u);
    if (i >= p.texels) return;
    float keep = LOAD(2, p.hyper, 0).x;
    vec4 sum = LOAD(1, p.grad, i);
    if (keep != 0.0) {
        vec4 old = LOAD(0, p.param, i);
        if (AVERAGE != 0) sum = old + (1.0 - keep) * (sum - old);
        else sum += old * keep;
    }
    STORE(8, p.param_out, i, sum);
}
