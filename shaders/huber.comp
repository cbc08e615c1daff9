// classes: cpu gpu
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/tensor.glsl"
#include "lib/push.glsl"
#include "lib/reduce.glsl"
#include "push/huber.h"
layout(local_size_x = 64) in;
layout(constant_id = 2) const int MASK = 0;
layout(push_constant) uniform Push { push_huber p; };

void main() {
    int n = int(gl_WorkGroupID.x), lane = int(gl_LocalInvocationID.x);
    vec4 sum = vec4(0.0), hyper = LOAD(2, p.hyper, n);
    for (int k = 0; k < p.planes; k++)
        for (int r = lane; r < p.rows; r += 64) {
            int row = n * p.rows + r;
            vec4 d = LOAD(0, p.a, k * p.a_stride + row) - LOAD(1, p.b, k * p.b_stride + row);
            vec4 root = sqrt(d * d + hyper.x * hyper.x) + hyper.x;
            vec4 loss = d * (d / max(root, 1e-30)); // sqrt(d^2 + c^2) - c without its cancellation
            if (MASK != 0) loss *= LOAD(3, p.mask, k * p.mask_stride + row);
            sum += loss;
        }
    sum = group_sum(sum);
    if (lane == 0) STORE(8, p.y, n, vec4(dot(sum, vec4(1.0)) * p.scale * hyper.y, 0.0, 0.0, 0.0));
}
