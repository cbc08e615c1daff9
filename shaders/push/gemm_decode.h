/* Read by C and GLSL. Strides in texels; those of w in tiles of 4 rows (graph/quant.h). */
struct push_gemm_decode {
    REF x, bias, res, y;
    int w, scale;     /* texel indices (16 bytes) of the codes and of the scales */
    int w_stride;     /* tiles between planes of w; f16: texels of 8 bytes */
    int rows, k4, n4; /* rows of y, planes contracted, planes of y */
    int x_stride, bias_stride, res_stride, y_stride;
    int rows_first, w_rows, kernel_stride, pad_up, src_hw, dst_hw; /* as in push/gemm.h */
};
