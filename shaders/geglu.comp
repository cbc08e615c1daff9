// classes: cpu gpu
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/tensor.glsl"
#include "lib/push.glsl"
#include "lib/math.glsl"
#include "push/geglu.h"
layout(local_size_x = 64) in;
layout(constant_id = 2) const int BACKWARD = 0;
PUSH(push_geglu)

void main() {
    int row = int(gl_GlobalInvocationID.x), plane = int(gl_WorkGroupID.y);
    if (row >= p.rows) return;
    vec4 value = LOAD(0, p.x, plane * p.x_stride + row);
    vec4 gate = LOAD(0, p.x, (plane + p.planes) * p.x_stride + row);
    if (BACKWARD == 0) {
        STORE(8, p.y, plane * p.y_stride + row, value * gelu4(gate));
        return;
    }
    vec4 g = LOAD(1, p.g, plane * p.g_stride + row);
    STORE(8, p.y, plane * p.y_stride + row, g * gelu4(gate));
    STORE(8, p.y, (plane + p.planes) * p.y_stride + row, g * value * gelu_slope4(gate));
}
