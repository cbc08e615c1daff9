/* Read by C and GLSL. Strides and steps in texels. */
struct push_gemm {
    REF x, w, bias, res, y;
    int rows, k4, n4;  /* rows of y, planes of x, planes of y */
    int n_tail;        /* channels in y's last plane */
    int x_stride, w_stride, bias_stride, res_stride, y_stride;
    /* A batch (group z): `inner` products a step apart, then the next `inner` an outer step on. */
    int inner, x_step, w_step, y_step, x_outer, w_outer, y_outer;
    /* Convolution: rows of w per tap (texels of a tile's tap in a packed w); then two to a word (low, high 16
     * bits): kernel and stride, padding and upsampling shift, stored height and width of the image read, those of
     * the image written. */
    int rows_first; /* 1: tiles of rows are group x, of planes group y; the weight is then read once */
    int w_rows, kernel_stride, pad_up, src_hw, dst_hw;
};
