/* One invocation per row; gamma and beta are dense. */
struct push_layer_norm {
    REF x, g, stats, gamma, beta, y, y2;
    int rows, planes, channels;
    int x_stride, g_stride, y_stride;
    float eps;
};
