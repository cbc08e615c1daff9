// classes: cpu gpu
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/tensor.glsl"
#include "lib/push.glsl"
#include "push/optimise.h"
layout(local_size_x = 64) in;
layout(push_constant) uniform Push { push_optimise p; };

void main() {
    int i = int(gl_GlobalInvocationID.x + gl_WorkGroupID.y * gl_NumWorkGroups.x * 64u);
    if (i >= p.texels) return;
    vec4 a = LOAD(4, p.hyper, 0), b = LOAD(4, p.hyper, 1); // lr beta1 beta2 eps | decay, corrections 1 and 2, max norm
    float total = LOAD(5, p.total, 0).x;
    if (!(total < 3.4e38)) return; // infinite or no number
    float clip = b.w > 0.0 ? min(1.0, b.w / (sqrt(total) + 1e-6)) : 1.0;
    vec4 g = LOAD(1, p.grad, i) * clip;
    vec4 m = a.y * LOAD(2, p.m, i) + (1.0 - a.y) * g;
    vec4 v = a.z * LOAD(3, p.v, i) + (1.0 - a.z) * g * g;
    vec4 x = LOAD(0, p.param, i);
    x -= a.x * b.x * x;
    x -= a.x * (m * b.y) / (sqrt(v * b.z) + a.w);
    STORE(8, p.param_out, i, x);
    STORE(9, p.m_out, i, m);
    STORE(10, p.v_out, i, v);
}
