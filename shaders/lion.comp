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
    vec4 a = LOAD(3, p.hyper, 0), b = LOAD(3, p.hyper, 1); // rate decay factor beta1 | beta2
    vec2 c = LOAD(3, p.hyper, 2).zw; // 1-beta1, 1-beta2
    float lr = a.x * RATE(4, p.more, i);
    vec4 g = LOAD(1, p.grad, i) * a.z, m = LOAD(2, p.m, i), x = LOAD(0, p.param, i);
    x -= lr * a.y * x;
    x -= lr * sign(a.w * m + c.x * g);
    STORE(8, p.param_out, i, x);
    STORE(9, p.m_out, i, b.x * m + c.y * g);
}
