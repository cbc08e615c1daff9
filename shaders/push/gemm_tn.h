/* Read by C and GLSL. Strides and steps in texels. */
struct push_gemm_tn {
    REF a, b, y;
    int rows, slice_rows; /* rows contracted; by one slice (a multiple of 4) */
    /* Group z = slice*taps + tap. A tap of a convolution, or a product of a batch: `inner` products a step
     * apart, then the next `inner` an outer step on. */
    int taps, inner, a_step, b_step, a_outer, b_outer;
    int a4, b4;                  /* planes */
    int a_stride, b_stride, y_stride, y_step;
    /* Weight gradient of a convolution: geometry as in push/gemm.h, and the distance of four output pixels
     * as (images, rows, columns) in mixed radix. */
    int kernel_stride, pad_up, src_hw, dst_hw;
    int four_n, four_y, four_x;
};
struct push_tn_sum {
    REF part, acc, y;
    int slices, slice_step, tap_step; /* texels from one slice, one tap to the next */
    int part_stride, acc_stride, y_stride;
    int inner, y_step, y_outer; /* where a tap goes in y, and is found in acc */
    int rows, planes;           /* of y, per tap */
};
