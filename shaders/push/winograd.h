/* Read by C and GLSL. Tiles of M x M outputs; strides and steps in texels. */
struct push_winograd {
    REF from, to, bias, res;
    int tile0, tiles;     /* first tile of this block, tiles in it */
    int tiles_y, tiles_x; /* of an image */
    int h, w;             /* image as stored */
    int from_stride, to_stride, bias_stride, res_stride;
    int step;             /* between the transformed images or weights, in from or to */
    int planes, n_tail;   /* of the output (weight: planes contracted); channels in its last plane */
    int rows;             /* weight: rows per tap */
};
