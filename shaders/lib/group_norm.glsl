// mean, 1/std of each channel of a plane, from stats bound at T2.
void plane_stats(int plane, int n, out vec4 mean, out vec4 inv) {
    int size = p.channels / p.groups;
    [[unroll]] for (int i = 0; i < 4; i++) {
        int group = min((4 * plane + i) / size, p.groups - 1);
        vec4 s = LOAD(2, p.stats, group / 2 * p.stats_stride + n);
        mean[i] = (group & 1) == 0 ? s.x : s.z;
        inv[i] = (group & 1) == 0 ? s.y : s.w;
    }
}
