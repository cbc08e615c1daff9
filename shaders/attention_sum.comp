// classes: cpu
#version 450
// log2 of the sum over keys of exp(scale*score), per problem and row; a lane owns a row.
#extension GL_GOOGLE_include_directive : require
#include "lib/push.glsl"
#include "push/attention.h"
#include "lib/tensor.glsl"
layout(local_size_x_id = 0) in;
layout(constant_id = 2) const int CAUSAL = 0;
PUSH(push_attention)

void main() {
    int z = int(gl_WorkGroupID.y), row = min(int(gl_GlobalInvocationID.x), p.rows - 1);
    int keys = CAUSAL == 1 ? min(p.row0 + row + 1, p.keys) : p.keys, s = int(p.s.x) + z * p.s_step + row;
    float factor = p.scale * 1.44269504, top = -1e30, sum = 0;
    for (int key = 0; key < p.keys; key += 4) {
        vec4 v = imageLoad(T0, s) * factor;
        v = mix(vec4(-1e30), v, lessThan(ivec4(0, 1, 2, 3) + key, ivec4(keys)));
        float higher = max(max(max(v.x, v.y), max(v.z, v.w)), top);
        sum = sum * exp2(top - higher) + dot(exp2(v - higher), vec4(1));
        top = higher;
        s += p.s_stride;
    }
    STORE(1, p.stats, (p.z0 + z) * p.stats_step + p.row0 + row, vec4(0, top + log2(sum), 0, 0));
}
