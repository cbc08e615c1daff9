// The levels of graph/quant.c. Lavapipe makes a loop over lanes of a table look-up, hence a tree of selections: one
// per level, for the four codes in the low 16 bits.
#define NF4_PAIR(a, b) mix(vec4(a), vec4(b), b0)
vec4 nf4_select(uint codes) {
    uvec4 u = uvec4(codes, codes >> 4, codes >> 8, codes >> 12);
    bvec4 b0 = notEqual(u & 1u, uvec4(0)), b1 = notEqual(u & 2u, uvec4(0));
    bvec4 b2 = notEqual(u & 4u, uvec4(0)), b3 = notEqual(u & 8u, uvec4(0));
    vec4 q0 = mix(NF4_PAIR(-1.0, -0.6961928009986877), NF4_PAIR(-0.5250730514526367, -0.39491748809814453), b1);
    vec4 q1 = mix(NF4_PAIR(-0.28444138169288635, -0.18477343022823334), NF4_PAIR(-0.09105003625154495, 0.0), b1);
    vec4 q2 = mix(NF4_PAIR(0.07958029955625534, 0.16093020141124725), NF4_PAIR(0.24611230194568634, 0.33791524171829224), b1);
    vec4 q3 = mix(NF4_PAIR(0.44070982933044434, 0.5626170039176941), NF4_PAIR(0.7229568362236023, 1.0), b1);
    return mix(mix(q0, q1, b2), mix(q2, q3, b2), b3);
}
