// classes: cpu gpu
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/tensor.glsl"
#include "lib/push.glsl"
#include "push/timestep.h"
layout(local_size_x = 64) in;
PUSH(push_timestep)

// Drivers' sin and cos lose accuracy past a few turns: bring the angle near zero in two exact steps first.
float near_zero(float a) {
    float turns = round(a * 0.15915494);
    return (a - turns * 6.28125) - turns * 0.0019353072;
}

void main() {
    int n = int(gl_GlobalInvocationID.x), plane = int(gl_WorkGroupID.y), half_dim = p.dim / 2;
    if (n >= p.n) return;
    float t = LOAD(0, p.t, n).x;
    vec4 y;
    [[unroll]] for (int i = 0; i < 4; i++) {
        int c = 4 * plane + i, k = c < half_dim ? c : c - half_dim;
        float angle = near_zero(t * exp(-9.210340371976184 * float(k) / (float(half_dim) - p.freq_shift)));
        bool cosine = (c < half_dim) == (p.cos_first != 0);
        y[i] = c >= 2 * half_dim ? 0.0 : cosine ? cos(angle) : sin(angle);
    }
    STORE(8, p.y, plane * p.y_stride + n, y);
}
