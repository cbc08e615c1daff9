// classes: cpu gpu
// dgamma and dbeta (address 0: not wanted): the partial sums of group_norm_dx_part added over images.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/tensor.glsl"
#include "lib/push.glsl"
#include "push/group_norm.h"
layout(local_size_x = 64) in;
PUSH(push_group_norm)

void main() {
    int plane = int(gl_GlobalInvocationID.x);
    if (plane >= p.planes) return;
    vec4 s1 = vec4(0.0), s2 = vec4(0.0);
    for (int n = 0; n < p.n; n++) {
        s1 += LOAD(0, p.partial, 2 * (n * p.planes + plane));
        s2 += LOAD(0, p.partial, 2 * (n * p.planes + plane) + 1);
    }
    if (p.y != uvec2(0)) STORE(8, p.y, plane, s2);
    if (p.y2 != uvec2(0)) STORE(9, p.y2, plane, s1);
}
