/* Read by C and GLSL. Strides and steps in texels. */
struct push_gemm_tn {
    REF a, b, y;
    int rows, slice_rows, taps;  /* rows contracted; by one slice (a multiple of 4); group z = slice*taps + tap */
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
    int rows, planes; /* rows of y per tap, planes of y */
};
