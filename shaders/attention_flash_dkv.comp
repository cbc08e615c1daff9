// classes: cpu
#version 450
// Attention's gradients to keys and values in one pass over the queries; a lane owns FRAGS keys. Delta and the log2 of the
// weights' sum come from attention_flash_dq.comp, one texel a row.
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "lib/push.glsl"
#include "push/attention.h"
#include "lib/tensor.glsl"
#include "lib/power.glsl"
layout(local_size_x_id = 0) in;
layout(constant_id = 2) const int D4 = 10; // planes of a head
layout(constant_id = 3) const int FRAGS = 2;
layout(constant_id = 4) const int ROWS = 3;
PUSH(push_flash_dkv)
const int LANES = int(W);
const int PLANES = LANES / ROWS; // planes that one load covers

void main() {
    int lane = int(gl_SubgroupInvocationID), head = int(gl_WorkGroupID.y), image = int(gl_WorkGroupID.z);
    vec4 k[FRAGS * D4], v[FRAGS * D4], dk[FRAGS * D4], dv[FRAGS * D4];
    int key[FRAGS];
    bool again = p.rows < 0; // never, which no compiler can know
    [[unroll]] for (int f = 0; f < FRAGS; f++) {
        key[f] = min((int(gl_WorkGroupID.x) * FRAGS + f) * LANES + lane, p.keys - 1);
        [[unroll]] for (int d = 0; d < D4; d++) {
            int plane = head * D4 + d, at = image * p.keys + key[f], i = f * D4 + d;
            k[i] = imageLoad(T1, int(p.k.x) + plane * p.k_stride + at) * (p.scale * 1.44269504);
            v[i] = imageLoad(T2, int(p.v.x) + plane * p.v_stride + at);
            dk[i] = vec4(0);
            dv[i] = vec4(0);
        }
    }
    int q_at = int(p.q.x) + image * p.rows + head * D4 * p.q_stride;
    int g_at = int(p.g.x) + image * p.rows + head * D4 * p.g_stride;
    int stats_at = int(p.stats.x) + (image * p.heads + head) * p.stats_step;
    for (int row = 0; row < p.rows; row += ROWS) {
        vec4 part; // fetched where it is needed: registers are short
        int mine = min(row + lane % ROWS, p.rows - 1);
        float s[ROWS * FRAGS], ds[ROWS * FRAGS];
        vec4 stats = imageLoad(T4, stats_at + mine);
        [[unroll]] for (int i = 0; i < ROWS; i++) {
            float lse = subgroupShuffle(stats.y, uint(i)), delta = subgroupShuffle(stats.x, uint(i));
            [[unroll]] for (int f = 0; f < FRAGS; f++) {
                s[i * FRAGS + f] = row + i < p.rows ? -lse : -1e30;
                ds[i * FRAGS + f] = -delta;
            }
        }
        [[unroll]] for (int d = 0; d < D4; d++) {
            if (d % PLANES == 0) part = imageLoad(T0, q_at + min(d + lane / ROWS, D4 - 1) * p.q_stride + mine);
            [[unroll]] for (int c = 0; c < 4; c++)
                [[unroll]] for (int i = 0; i < ROWS; i++) {
                    float t = subgroupShuffle(part[c], uint(d % PLANES * ROWS + i));
                    [[unroll]] for (int f = 0; f < FRAGS; f++) s[i * FRAGS + f] += k[f * D4 + d][c] * t;
                }
        }
        [[unroll]] for (int d = 0; d < D4; d++) {
            if (d % PLANES == 0) part = imageLoad(T3, g_at + min(d + lane / ROWS, D4 - 1) * p.g_stride + mine);
            [[unroll]] for (int c = 0; c < 4; c++)
                [[unroll]] for (int i = 0; i < ROWS; i++) {
                    float t = subgroupShuffle(part[c], uint(d % PLANES * ROWS + i));
                    [[unroll]] for (int f = 0; f < FRAGS; f++) ds[i * FRAGS + f] += v[f * D4 + d][c] * t;
                }
        }
        [[unroll]] for (int i = 0; i < ROWS * FRAGS; i++) {
            s[i] = power(s[i]);
            ds[i] *= s[i];
        }
        // Loops of one round: LLVM schedules within a basic block, and would mix the parts until registers run out.
        do {
            [[unroll]] for (int d = 0; d < D4; d++) {
                if (d % PLANES == 0) part = imageLoad(T3, g_at + min(d + lane / ROWS, D4 - 1) * p.g_stride + mine);
                [[unroll]] for (int c = 0; c < 4; c++)
                    [[unroll]] for (int i = 0; i < ROWS; i++) {
                        float t = subgroupShuffle(part[c], uint(d % PLANES * ROWS + i));
                        [[unroll]] for (int f = 0; f < FRAGS; f++) dv[f * D4 + d][c] += s[i * FRAGS + f] * t;
                    }
            }
        } while (again);
        do {
            [[unroll]] for (int d = 0; d < D4; d++) {
                if (d % PLANES == 0) part = imageLoad(T0, q_at + min(d + lane / ROWS, D4 - 1) * p.q_stride + mine);
                [[unroll]] for (int c = 0; c < 4; c++)
                    [[unroll]] for (int i = 0; i < ROWS; i++) {
                        float t = subgroupShuffle(part[c], uint(d % PLANES * ROWS + i));
                        [[unroll]] for (int f = 0; f < FRAGS; f++) dk[f * D4 + d][c] += ds[i * FRAGS + f] * t;
                    }
            }
        } while (again);
    }
    [[unroll]] for (int f = 0; f < FRAGS; f++)
        [[unroll]] for (int d = 0; d < D4; d++) {
            int plane = head * D4 + d, at = image * p.keys + key[f];
            if ((p.dk.x | p.dk.y) != 0u) STORE(5, p.dk, plane * p.dk_stride + at, dk[f * D4 + d] * p.scale);
            if ((p.dv.x | p.dv.y) != 0u) STORE(6, p.dv, plane * p.dv_stride + at, dv[f * D4 + d]);
        }
}
