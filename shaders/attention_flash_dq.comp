// classes: cpu
#version 450
// Attention's gradient to the queries in one pass over the keys, and what the pass over the queries needs of each row. A lane
// owns FRAGS rows, as in attention_flash.comp; the weights are made again from the scores.
//
// The slopes of a row's scores, weight*(dot(g, v) - delta), must sum to 0. With delta from the forward pass's output (o*g)
// they miss that by its rounding, and keys that have much in common enlarge the miss. So the pass also sums weights,
// slopes and weight*key, and takes the miss out at the end; the other pass gets the mended delta.
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "lib/push.glsl"
#include "push/attention.h"
#include "lib/tensor.glsl"
#include "lib/head.glsl"
#include "lib/power.glsl"
layout(local_size_x_id = 0) in;
layout(constant_id = 2) const int D4 = 10; // planes of a head
layout(constant_id = 3) const int FRAGS = 2;
layout(constant_id = 4) const int KEYS = 3;
PUSH(push_flash_dq)
const int LANES = int(W);
const int PLANES = LANES / KEYS; // planes that one load covers

void main() {
    int lane = int(gl_SubgroupInvocationID), head = int(gl_WorkGroupID.y), image = int(gl_WorkGroupID.z);
    vec4 q[FRAGS * D4], g[FRAGS * D4], dq[FRAGS * D4], mean[FRAGS * D4];
    int row[FRAGS];
    float delta[FRAGS], lse[FRAGS], sum[FRAGS], miss[FRAGS];
    bool again = p.rows < 0; // never, which no compiler can know
    [[unroll]] for (int f = 0; f < FRAGS; f++) {
        row[f] = min((int(gl_WorkGroupID.x) * FRAGS + f) * LANES + lane, p.rows - 1);
        sum[f] = 0;
        miss[f] = 0;
        int at = image * p.rows + row[f];
        vec4 dots = vec4(0);
        [[unroll]] for (int d = 0; d < D4; d++) {
            int plane = head * D4 + d, i = f * D4 + d;
            q[i] = imageLoad(T0, int(p.q.x) + plane * p.q_stride + at) * (p.scale * 1.44269504);
            g[i] = imageLoad(T3, int(p.g.x) + plane * p.g_stride + at);
            dots += g[i] * imageLoad(T4, int(p.o.x) + plane * p.o_stride + at);
            dq[i] = vec4(0);
            mean[i] = vec4(0);
        }
        delta[f] = dot(dots, vec4(1));
        lse[f] = of_head(imageLoad(T5, int(p.lse.x) + (head >> 2) * p.lse_stride + at), head) * 1.44269504;
    }
    int k_at = int(p.k.x) + image * p.keys + head * D4 * p.k_stride;
    int v_at = int(p.v.x) + image * p.keys + head * D4 * p.v_stride;
    for (int key = 0; key < p.keys; key += KEYS) {
        vec4 part; // fetched where it is needed: registers are short
        int mine = min(key + lane % KEYS, p.keys - 1);
        float s[KEYS * FRAGS], ds[KEYS * FRAGS];
        [[unroll]] for (int i = 0; i < KEYS; i++) {
            [[unroll]] for (int f = 0; f < FRAGS; f++) {
                s[i * FRAGS + f] = key + i < p.keys ? -lse[f] : -1e30;
                ds[i * FRAGS + f] = -delta[f];
            }
        }
        [[unroll]] for (int d = 0; d < D4; d++) {
            if (d % PLANES == 0) part = imageLoad(T1, k_at + min(d + lane / KEYS, D4 - 1) * p.k_stride + mine);
            [[unroll]] for (int c = 0; c < 4; c++)
                [[unroll]] for (int i = 0; i < KEYS; i++) {
                    float t = subgroupShuffle(part[c], uint(d % PLANES * KEYS + i));
                    [[unroll]] for (int f = 0; f < FRAGS; f++) s[i * FRAGS + f] += q[f * D4 + d][c] * t;
                }
        }
        [[unroll]] for (int d = 0; d < D4; d++) {
            if (d % PLANES == 0) part = imageLoad(T2, v_at + min(d + lane / KEYS, D4 - 1) * p.v_stride + mine);
            [[unroll]] for (int c = 0; c < 4; c++)
                [[unroll]] for (int i = 0; i < KEYS; i++) {
                    float t = subgroupShuffle(part[c], uint(d % PLANES * KEYS + i));
                    [[unroll]] for (int f = 0; f < FRAGS; f++) ds[i * FRAGS + f] += g[f * D4 + d][c] * t;
                }
        }
        [[unroll]] for (int i = 0; i < KEYS * FRAGS; i++) {
            s[i] = power(s[i]);
            ds[i] *= s[i];
            sum[i % FRAGS] += s[i];
            miss[i % FRAGS] += ds[i];
        }
        // A loop of one round: LLVM schedules within a basic block, and would mix the two halves until registers run out.
        do {
            [[unroll]] for (int d = 0; d < D4; d++) {
                if (d % PLANES == 0) part = imageLoad(T1, k_at + min(d + lane / KEYS, D4 - 1) * p.k_stride + mine);
                [[unroll]] for (int c = 0; c < 4; c++)
                    [[unroll]] for (int i = 0; i < KEYS; i++) {
                        float t = subgroupShuffle(part[c], uint(d % PLANES * KEYS + i));
                        [[unroll]] for (int f = 0; f < FRAGS; f++) {
                            dq[f * D4 + d][c] += ds[i * FRAGS + f] * t;
                            mean[f * D4 + d][c] += s[i * FRAGS + f] * t;
                        }
                    }
            }
        } while (again);
    }
    [[unroll]] for (int f = 0; f < FRAGS; f++) {
        float off = miss[f] / sum[f];
        if ((p.dq.x | p.dq.y) != 0u) {
            [[unroll]] for (int d = 0; d < D4; d++)
                STORE(6, p.dq, (head * D4 + d) * p.dq_stride + image * p.rows + row[f],
                      (dq[f * D4 + d] - off * mean[f * D4 + d]) * (p.scale / sum[f]));
        }
        STORE(7, p.stats, (image * p.heads + head) * p.stats_step + row[f], vec4(delta[f] + off, lse[f] + log2(sum[f]), 0, 0));
    }
}
