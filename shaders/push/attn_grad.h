/* Read by C and GLSL. Backward of attention: dq, or dk and dv summed over slices of the queries.
 * pairs: attn_delta's result. An absent result has a zero reference. */
struct push_attn_grad {
    REF q, k, v, g, pairs, y0, y1;
    int q_stride, k_stride, v_stride, g_stride, y0_stride, y1_stride;
    int q_rows, k_rows; /* per image */
    int n, slice_rows;  /* images; queries per slice, a multiple of 32 */
    int causal;
    float scale;
};
