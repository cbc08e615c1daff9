// Which source pixel a tap of a k x k convolution reads. Spec constants GATHER, KSIZE, STRIDE, UP and DX
// must be declared before. Returns the row of x, or -1 where the tap reads zero padding.
const int TAPS = KSIZE * KSIZE;
int source_row(ivec3 iyx, int tap, ivec2 src, int pad) {
    int part = UP != 0 && DX != 0 ? tap / TAPS : 0; // which of the 2x2 upsampled pixels
    int t = tap - part * TAPS;
    ivec2 k = ivec2(t / KSIZE, t % KSIZE), p;
    if (DX != 0) {
        p = iyx.yz * (UP + 1) + ivec2(part >> 1, part & 1) + pad - k;
        ivec2 q = max(p, ivec2(0)) / STRIDE;
        if (STRIDE > 1 && q * STRIDE != p) return -1;
        if (p.x < 0 || p.y < 0 || q.x >= src.x || q.y >= src.y) return -1;
        return (iyx.x * src.x + q.x) * src.y + q.y;
    }
    p = iyx.yz * STRIDE + k - pad;
    if (p.x < 0 || p.y < 0) return -1;
    p >>= UP;
    if (p.x >= src.x || p.y >= src.y) return -1;
    return (iyx.x * src.x + p.x) * src.y + p.y;
}
ivec3 pixel_of(int row, ivec2 size) {
    int y = row / size.y, n = y / size.x;
    return ivec3(n, y - n * size.x, row - y * size.y);
}
