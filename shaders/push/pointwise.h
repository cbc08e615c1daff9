/* y = f(a, b) over `rows` of each plane; b's row is row (or row/image_rows, or 0). */
struct push_pointwise {
    REF a, b, y;
    int rows, image_rows;
    int a_stride, b_stride, y_stride;
    float factor;
};
