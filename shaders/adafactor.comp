// classes: cpu gpu
// Five passes over one slot, a workgroup of 64 each: 0 four row means, 1 a plane of column means, 2 partial sums of
// grad^2/(row*column) and of param^2, 3 their totals and the mean row, 4 the update.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/tensor.glsl"
#include "lib/push.glsl"
#include "lib/reduce.glsl"
#include "push/adafactor.h"
layout(local_size_x = 64) in;
layout(constant_id = 2) const int PASS = 0;
PUSH(push_adafactor)

bool counts(int row) { return row < p.rows && row % p.period < p.counted; }
int counted_rows() { return p.rows / p.period * p.counted; }
/* 1 for channels that count. */
vec4 mask(int plane) { return vec4(lessThan(ivec4(plane * 4) + ivec4(0, 1, 2, 3), ivec4(p.channels))); }
vec4 grad(int row, int plane, float factor) { return LOAD(1, p.grad, plane * p.stride + row) * factor * mask(plane); }
float row_mean(int row) { return LOAD(2, p.rows_in, row >> 2)[row & 3]; }

void row_means(int first, int lane, vec4 a, float eps) {
    vec4 sum = vec4(0.0), old = LOAD(2, p.rows_in, first);
    for (int plane = lane; plane < p.planes; plane += 64)
        [[unroll]] for (int k = 0; k < 4; k++)
            if (counts(first * 4 + k)) {
                vec4 g = grad(first * 4 + k, plane, a.z);
                sum[k] += dot(g, g);
            }
    sum = group_sum(sum) / float(p.channels) + eps;
    [[unroll]] for (int k = 0; k < 4; k++)
        if (counts(first * 4 + k)) old[k] = a.w * old[k] + (1.0 - a.w) * sum[k];
    if (lane == 0) STORE(8, p.out_ref, first, old);
}

void column_means(int plane, int lane, vec4 a, float eps) {
    vec4 sum = vec4(0.0), old = LOAD(3, p.columns_in, plane);
    for (int row = lane; row < p.rows; row += 64)
        if (counts(row)) {
            vec4 g = grad(row, plane, a.z);
            sum += g * g;
        }
    sum = group_sum(sum) / float(counted_rows()) + eps;
    vec4 updated = a.w * old + (1.0 - a.w) * sum;
    if (lane == 0) STORE(8, p.out_ref, plane, mix(old, updated, mask(plane)));
}

void partial_sums(int group, int lane, vec4 a) {
    vec4 sum = vec4(0.0);
    int n = p.rows * p.planes, last = min((group + 1) * p.per_group, n);
    for (int i = group * p.per_group + lane; i < last; i += 64) {
        int plane = i / p.rows, row = i - plane * p.rows;
        if (!counts(row)) continue;
        vec4 g = grad(row, plane, a.z), x = LOAD(0, p.param, plane * p.stride + row) * mask(plane);
        vec4 column = mix(vec4(1.0), LOAD(3, p.columns_in, plane), mask(plane));
        // As two quotients: the product of two tiny means would be lost.
        sum.x += dot(g / column, g / row_mean(row));
        sum.y += dot(x, x);
    }
    sum = group_sum(sum);
    if (lane == 0) STORE(9, p.scratch_out, group, sum);
}

void totals(int lane) {
    vec4 sum = vec4(0.0);
    for (int i = lane; i < p.n_parts; i += 64) sum.xy += LOAD(5, p.scratch, i).xy;
    for (int row = lane; row < p.rows; row += 64)
        if (counts(row)) sum.z += row_mean(row);
    sum = group_sum(sum);
    float n = float(counted_rows()), mean = sum.z / n;
    n *= float(p.channels);
    if (lane == 0) STORE(9, p.scratch_out, 0, vec4(mean, sqrt(mean * (sum.x / n)), sqrt(sum.y / n), 0.0));
}

void update(int i, vec4 a, vec4 b) {
    if (i >= p.rows * p.planes) return;
    int plane = i / p.rows, row = i - plane * p.rows;
    if (!counts(row)) return;
    vec4 stats = LOAD(5, p.scratch, 0);
    float lr = a.x * p.rate * (b.w > 0.0 ? max(b.y, stats.z) : 1.0), shrink = max(1.0, stats.y / b.z);
    vec4 x = LOAD(0, p.param, plane * p.stride + row);
    vec4 column = mix(vec4(1.0), LOAD(3, p.columns_in, plane), mask(plane));
    vec4 u = grad(row, plane, a.z) * sqrt(stats.x / row_mean(row)) / sqrt(column);
    STORE(8, p.out_ref, plane * p.stride + row, mix(x, x * (1.0 - a.y * lr) - lr / shrink * u, mask(plane)));
}

void main() {
    int lane = int(gl_LocalInvocationID.x), group = int(gl_WorkGroupID.x);
    vec4 a = LOAD(4, p.hyper, 0), b = LOAD(4, p.hyper, 1); // rate decay factor beta | eps1 eps2 threshold scaled
    if (PASS == 0) row_means(group, lane, a, b.x);
    if (PASS == 1) column_means(group, lane, a, b.x);
    if (PASS == 2) partial_sums(group, lane, a);
    if (PASS == 3) totals(lane);
    if (PASS == 4) update(int(gl_GlobalInvocationID.x), a, b);
}
