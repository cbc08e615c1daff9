/* Group norm in three passes. part: per image and plane two texels in `partial`, at 2*(n*planes + plane). */
struct push_group_norm {
    REF x, g, stats, gamma, beta, partial, y, y2;
    int n, rows;        /* images, rows per image */
    int planes, groups, channels;
    int x_stride, g_stride, y_stride, stats_stride;
    float eps;
};
