// Rows that a convolution reads; the push block `p` carries the geometry (shaders/push/gemm.h).
int lo16(int v) { return v & 0xffff; }
int hi16(int v) { return v >> 16; }

// (image, y, x) of a row of the image written.
ivec3 conv_pixel(int row) {
    int h = lo16(p.dst_hw), w = hi16(p.dst_hw);
    int n = row / (h * w), yx = row - n * h * w;
    return ivec3(n, yx / w, yx % w);
}
int conv_taps() { return lo16(p.kernel_stride) * lo16(p.kernel_stride); }

// Row that an output pixel reads at a tap, or -1 outside the image.
int conv_row(ivec3 at, int tap) {
    int k = lo16(p.kernel_stride), stride = hi16(p.kernel_stride), pad = lo16(p.pad_up), up = hi16(p.pad_up);
    int h = lo16(p.src_hw), w = hi16(p.src_hw);
    int iy = at.y * stride - pad + tap / k, ix = at.z * stride - pad + tap % k;
    bool inside = iy >= 0 && ix >= 0 && iy < h << up && ix < w << up;
    return inside ? (at.x * h + (iy >> up)) * w + (ix >> up) : -1;
}

// Row of the output's gradient that input pixel `at` receives at a tap, or -1. With upsampling a stored
// pixel stands for four read ones (part 0..3).
int conv_gradient_row(ivec3 at, int tap, int part) {
    int k = lo16(p.kernel_stride), odd = hi16(p.kernel_stride) - 1, pad = lo16(p.pad_up), up = hi16(p.pad_up);
    int h = lo16(p.src_hw), w = hi16(p.src_hw);
    int gy = (at.y << up) + (part >> 1) + pad - tap / k, gx = (at.z << up) + (part & 1) + pad - tap % k;
    // The stride is 1 or 2, so "divisible" is a bit and division a shift.
    bool inside = gy >= 0 && gx >= 0 && ((gy | gx) & odd) == 0 && gy >> odd < h && gx >> odd < w;
    return inside ? (at.x * h + (gy >> odd)) * w + (gx >> odd) : -1;
}
