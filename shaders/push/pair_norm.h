/* Two factors of a LoRA; parts and the common factor lie in scratch. */
struct push_pair_norm {
    REF down, up, scratch, out_ref;
    int taps, ranks, down_planes, down_stride, out_rows, up_stride;
    int texels, n_parts;
    float scale, most;
};
