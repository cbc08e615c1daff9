/* x has 2*planes planes: values, then gates. */
struct push_geglu {
    REF x, g, y;
    int rows, planes;
    int x_stride, g_stride, y_stride;
};
