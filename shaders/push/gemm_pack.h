/* Read by C and GLSL. Strides in texels. */
struct push_gemm_pack {
    REF w, to;
    int k4, n4;           /* planes contracted, planes written by the product */
    int w_stride, w_rows; /* of w: between planes, rows per tap */
};
