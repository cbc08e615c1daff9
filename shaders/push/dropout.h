/* y = x * (0 or scale) by the hash of each place; channels: of the tensor, not of its planes. */
struct push_dropout {
    REF x, key, y;
    int rows, image_rows, channels;
    int x_stride, y_stride;
    int stream, threshold; /* bits of unsigned numbers */
    float scale;
};
