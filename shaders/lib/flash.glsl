// Tiles of attention that never leave shared memory. 128 invocations as 16 (tq) x 8 (tg): the row tile
// has 16*RQ rows, the column tile 32; an invocation owns rows tq + 16*i, columns 4*tg .. 4*tg+3 of a score
// tile, and planes plane_of(j) of an accumulator. Spec constants RQ, DP and RP, and the number of accumulators
// ACCS, must be declared before. (glslang 12 cannot pass arrays sized by spec constants, hence globals.)
const int BQ = 16 * RQ, BK = 32, DC = 8;
const int PARTS = (DP + 8 * RP - 1) / (8 * RP); // workgroups that share a wide head's result planes
const int SIDE_PITCH = BK + 1;  // keeps reads across planes off one bank
const int TILE_PITCH = BK / 4 + 1;
shared vec4 tile[BQ * TILE_PITCH]; // DC planes of the row side, then the score tile
shared vec4 side_tile[DC * SIDE_PITCH];
vec4 score[RQ];
vec4 acc[ACCS * RQ * RP];

// One head of one image of an operand: texel (plane, row) at base + plane*stride + row.
struct side { uvec2 ref; int stride, base, rows; };
side side_of(uvec2 ref, int stride, int rows, int head, int image) {
    return side(ref, stride, head * DP * stride + image * rows, rows);
}
int lane_tq() { return int(gl_LocalInvocationID.x) >> 3; }
int lane_tg() { return int(gl_LocalInvocationID.x) & 7; }
// Grid x counts tiles times parts.
int first_row() { return int(gl_WorkGroupID.x) / PARTS * BQ; }
int first_plane() { return int(gl_WorkGroupID.x) % PARTS * 8 * RP; }
int plane_of(int j) { return first_plane() + lane_tg() + 8 * j; }

// score[i][j] = row (a0 + tq + 16*i) of a . row (b0 + 4*tg + j) of b. Rows past the end count as zero.
void tile_dot(const int op_a, side a, int a0, const int op_b, side b, int b0) {
    const int t = int(gl_LocalInvocationID.x), tq = t >> 3, tg = t & 7;
    [[unroll]] for (int i = 0; i < RQ; i++) score[i] = vec4(0);
    for (int c0 = 0; c0 < DP; c0 += DC) {
        barrier();
        [[unroll]] for (int i = 0; i < RQ; i++) {
            int at = t + 128 * i, plane = c0 + at / BQ, row = a0 + at % BQ;
            bool in_side = plane < DP && row < a.rows;
            tile[at] = in_side ? LOAD(op_a, a.ref, a.base + plane * a.stride + row) : vec4(0);
        }
        [[unroll]] for (int i = 0; i < 2; i++) {
            int at = t + 128 * i, plane = at >> 5, key = at & 31, row = b0 + key;
            bool in_side = c0 + plane < DP && row < b.rows;
            // Columns are permuted so that the four of an invocation lie one per group of eight.
            side_tile[plane * SIDE_PITCH + (key & 3) * 8 + (key >> 2)] =
                in_side ? LOAD(op_b, b.ref, b.base + (c0 + plane) * b.stride + row) : vec4(0);
        }
        barrier();
        int planes = min(DC, DP - c0);
        for (int c = 0; c < planes; c++) {
            vec4 x[RQ];
            [[unroll]] for (int i = 0; i < RQ; i++) x[i] = tile[c * BQ + tq + 16 * i];
            [[unroll]] for (int j = 0; j < 4; j++) {
                vec4 y = side_tile[c * SIDE_PITCH + j * 8 + tg];
                [[unroll]] for (int i = 0; i < RQ; i++) {
                    float d = score[i][j];
                    d = fma(x[i].x, y.x, d);
                    d = fma(x[i].y, y.y, d);
                    d = fma(x[i].z, y.z, d);
                    score[i][j] = fma(x[i].w, y.w, d);
                }
            }
        }
    }
}

// Publishes row i of this invocation's part of a score tile. The caller has a barrier since the tile's last read.
void tile_put(int i, vec4 s) { tile[(lane_tq() + 16 * i) * TILE_PITCH + lane_tg()] = s; }

void acc_clear() {
    [[unroll]] for (int i = 0; i < ACCS * RQ * RP; i++) acc[i] = vec4(0);
}

// Accumulator `which`: [i*RP + j] += sum over the 32 columns of score[tq + 16*i][column] * plane_of(j) of row (b0 + column).
void tile_accumulate(const int which, const int op_b, side b, int b0) {
    const int t = int(gl_LocalInvocationID.x), tq = t >> 3, tg = t & 7;
    [[unroll]] for (int j = 0; j < RP; j++) {
        barrier();
        [[unroll]] for (int i = 0; i < 2; i++) {
            int at = t + 128 * i, local = at >> 5, plane = first_plane() + 8 * j + local, key = at & 31, row = b0 + key;
            bool in_side = plane < DP && row < b.rows;
            side_tile[local * SIDE_PITCH + key] = in_side ? LOAD(op_b, b.ref, b.base + plane * b.stride + row) : vec4(0);
        }
        barrier();
        for (int k = 0; k < BK / 4; k++) {
            vec4 s[RQ];
            [[unroll]] for (int i = 0; i < RQ; i++) s[i] = tile[(tq + 16 * i) * TILE_PITCH + k];
            [[unroll]] for (int c = 0; c < 4; c++) {
                vec4 y = side_tile[tg * SIDE_PITCH + 4 * k + c];
                [[unroll]] for (int i = 0; i < RQ; i++) {
                    int at = which * RQ * RP + i * RP + j;
                    acc[at] = fma(vec4(s[i][c]), y, acc[at]);
                }
            }
        }
    }
}
