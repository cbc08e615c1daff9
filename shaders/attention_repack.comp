// classes: cpu
#version 450
// Heads that are no whole number of planes wide are spread to such, and back; a lane owns a row.
#extension GL_GOOGLE_include_directive : require
#include "lib/push.glsl"
#include "push/attention.h"
#include "lib/tensor.glsl"
layout(local_size_x_id = 0) in;
PUSH(push_repack)

void main() {
    int row = min(int(gl_GlobalInvocationID.x), p.rows - 1), plane = int(gl_WorkGroupID.y);
    vec4 v = vec4(0);
    [[unroll]] for (int j = 0; j < 4; j++) {
        int i = plane * 4 + j, head = i / p.to_width, within = i - head * p.to_width;
        int c = head * p.from_width + within;
        vec4 t = imageLoad(T0, int(p.from.x) + (c >> 2) * p.from_stride + row);
        vec2 pair = (c & 2) == 0 ? t.xy : t.zw;
        v[j] = i < p.channels && within < p.from_width ? ((c & 1) == 0 ? pair.x : pair.y) : 0;
    }
    STORE(1, p.to, plane * p.to_stride + row, v);
}
