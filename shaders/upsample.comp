// classes: cpu gpu
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/tensor.glsl"
#include "lib/push.glsl"
#include "push/upsample.h"
layout(local_size_x = 64) in;
layout(constant_id = 2) const int BACKWARD = 0;
PUSH(push_upsample)

// First output index whose source is at least i: ceil(i * n_out / n_in).
int first_out(int i, int n_in, int n_out) { return (i * n_out + n_in - 1) / n_in; }

void main() {
    int row = int(gl_GlobalInvocationID.x), plane = int(gl_WorkGroupID.y);
    if (BACKWARD == 0) {
        if (row >= p.n * p.out_h * p.out_w) return;
        int x = row % p.out_w, y = row / p.out_w % p.out_h, n = row / (p.out_w * p.out_h);
        int src = (n * p.in_h + y * p.in_h / p.out_h) * p.in_w + x * p.in_w / p.out_w;
        STORE(8, p.y, plane * p.y_stride + row, LOAD(0, p.x, plane * p.x_stride + src));
        return;
    }
    if (row >= p.n * p.in_h * p.in_w) return;
    int x = row % p.in_w, y = row / p.in_w % p.in_h, n = row / (p.in_w * p.in_h);
    int y1 = first_out(y + 1, p.in_h, p.out_h), x1 = first_out(x + 1, p.in_w, p.out_w);
    vec4 sum = vec4(0.0);
    for (int v = first_out(y, p.in_h, p.out_h); v < y1; v++)
        for (int u = first_out(x, p.in_w, p.out_w); u < x1; u++)
            sum += LOAD(0, p.x, plane * p.x_stride + (n * p.out_h + v) * p.out_w + u);
    STORE(8, p.y, plane * p.y_stride + row, sum);
}
