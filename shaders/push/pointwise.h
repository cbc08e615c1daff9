/* y = f(a, b) over `rows` of each plane; b's row is row (or row/image_rows, or 0). channel:
 * of b's texel, where it holds one number per row. */
struct push_pointwise {
    REF a, b, y;
    int rows, image_rows;
    int a_stride, b_stride, y_stride, channel;
    float factor;
};
