/* Read by C and GLSL. y[rows][channels] = sum over taps and source planes of x * w, + bias + res. */
struct push_gemm_tiled {
    REF x, w, bias, res, y;
    REF scale;                /* of a coded w, whose w_stride counts tiles of 4 rows (graph/quant.h) */
    int x_stride, w_stride, res_stride, y_stride;
    int rows, channels;       /* of y */
    int tap_planes;           /* planes of x, each tap contracts them all */
    int w_rows;               /* rows of w per tap */
    int all_planes;           /* taps * tap_planes */
    int slice_planes;         /* of all_planes per z slice, a multiple of 4 */
    int src_h, src_w;         /* pixels of x */
    int dst_h, dst_w;         /* pixels of y */
    int pad;
};
