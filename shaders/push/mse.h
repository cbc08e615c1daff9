/* rows per image; `scale` is 1/elements of an image, times 2 backward. */
struct push_mse {
    REF a, b, seed, y;
    int rows, planes, a_stride, b_stride, y_stride, n;
    float scale;
};
