/* Read by C and GLSL. REF operands: see shaders/lib/tensor.glsl. */
struct push_unary {
    REF x, g, y;
    int texels;
};
