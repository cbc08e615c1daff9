/* Read by C and GLSL. */
struct push_attn_plain {
    REF q, k, v, o, lse, g, y;
    int q_stride, k_stride, v_stride, o_stride, lse_stride, g_stride, y_stride;
    int q_rows, k_rows;           /* per image */
    int rows, channels, y_channels; /* rows and channels of y; channels of q */
    int heads, causal;
    float scale;
};
