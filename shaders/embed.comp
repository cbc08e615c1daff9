// classes: cpu gpu
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/tensor.glsl"
#include "lib/push.glsl"
#include "push/embed.h"
layout(local_size_x = 64) in;
layout(constant_id = 2) const int POSITIONS = 0;
PUSH(push_embed)

void main() {
    int row = int(gl_GlobalInvocationID.x), plane = int(gl_WorkGroupID.y);
    if (row >= p.rows) return;
    int id = clamp(int(LOAD(0, p.ids, row).x), 0, p.vocabulary - 1);
    vec4 y = LOAD(1, p.table, plane * p.table_stride + id);
    if (POSITIONS != 0) y += LOAD(2, p.positions, plane * p.positions_stride + row % p.tokens);
    STORE(8, p.y, plane * p.y_stride + row, y);
}
