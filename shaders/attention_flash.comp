// classes: cpu
#version 450
// Attention in one pass over the keys. A lane owns FRAGS query rows of one head and keeps their queries and
// results; keys and values come in with one texel per lane and are broadcast, KEYS at a time. FRAGS*KEYS*D4
// sets the length of the loop's code: beyond the instruction cache (about 100) it gets slower.
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "lib/push.glsl"
#include "push/attention.h"
#include "lib/tensor.glsl"
layout(local_size_x_id = 0) in;
layout(constant_id = 2) const int D4 = 10;    // planes of a head
layout(constant_id = 3) const int FRAGS = 3;
layout(constant_id = 4) const int KEYS = 3;
PUSH(push_flash)
const int LANES = int(W);
const int PLANES = LANES / KEYS; // planes that one load covers
const int LOADS = (D4 + PLANES - 1) / PLANES;

void main() {
    int lane = int(gl_SubgroupInvocationID), head = int(gl_WorkGroupID.y), image = int(gl_WorkGroupID.z);
    vec4 q[FRAGS * D4], o[FRAGS * D4];
    int row[FRAGS];
    float top[FRAGS], sum[FRAGS];
    [[unroll]] for (int f = 0; f < FRAGS; f++) {
        row[f] = min((int(gl_WorkGroupID.x) * FRAGS + f) * LANES + lane, p.rows - 1);
        top[f] = -1e30;
        sum[f] = 0;
        [[unroll]] for (int d = 0; d < D4; d++) {
            int at = int(p.q.x) + (head * D4 + d) * p.q_stride + image * p.rows + row[f];
            q[f * D4 + d] = imageLoad(T0, at) * (p.scale * 1.44269504);
            o[f * D4 + d] = vec4(0);
        }
    }
    int k_at = int(p.k.x) + image * p.keys + head * D4 * p.k_stride;
    int v_at = int(p.v.x) + image * p.keys + head * D4 * p.v_stride;
    for (int key = 0; key < p.keys; key += KEYS) {
        vec4 part[LOADS];
        int mine = min(key + lane % KEYS, p.keys - 1);
        [[unroll]] for (int l = 0; l < LOADS; l++)
            part[l] = imageLoad(T1, k_at + min(l * PLANES + lane / KEYS, D4 - 1) * p.k_stride + mine);
        float s[KEYS * FRAGS], fade[FRAGS];
        [[unroll]] for (int i = 0; i < KEYS * FRAGS; i++) s[i] = 0;
        [[unroll]] for (int d = 0; d < D4; d++)
            [[unroll]] for (int c = 0; c < 4; c++)
                [[unroll]] for (int i = 0; i < KEYS; i++) {
                    float t = subgroupShuffle(part[d / PLANES][c], uint(d % PLANES * KEYS + i));
                    [[unroll]] for (int f = 0; f < FRAGS; f++) s[i * FRAGS + f] += q[f * D4 + d][c] * t;
                }
        [[unroll]] for (int f = 0; f < FRAGS; f++) {
            float higher = top[f];
            [[unroll]] for (int i = 0; i < KEYS; i++) {
                s[i * FRAGS + f] = key + i < p.keys ? s[i * FRAGS + f] : -1e30;
                higher = max(higher, s[i * FRAGS + f]);
            }
            fade[f] = exp2(top[f] - higher);
            top[f] = higher;
            sum[f] *= fade[f];
            [[unroll]] for (int i = 0; i < KEYS; i++) {
                s[i * FRAGS + f] = exp2(s[i * FRAGS + f] - higher);
                sum[f] += s[i * FRAGS + f];
            }
        }
        [[unroll]] for (int l = 0; l < LOADS; l++)
            part[l] = imageLoad(T2, v_at + min(l * PLANES + lane / KEYS, D4 - 1) * p.v_stride + mine);
        [[unroll]] for (int d = 0; d < D4; d++)
            [[unroll]] for (int c = 0; c < 4; c++) {
                [[unroll]] for (int f = 0; f < FRAGS; f++) o[f * D4 + d][c] *= fade[f];
                [[unroll]] for (int i = 0; i < KEYS; i++) {
                    float t = subgroupShuffle(part[d / PLANES][c], uint(d % PLANES * KEYS + i));
                    [[unroll]] for (int f = 0; f < FRAGS; f++) o[f * D4 + d][c] += s[i * FRAGS + f] * t;
                }
            }
    }
    [[unroll]] for (int f = 0; f < FRAGS; f++) {
        [[unroll]] for (int d = 0; d < D4; d++)
            STORE(3, p.o, (head * D4 + d) * p.o_stride + image * p.rows + row[f], o[f * D4 + d] / sum[f]);
        STORE(4, p.stats, (image * p.heads + head) * p.stats_step + row[f], vec4(0, top[f] + log2(sum[f]), 0, 0));
    }
}
