/* Sums `rows` rows of image gl_WorkGroupID.y of each plane into row gl_WorkGroupID.y of y. */
struct push_row_sum {
    REF x, y;
    int rows, x_stride, y_stride;
};
