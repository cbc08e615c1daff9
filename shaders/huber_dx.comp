// classes: cpu gpu
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/tensor.glsl"
#include "lib/push.glsl"
#include "push/huber.h"
layout(local_size_x = 64) in;
layout(constant_id = 2) const int MASK = 0;
layout(push_constant) uniform Push { push_huber p; };

void main() {
    int row = int(gl_GlobalInvocationID.x), plane = int(gl_WorkGroupID.y);
    if (row >= p.rows * p.n) return;
    int n = row / p.rows;
    vec4 hyper = LOAD(2, p.hyper, n);
    vec4 d = LOAD(0, p.a, plane * p.a_stride + row) - LOAD(1, p.b, plane * p.b_stride + row);
    // The slope lies in -1..1 also where d^2 is too small for a float.
    vec4 slope = clamp(d / max(sqrt(d * d + hyper.x * hyper.x), 1e-18), -1.0, 1.0);
    if (MASK != 0) slope *= LOAD(3, p.mask, plane * p.mask_stride + row);
    STORE(8, p.y, plane * p.y_stride + row, slope * (LOAD(4, p.seed, n).x * hyper.y * p.scale));
}
