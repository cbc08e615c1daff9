/* Read by C and GLSL. y = part[0] + part[1] + ... + bias + res, slice s at part + s*slice_texels. */
struct push_sum_slices {
    REF part, bias, res, y;
    int part_stride, res_stride, y_stride;
    int rows, slices, slice_texels;
};
