// classes: cpu
#version 450
// A weight in the order in which gemm.comp (PACKED) reads it: tile of W output planes, tap, plane contracted, texel of
// the plane, lane. Group x is the tile, y the plane contracted, z the tap.
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_basic : require
#include "lib/push.glsl"
#include "push/gemm_pack.h"
#include "lib/tensor.glsl"
layout(local_size_x_id = 0) in;
layout(constant_id = 2) const int TRANS = 0; // as in gemm.comp
PUSH(push_gemm_pack)

void main() {
    int lane = int(gl_SubgroupInvocationID);
    int tile = int(gl_WorkGroupID.x), k = int(gl_WorkGroupID.y), tap = int(gl_WorkGroupID.z);
    int plane = min(tile * int(W) + lane, p.n4 - 1); // lanes past the last plane repeat it
    int from = int(p.w.x) + tap * p.w_rows + (TRANS == 1 ? plane * p.w_stride + k * 4 : k * p.w_stride + plane * 4);
    int to = ((tile * int(gl_NumWorkGroups.z) + tap) * p.k4 + k) * 4 * int(W) + lane;
    [[unroll]] for (int c = 0; c < 4; c++) STORE(1, p.to, to + c * int(W), imageLoad(T1, from + c));
}
