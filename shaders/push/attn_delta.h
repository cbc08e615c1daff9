/* Read by C and GLSL. Per head and row: lse in units of log2, and the sum of g*o. */
struct push_attn_delta {
    REF o, g, lse, pairs;
    int o_stride, g_stride, lse_stride, rows;
};
