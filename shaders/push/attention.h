/* Read by C and GLSL. A problem z is (image, head); scores of z: texel (key/4, row). Steps in texels. */
struct push_attention {
    REF s, ds, s_out, ds_out; /* scores and their gradient, read and written */
    REF stats;                /* (delta, log2-sum, 0, 0) per z and row */
    REF lse;
    int z0, heads;     /* first problem of this block; heads per image */
    int row0, rows;    /* first row of this block in an image; rows of it */
    int row_count, keys; /* rows and keys per image */
    int s_stride, s_step, stats_step;
    int lse_stride;
    float scale;       /* of the scores */
};
/* Moves channels between heads of from_width and heads of to_width channels, the rest zero. */
struct push_repack {
    REF from, to;
    int from_stride, to_stride, rows;
    int from_width, to_width, channels; /* channels of `to` in all */
};
/* One pass over the keys. */
struct push_flash {
    REF q, k, v, o, stats;
    int heads, rows, keys; /* per image */
    int q_stride, k_stride, v_stride, o_stride, stats_step;
    float scale;
};
/* Its gradients in one pass each: to the queries, with what each row needs (delta, log2-sum, 0, 0), ... */
struct push_flash_dq {
    REF q, k, v, g, o, lse, dq, stats;
    int heads, rows, keys; /* per image */
    int q_stride, k_stride, v_stride, g_stride, o_stride, lse_stride, dq_stride, stats_step;
    float scale;
};
/* ... and to keys and values. */
struct push_flash_dkv {
    REF q, k, v, g, stats, dk, dv;
    int heads, rows, keys; /* per image */
    int q_stride, k_stride, v_stride, g_stride, dk_stride, dv_stride, stats_step;
    float scale;
};
