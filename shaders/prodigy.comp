// classes: cpu gpu
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/tensor.glsl"
#include "lib/push.glsl"
#include "lib/optimise.glsl"
#include "push/optimise.h"
layout(local_size_x = 64) in;
PUSH(push_optimise)

void main() {
    int i = flat_index();
    if (i >= p.texels) return;
    vec4 a = LOAD(4, p.hyper, 0), b = LOAD(4, p.hyper, 1); // rate decay factor beta1 | beta2 d*eps d d*rate
    vec2 c = LOAD(4, p.hyper, 2).zw; // 1-beta1, 1-beta2
    vec4 g = LOAD(1, p.grad, i) * a.z * b.z;
    vec4 m = a.w * LOAD(2, p.m, i) + c.x * g;
    vec4 v = b.x * LOAD(3, p.v, i) + c.y * g * g;
    vec4 x = LOAD(0, p.param, i);
    x -= b.w * a.y * x;
    x -= b.w * m / (sqrt(v) + b.y);
    STORE(8, p.param_out, i, x);
    STORE(9, p.m_out, i, m);
    STORE(10, p.v_out, i, v);
}
