/* Read by C and GLSL. y[tap*a_channels + o][i] = sum over a's rows of a[row][o] * b[source(row, tap)][i]. */
struct push_gemm_tn_tiled {
    REF a, b, acc, y;
    int a_stride, b_stride, acc_stride, y_stride;
    int rows;                 /* of a: contracted */
    int a_channels, b_channels;
    int slices, slice_rows;   /* grid z = taps * slices; slice_rows is a multiple of 16 */
    int src_h, src_w;         /* pixels of b */
    int dst_h, dst_w;         /* pixels of a */
    int pad;
};
