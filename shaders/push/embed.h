/* Token rows; table and positions are {1,1,rows,c}. */
struct push_embed {
    REF ids, table, positions, y;
    int rows, tokens, vocabulary;
    int table_stride, positions_stride, y_stride;
};
