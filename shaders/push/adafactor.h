/* One slot of rows x channels; parts and stats lie in scratch. Of every `period` rows the first `counted` count. */
struct push_adafactor {
    REF param, grad, rows_in, columns_in, hyper, scratch, out_ref, scratch_out;
    int rows, planes, stride, period, counted, channels;
    int per_group, n_parts;
    float rate;
};
