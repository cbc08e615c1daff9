// classes: gpu
// Adds the partial results of a contraction that was split over workgroups, in slice order.
// Operands: 0 part, 1 bias, 2 res, 3 y.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/push.glsl"
#include "push/sum_slices.h"
#include "lib/tensor.glsl"
layout(local_size_x = 64) in;
layout(constant_id = 2) const int EPILOGUE = 0; // bit 0 bias, bit 1 res
layout(push_constant) uniform Push { push_sum_slices p; };
void main() {
    int row = int(gl_GlobalInvocationID.x), plane = int(gl_WorkGroupID.y);
    if (row >= p.rows) return;
    vec4 v = (EPILOGUE & 1) != 0 ? LOAD(1, p.bias, plane) : vec4(0);
    for (int s = 0; s < p.slices; s++) v += LOAD(0, p.part, s * p.slice_texels + plane * p.part_stride + row);
    if ((EPILOGUE & 2) != 0) v += LOAD(2, p.res, plane * p.res_stride + row);
    STORE(3, p.y, plane * p.y_stride + row, v);
}
