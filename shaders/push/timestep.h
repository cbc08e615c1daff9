struct push_timestep {
    REF t, y;
    int n, dim, y_stride, cos_first;
    float freq_shift;
};
