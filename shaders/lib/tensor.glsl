// Loads and stores for both classes. cpu class (lavapipe): imageLoad from texel views, u64vec2 stores to
// addresses. gpu class (-DGPU_CLASS=1): everything through addresses; STORAGE bit i says operand i is f16.
// An operand in a push block is a uvec2 REF: cpu reads use .x as a texel index, everything else is an address.
#extension GL_EXT_buffer_reference : require
#extension GL_EXT_buffer_reference_uvec2 : require
#extension GL_EXT_shader_explicit_arithmetic_types_int64 : require
#extension GL_EXT_control_flow_attributes : require
layout(constant_id = 0) const uint W = 16;
layout(constant_id = 1) const uint STORAGE = 0;
layout(buffer_reference, std430, buffer_reference_align = 16) buffer Texel32 { vec4 v; };
layout(buffer_reference, std430, buffer_reference_align = 16) buffer Texel64 { u64vec2 v; };
layout(buffer_reference, std430, buffer_reference_align = 8) buffer Texel16 { uvec2 v; };

#ifdef GPU_CLASS
vec4 load_ref(int operand, uvec2 ref, int i) {
    uint64_t a = packUint2x32(ref);
    if ((STORAGE >> operand & 1u) != 0u) {
        uvec2 u = Texel16(a + uint64_t(i) * 8ul).v;
        return vec4(unpackHalf2x16(u.x), unpackHalf2x16(u.y));
    }
    return Texel32(a + uint64_t(i) * 16ul).v;
}
#define LOAD(k, ref, i) load_ref(k, ref, i)
void store_ref(int operand, uvec2 ref, int i, vec4 v) {
    uint64_t a = packUint2x32(ref);
    if ((STORAGE >> operand & 1u) != 0u)
        Texel16(a + uint64_t(i) * 8ul).v = uvec2(packHalf2x16(v.xy), packHalf2x16(v.zw));
    else
        Texel32(a + uint64_t(i) * 16ul).v = v;
}
#define STORE(k, ref, i, x) store_ref(k, ref, i, x)
#else
layout(binding = 0, rgba32f) uniform readonly imageBuffer T0;
layout(binding = 1, rgba32f) uniform readonly imageBuffer T1;
layout(binding = 2, rgba32f) uniform readonly imageBuffer T2;
layout(binding = 3, rgba32f) uniform readonly imageBuffer T3;
layout(binding = 4, rgba32f) uniform readonly imageBuffer T4;
layout(binding = 5, rgba32f) uniform readonly imageBuffer T5;
// k must be a literal 0..5: it names the binding.
#define LOAD(k, ref, i) imageLoad(T##k, int((ref).x) + (i))
uint64_t pack_pair(vec2 v) { return packUint2x32(floatBitsToUint(v)); }
void store_texel(uvec2 ref, int i, vec4 x) {
    Texel64(packUint2x32(ref) + uint64_t(i) * 16ul).v = u64vec2(pack_pair(x.xy), pack_pair(x.zw));
}
#define STORE(k, ref, i, x) store_texel(ref, i, x)
#endif
