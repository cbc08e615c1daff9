// classes: gpu
// Attention and its gradients for heads that are no whole number of planes: an invocation makes one texel,
// a channel at a time, and recomputes every score it needs. Grid: rows, planes of y.
// Operands: 0 q, 1 k, 2 v, 3 o, 4 lse, 5 g, 6 y.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "lib/push.glsl"
#include "push/attn_plain.h"
#include "lib/tensor.glsl"
layout(local_size_x = 64) in;
layout(constant_id = 2) const int WHAT = 0; // 0 o, 1 lse, 2 dq, 3 dk, 4 dv
layout(push_constant) uniform Push { push_attn_plain p; };

float q_at(int row, int c) { return LOAD(0, p.q, (c >> 2) * p.q_stride + row)[c & 3]; }
float k_at(int row, int c) { return LOAD(1, p.k, (c >> 2) * p.k_stride + row)[c & 3]; }
float v_at(int row, int c) { return LOAD(2, p.v, (c >> 2) * p.v_stride + row)[c & 3]; }
float o_at(int row, int c) { return LOAD(3, p.o, (c >> 2) * p.o_stride + row)[c & 3]; }
float lse_at(int row, int h) { return LOAD(4, p.lse, (h >> 2) * p.lse_stride + row)[h & 3]; }
float g_at(int row, int c) { return LOAD(5, p.g, (c >> 2) * p.g_stride + row)[c & 3]; }

int width() { return p.channels / p.heads; }
float score(int q, int k, int head) {
    float s = 0;
    for (int c = head * width(); c < (head + 1) * width(); c++) s = fma(q_at(q, c), k_at(k, c), s);
    return s * p.scale;
}
// Gradient to the scaled score of a query and a key.
float score_grad(int q, int k, int head) {
    float s = 0;
    for (int c = head * width(); c < (head + 1) * width(); c++) s = fma(g_at(q, c), v_at(k, c) - o_at(q, c), s);
    return exp(score(q, k, head) - lse_at(q, head)) * s;
}
// Channel c of o at query q, or the log-sum of a head.
float forward(int q, int k0, int k_end, int head, int c) {
    float top = -1e30, sum = 0, acc = 0;
    for (int k = k0; k < k_end; k++) {
        float s = score(q, k, head), m = max(top, s), keep = exp(top - m), e = exp(s - m);
        sum = sum * keep + e;
        if (WHAT == 0) acc = acc * keep + e * v_at(k, c);
        top = m;
    }
    return WHAT == 0 ? acc / sum : top + log(sum);
}
float backward_q(int q, int k0, int k_end, int head, int c) {
    float acc = 0;
    for (int k = k0; k < k_end; k++) acc += score_grad(q, k, head) * k_at(k, c);
    return acc * p.scale;
}
float backward_kv(int k, int q0, int q_end, int head, int c) {
    float acc = 0;
    for (int q = q0; q < q_end; q++) {
        if (WHAT == 3) acc += score_grad(q, k, head) * q_at(q, c) * p.scale;
        else acc += exp(score(q, k, head) - lse_at(q, head)) * g_at(q, c);
    }
    return acc;
}

void main() {
    int row = int(gl_GlobalInvocationID.x), plane = int(gl_WorkGroupID.y);
    if (row >= p.rows) return;
    bool of_query = WHAT < 3;
    int per_image = of_query ? p.q_rows : p.k_rows, image = row / per_image, at = row - image * per_image;
    int k0 = image * p.k_rows, k_end = k0 + (p.causal != 0 ? min(p.k_rows, at + 1) : p.k_rows);
    int q0 = image * p.q_rows + (p.causal != 0 ? at : 0), q_end = (image + 1) * p.q_rows;
    vec4 y = vec4(0);
    for (int i = 0; i < 4; i++) {
        int c = plane * 4 + i;
        if (c >= p.y_channels) break;
        int head = WHAT == 1 ? c : c / width();
        if (WHAT <= 1) y[i] = forward(row, k0, k_end, head, c);
        else if (WHAT == 2) y[i] = backward_q(row, k0, k_end, head, c);
        else y[i] = backward_kv(row, q0, q_end, head, c);
    }
    STORE(6, p.y, plane * p.y_stride + row, y);
}
