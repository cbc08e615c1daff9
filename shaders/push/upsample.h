/* From in_h x in_w to out_h x out_w by nearest neighbour; backward sums what a pixel fed. */
struct push_upsample {
    REF x, y;
    int n, in_h, in_w, out_h, out_w;
    int x_stride, y_stride;
};
