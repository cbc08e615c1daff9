// Sum over a workgroup of 64 in a fixed order: the same bytes every run.
shared vec4 reduce_room[64];
vec4 group_sum(vec4 v) {
    uint lane = gl_LocalInvocationID.x;
    barrier();
    reduce_room[lane] = v;
    barrier();
    [[unroll]] for (uint half_ = 32u; half_ > 0u; half_ >>= 1) {
        if (lane < half_) reduce_room[lane] += reduce_room[lane + half_];
        barrier();
    }
    return reduce_room[0];
}
