/* Read by C and GLSL. One head of one image per workgroup column; lse is f32 or absent (0). */
struct push_attn_flash {
    REF q, k, v, o, lse;
    int q_stride, k_stride, v_stride, o_stride, lse_stride;
    int q_rows, k_rows; /* per image */
    int causal;
    float scale;        /* times log2(e) */
};
