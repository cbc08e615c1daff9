// Coded weights of the gpu class (graph/quant.h): one texel of four channels at a time. The push block `p` has w, its
// stride in tiles, and scale.
layout(buffer_reference, std430, buffer_reference_align = 4) buffer Word32 { uint v; };
layout(buffer_reference, std430, buffer_reference_align = 4) buffer Scale32 { float v; };
shared float nf4_levels[16];

void decode_prepare(int invocation) {
    const float levels[16] = float[](-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
                                     -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
                                     0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
                                     0.7229568362236023, 1.0);
    if (invocation < 16) nf4_levels[invocation] = levels[invocation];
    barrier();
}

vec4 decode_texel(int plane, int row) {
    int tile = plane * p.w_stride + (row >> 2), in_tile = row & 3;
    float scale = Scale32(packUint2x32(p.scale) + uint64_t(((plane >> 4) * p.w_stride + (row >> 2)) * 16 + in_tile * 4)).v;
    if (CODE == 2) {
        int u = int(Word32(packUint2x32(p.w) + uint64_t(tile) * 16ul + uint64_t(in_tile * 4)).v);
        return vec4(ivec4(u << 24, u << 16, u << 8, u) >> 24) * scale;
    }
    uint u = Word32(packUint2x32(p.w) + uint64_t(tile) * 8ul + uint64_t((in_tile >> 1) * 4)).v >> (16 * (in_tile & 1));
    return vec4(nf4_levels[u & 15u], nf4_levels[u >> 4 & 15u], nf4_levels[u >> 8 & 15u], nf4_levels[u >> 12 & 15u]) * scale;
}
