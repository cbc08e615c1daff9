// classes: cpu
#version 450
// Attention in one pass over the keys. A lane owns FRAGS query rows of one head and keeps their queries and
// results; keys and values come in with one texel per lane and are broadcast, KEYS at a time. FRAGS*KEYS*D4
// sets the length of the loop's code: beyond the instruction cache (about 120) it gets slower.
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "lib/push.glsl"
#include "push/attention.h"
#include "lib/tensor.glsl"
#include "lib/power.glsl"
layout(local_size_x_id = 0) in;
layout(constant_id = 2) const int D4 = 10;    // planes of a head
layout(constant_id = 3) const int FRAGS = 3;
layout(constant_id = 4) const int KEYS = 3;
PUSH(push_flash)
const int LANES = int(W);
const int PLANES = LANES / KEYS; // planes that one load covers

void main() {
    int lane = int(gl_SubgroupInvocationID), head = int(gl_WorkGroupID.y), image = int(gl_WorkGroupID.z);
    vec4 q[FRAGS * D4], o[FRAGS * D4];
    int row[FRAGS];
    float top[FRAGS], sum[FRAGS];
    bool again = p.rows < 0; // never, which no compiler can know
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
        vec4 part; // fetched where it is needed: registers are short
        int mine = min(key + lane % KEYS, p.keys - 1);
        float s[KEYS * FRAGS], fade[FRAGS];
        [[unroll]] for (int i = 0; i < KEYS; i++) {
            float start = key + i < p.keys ? 0 : -1e30;
            [[unroll]] for (int f = 0; f < FRAGS; f++) s[i * FRAGS + f] = start;
        }
        [[unroll]] for (int d = 0; d < D4; d++) {
            if (d % PLANES == 0) part = imageLoad(T1, k_at + min(d + lane / KEYS, D4 - 1) * p.k_stride + mine);
            [[unroll]] for (int c = 0; c < 4; c++)
                [[unroll]] for (int i = 0; i < KEYS; i++) {
                    float t = subgroupShuffle(part[c], uint(d % PLANES * KEYS + i));
                    [[unroll]] for (int f = 0; f < FRAGS; f++) s[i * FRAGS + f] += q[f * D4 + d][c] * t;
                }
        }
        [[unroll]] for (int f = 0; f < FRAGS; f++) {
            precise float higher = top[f]; // precise: NIR would make it a max(), which costs eight instructions for NaN's sake
            [[unroll]] for (int i = 0; i < KEYS; i++) higher = s[i * FRAGS + f] > higher ? s[i * FRAGS + f] : higher;
            fade[f] = power(top[f] - higher);
            top[f] = higher;
            sum[f] *= fade[f];
            [[unroll]] for (int i = 0; i < KEYS; i++) {
                s[i * FRAGS + f] = power(s[i * FRAGS + f] - higher);
                sum[f] += s[i * FRAGS + f];
            }
        }
        // A loop of one round: LLVM schedules within a basic block, and would mix the two halves until registers run out.
        do {
            [[unroll]] for (int d = 0; d < D4; d++) {
                if (d % PLANES == 0) part = imageLoad(T2, v_at + min(d + lane / KEYS, D4 - 1) * p.v_stride + mine);
                [[unroll]] for (int c = 0; c < 4; c++) {
                    [[unroll]] for (int f = 0; f < FRAGS; f++) o[f * D4 + d][c] *= fade[f];
                    [[unroll]] for (int i = 0; i < KEYS; i++) {
                        float t = subgroupShuffle(part[c], uint(d % PLANES * KEYS + i));
                        [[unroll]] for (int f = 0; f < FRAGS; f++) o[f * D4 + d][c] += s[i * FRAGS + f] * t;
                    }
                }
            }
        } while (again);
    }
    [[unroll]] for (int f = 0; f < FRAGS; f++) {
        [[unroll]] for (int d = 0; d < D4; d++)
            STORE(3, p.o, (head * D4 + d) * p.o_stride + image * p.rows + row[f], o[f * D4 + d] / sum[f]);
        STORE(4, p.stats, (image * p.heads + head) * p.stats_step + row[f], vec4(0, top[f] + log2(sum[f]), 0, 0));
    }
}
