/* Read by C and GLSL. [head][row] floats -> lse planes. */
struct push_attn_lse {
    REF from, lse;
    int lse_stride, rows, heads;
};
