/* rows per image; `scale` is 1/elements of an image. */
struct push_huber {
    REF a, b, hyper, mask, seed, y;
    int rows, planes, a_stride, b_stride, mask_stride, y_stride, n;
    float scale;
};
