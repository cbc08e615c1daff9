#include "tests/support/op_cases.h"
#include "base/rng.h"
#include <math.h>

/* Rows leave out what is zero. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

#define V(c) {1, 1, 1, c}          /* a vector */
#define T(n, t, c) {n, 1, t, c}    /* tokens */
#define W(out, in) {1, 1, out, in} /* a linear weight */
#define K3(out, in) {9, 1, out, in}

const struct op_case op_cases[] = {
    /* x, w, bias, res */
    {OP_MATMUL, "one row", {.matmul = {0}}, {T(1, 1, 320), W(1280, 320), V(1280)}},
    {OP_MATMUL, "two rows", {.matmul = {0}}, {T(2, 1, 12), W(20, 12), V(20)}},
    {OP_MATMUL, "77 tokens", {.matmul = {0}}, {T(1, 77, 64), W(48, 64), V(48)}},
    {OP_MATMUL, "odd", {.matmul = {0}}, {T(1, 33, 5), W(3, 5), V(3), T(1, 33, 3)}},
    {OP_MATMUL, "residual", {.matmul = {0}}, {{2, 5, 7, 16}, W(24, 16), V(24), {2, 5, 7, 24}}},
    {OP_MATMUL, "plain", {.matmul = {0}}, {T(2, 64, 32), W(64, 32)}},
    {OP_MATMUL, "to rank 4", {.matmul = {0}}, {T(1, 100, 64), W(4, 64)}},
    {OP_MATMUL, "from rank 6", {.matmul = {0}}, {T(1, 100, 6), W(64, 6), {0}, T(1, 100, 64)}},
    {OP_MATMUL, "tails", {.matmul = {0}}, {T(1, 65, 36), W(68, 36), V(68)}},
    {OP_MATMUL, "wide", {.matmul = {0}}, {T(1, 256, 320), W(320, 320), V(320), T(1, 256, 320)}, .big = true},
    {OP_MATMUL, "long sum", {.matmul = {0}}, {T(1, 128, 1280), W(128, 1280)}, .big = true},
    {OP_MATMUL, "2048 rows", {.matmul = {0}}, {T(2, 1024, 40), W(96, 40)}, .big = true},
    {OP_MATMUL, "trans", {.matmul = {1}}, {T(1, 77, 24), W(24, 40)}},
    {OP_MATMUL, "trans odd", {.matmul = {1}}, {T(1, 33, 5), W(5, 3), V(3), T(1, 33, 3)}},
    {OP_MATMUL, "trans rank", {.matmul = {1}}, {T(2, 50, 4), W(4, 64), {0}, T(2, 50, 64)}},
    {OP_MATMUL, "trans wide", {.matmul = {1}}, {T(1, 256, 320), W(320, 96)}, .big = true},
    {OP_MATMUL, "1030 rows, tails", {.matmul = {0}}, {T(1, 1030, 37), W(70, 37), V(70), T(1, 1030, 70)}, .big = true},
    {OP_MATMUL, "trans 1030 rows, tails", {.matmul = {1}}, {T(1, 1030, 38), W(38, 69), V(69)}, .big = true},
    {OP_MATMUL, "trans one row", {.matmul = {1}}, {T(1, 1, 36), W(36, 20)}},
    /* a, b, acc */
    {OP_MATMUL_TN, "rank 4", {{0}}, {T(1, 77, 4), T(1, 77, 64)}},
    {OP_MATMUL_TN, "odd", {{0}}, {T(1, 33, 3), T(1, 33, 5), W(3, 5)}},
    {OP_MATMUL_TN, "square", {{0}}, {T(2, 100, 68), T(2, 100, 36)}},
    {OP_MATMUL_TN, "up", {{0}}, {T(1, 1024, 96), T(1, 1024, 16), W(96, 16)}, .big = true},
    {OP_MATMUL_TN, "one row", {{0}}, {T(1, 1, 20), T(1, 1, 12)}},
    /* x, w, bias, res */
    {OP_CONV2D, "3x3", {.conv = {3, 1, 1, 0}}, {{1, 8, 8, 8}, K3(12, 8), V(12)}, {1, 8, 8, 12}},
    {OP_CONV2D, "3x3 odd", {.conv = {3, 1, 1, 0}}, {{2, 5, 7, 3}, K3(5, 3), V(5), {2, 5, 7, 5}}, {2, 5, 7, 5}},
    {OP_CONV2D, "3x3 plain", {.conv = {3, 1, 1, 0}}, {{1, 6, 9, 4}, K3(4, 4)}, {1, 6, 9, 4}},
    {OP_CONV2D, "latent in", {.conv = {3, 1, 1, 0}}, {{2, 16, 16, 4}, K3(32, 4), V(32)}, {2, 16, 16, 32}},
    {OP_CONV2D, "latent out", {.conv = {3, 1, 1, 0}}, {{1, 16, 12, 32}, K3(4, 32), V(4)}, {1, 16, 12, 4}},
    {OP_CONV2D, "residual", {.conv = {3, 1, 1, 0}}, {{2, 8, 8, 36}, K3(68, 36), V(68), {2, 8, 8, 68}}, {2, 8, 8, 68}},
    {OP_CONV2D, "stride 2", {.conv = {3, 2, 1, 0}}, {{1, 8, 8, 8}, K3(8, 8), V(8)}, {1, 4, 4, 8}},
    {OP_CONV2D, "stride 2 odd", {.conv = {3, 2, 1, 0}}, {{2, 7, 9, 5}, K3(6, 5), V(6)}, {2, 4, 5, 6}},
    {OP_CONV2D, "stride 2 pad after", {.conv = {3, 2, 0, 0}}, {{1, 8, 6, 4}, K3(8, 4), V(8)}, {1, 4, 3, 8}},
    {OP_CONV2D, "stride 2 past the end", {.conv = {3, 2, 0, 0}}, {{1, 2, 2, 4}, K3(8, 4), V(8)}, {1, 1, 1, 8}},
    {OP_CONV2D, "up", {.conv = {3, 1, 1, 1}}, {{2, 4, 5, 8}, K3(12, 8), V(12)}, {2, 8, 10, 12}},
    {OP_CONV2D, "up odd", {.conv = {3, 1, 1, 1}}, {{1, 3, 3, 5}, K3(3, 5)}, {1, 6, 6, 3}},
    {OP_CONV2D, "1x1 stride 2", {.conv = {1, 2, 0, 0}}, {{1, 6, 6, 4}, W(8, 4), V(8)}, {1, 3, 3, 8}},
    {OP_CONV2D, "one pixel", {.conv = {3, 1, 1, 0}}, {{1, 1, 1, 8}, K3(8, 8), V(8)}, {1, 1, 1, 8}},
    {OP_CONV2D, "5x5", {.conv = {5, 1, 2, 0}}, {{1, 7, 6, 4}, {25, 1, 4, 4}}, {1, 7, 6, 4}},
    {OP_CONV2D, "32x32", {.conv = {3, 1, 1, 0}}, {{1, 32, 32, 64}, K3(64, 64), V(64)}, {1, 32, 32, 64}, .big = true},
    {OP_CONV2D, "8x8 deep", {.conv = {3, 1, 1, 0}}, {{2, 8, 8, 320}, K3(160, 320), V(160)}, {2, 8, 8, 160}, .big = true},
    {OP_CONV2D, "33x31", {.conv = {3, 1, 1, 0}}, {{1, 33, 31, 32}, K3(64, 32), V(64)}, {1, 33, 31, 64}, .big = true},
    {OP_CONV2D, "33x32", {.conv = {3, 1, 1, 0}}, {{1, 33, 32, 64}, K3(70, 64), V(70), {1, 33, 32, 70}}, {1, 33, 32, 70},
     .big = true},
    {OP_CONV2D, "17x18 deep", {.conv = {3, 1, 1, 0}}, {{1, 17, 18, 128}, K3(114, 128), V(114)}, {1, 17, 18, 114}, .big = true},
    {OP_CONV2D, "up large", {.conv = {3, 1, 1, 1}}, {{1, 16, 16, 64}, K3(64, 64), V(64)}, {1, 32, 32, 64}, .big = true},
    /* g, w */
    {OP_CONV2D_DX, "3x3", {.conv = {3, 1, 1, 0}}, {{1, 8, 8, 12}, K3(12, 8)}, {1, 8, 8, 8}},
    {OP_CONV2D_DX, "3x3 odd", {.conv = {3, 1, 1, 0}}, {{2, 5, 7, 5}, K3(5, 3)}, {2, 5, 7, 3}},
    {OP_CONV2D_DX, "stride 2", {.conv = {3, 2, 1, 0}}, {{2, 4, 4, 8}, K3(8, 12)}, {2, 8, 8, 12}},
    {OP_CONV2D_DX, "stride 2 odd", {.conv = {3, 2, 1, 0}}, {{2, 4, 5, 6}, K3(6, 5)}, {2, 7, 9, 5}},
    {OP_CONV2D_DX, "stride 2 pad after", {.conv = {3, 2, 0, 0}}, {{1, 4, 3, 8}, K3(8, 4)}, {1, 8, 6, 4}},
    {OP_CONV2D_DX, "up", {.conv = {3, 1, 1, 1}}, {{2, 8, 10, 12}, K3(12, 8)}, {2, 4, 5, 8}},
    {OP_CONV2D_DX, "up odd", {.conv = {3, 1, 1, 1}}, {{1, 6, 6, 3}, K3(3, 5)}, {1, 3, 3, 5}},
    {OP_CONV2D_DX, "1x1 stride 2", {.conv = {1, 2, 0, 0}}, {{1, 3, 3, 8}, W(8, 4)}, {1, 6, 6, 4}},
    {OP_CONV2D_DX, "32x32", {.conv = {3, 1, 1, 0}}, {{1, 32, 32, 64}, K3(64, 64)}, {1, 32, 32, 64}},
    {OP_CONV2D_DX, "33x32", {.conv = {3, 1, 1, 0}}, {{1, 33, 32, 70}, K3(70, 64)}, {1, 33, 32, 64}, .big = true},
    {OP_CONV2D_DX, "17x18 deep", {.conv = {3, 1, 1, 0}}, {{1, 17, 18, 114}, K3(114, 128)}, {1, 17, 18, 128}, .big = true},
    {OP_CONV2D_DX, "up large", {.conv = {3, 1, 1, 1}}, {{1, 32, 32, 64}, K3(64, 64)}, {1, 16, 16, 64}, .big = true},
    {OP_CONV2D_DX, "8x8 deep", {.conv = {3, 1, 1, 0}}, {{2, 8, 8, 160}, K3(160, 320)}, {2, 8, 8, 320}},
    /* g, x */
    {OP_CONV2D_DW, "3x3", {.conv = {3, 1, 1, 0}}, {{1, 8, 8, 12}, {1, 8, 8, 8}}, K3(12, 8)},
    {OP_CONV2D_DW, "3x3 odd", {.conv = {3, 1, 1, 0}}, {{2, 5, 7, 5}, {2, 5, 7, 3}}, K3(5, 3)},
    {OP_CONV2D_DW, "rank 4", {.conv = {3, 1, 1, 0}}, {{2, 16, 16, 4}, {2, 16, 16, 64}}, K3(4, 64)},
    {OP_CONV2D_DW, "stride 2", {.conv = {3, 2, 1, 0}}, {{2, 4, 5, 6}, {2, 7, 9, 5}}, K3(6, 5)},
    {OP_CONV2D_DW, "up", {.conv = {3, 1, 1, 1}}, {{2, 8, 10, 12}, {2, 4, 5, 8}}, K3(12, 8)},
    /* x */
    {OP_ROW_SUM, "all", {.sum = {0}}, {{2, 5, 7, 12}}},
    {OP_ROW_SUM, "all odd", {.sum = {0}}, {T(1, 77, 5)}},
    {OP_ROW_SUM, "all long", {.sum = {0}}, {{1, 64, 64, 64}}},
    {OP_ROW_SUM, "per image", {.sum = {1}}, {{3, 5, 7, 12}}},
    {OP_ROW_SUM, "per image odd", {.sum = {1}}, {{2, 3, 3, 3}}},
    {OP_ROW_SUM, "per image large", {.sum = {1}}, {{2, 32, 32, 320}}},
    {OP_ROW_SUM, "one row", {.sum = {0}}, {V(20)}},
    /* x, gamma, beta */
    {OP_GROUP_NORM, "4 per group", {.gnorm = {8, 1e-5f, 0}}, {{2, 5, 7, 32}, V(32), V(32)}},
    {OP_GROUP_NORM, "silu", {.gnorm = {8, 1e-5f, 1}}, {{2, 8, 8, 64}, V(64), V(64)}},
    {OP_GROUP_NORM, "6 per group", {.gnorm = {4, 1e-5f, 1}}, {{2, 5, 5, 24}, V(24), V(24)}},
    {OP_GROUP_NORM, "5 per group", {.gnorm = {3, 1e-6f, 0}}, {{1, 3, 4, 15}, V(15), V(15)}},
    {OP_GROUP_NORM, "1 per group", {.gnorm = {6, 1e-5f, 1}}, {{2, 4, 4, 6}, V(6), V(6)}},
    {OP_GROUP_NORM, "one group", {.gnorm = {1, 1e-5f, 0}}, {{2, 3, 11, 12}, V(12), V(12)}},
    {OP_GROUP_NORM, "10 per group", {.gnorm = {32, 1e-6f, 0}}, {{1, 32, 32, 320}, V(320), V(320)}, .big = true},
    {OP_GROUP_NORM, "64x64", {.gnorm = {32, 1e-5f, 1}}, {{2, 64, 64, 128}, V(128), V(128)}, .big = true},
    /* g, x, stats, gamma, beta */
    {OP_GROUP_NORM_DX, "4 per group", {.gnorm = {8, 1e-5f, 0}}, {{2, 5, 7, 32}, {2, 5, 7, 32}, {2, 1, 1, 16}, V(32), V(32)}},
    {OP_GROUP_NORM_DX, "silu", {.gnorm = {8, 1e-5f, 1}}, {{2, 8, 8, 64}, {2, 8, 8, 64}, {2, 1, 1, 16}, V(64), V(64)}},
    {OP_GROUP_NORM_DX, "6 per group", {.gnorm = {4, 1e-5f, 1}}, {{2, 5, 5, 24}, {2, 5, 5, 24}, {2, 1, 1, 8}, V(24), V(24)}},
    {OP_GROUP_NORM_DX, "5 per group", {.gnorm = {3, 1e-6f, 0}}, {{1, 3, 4, 15}, {1, 3, 4, 15}, {1, 1, 1, 6}, V(15), V(15)}},
    {OP_GROUP_NORM_DX, "large", {.gnorm = {32, 1e-5f, 1}}, {{1, 32, 32, 320}, {1, 32, 32, 320}, V(64), V(320), V(320)}},
    {OP_GROUP_NORM_DP, "4 per group", {.gnorm = {8, 1e-5f, 0}}, {{2, 5, 7, 32}, {2, 5, 7, 32}, {2, 1, 1, 16}, V(32), V(32)}},
    {OP_GROUP_NORM_DP, "6 per group", {.gnorm = {4, 1e-5f, 1}}, {{2, 5, 5, 24}, {2, 5, 5, 24}, {2, 1, 1, 8}, V(24), V(24)}},
    {OP_GROUP_NORM_DP, "5 per group", {.gnorm = {3, 1e-6f, 1}}, {{1, 3, 4, 15}, {1, 3, 4, 15}, {1, 1, 1, 6}, V(15), V(15)}},
    {OP_GROUP_NORM_DP, "large", {.gnorm = {32, 1e-5f, 1}}, {{2, 32, 32, 320}, {2, 32, 32, 320}, {2, 1, 1, 64}, V(320), V(320)}},
    /* x, gamma, beta */
    {OP_LAYER_NORM, "77 tokens", {.lnorm = {1e-5f}}, {T(2, 77, 64), V(64), V(64)}},
    {OP_LAYER_NORM, "odd", {.lnorm = {1e-5f}}, {T(1, 33, 5), V(5), V(5)}},
    {OP_LAYER_NORM, "one row", {.lnorm = {1e-5f}}, {T(1, 1, 36), V(36), V(36)}},
    {OP_LAYER_NORM, "768", {.lnorm = {1e-5f}}, {T(2, 77, 768), V(768), V(768)}, .big = true},
    {OP_LAYER_NORM, "4096 rows", {.lnorm = {1e-5f}}, {T(1, 4096, 40), V(40), V(40)}, .big = true},
    /* g, x, stats, gamma */
    {OP_LAYER_NORM_DX, "77 tokens", {.lnorm = {1e-5f}}, {T(2, 77, 64), T(2, 77, 64), T(2, 77, 2), V(64)}},
    {OP_LAYER_NORM_DX, "odd", {.lnorm = {1e-5f}}, {T(1, 33, 5), T(1, 33, 5), T(1, 33, 2), V(5)}},
    {OP_LAYER_NORM_DX, "one row", {.lnorm = {1e-5f}}, {T(1, 1, 36), T(1, 1, 36), T(1, 1, 2), V(36)}},
    {OP_LAYER_NORM_DX, "320", {.lnorm = {1e-5f}}, {T(1, 256, 320), T(1, 256, 320), T(1, 256, 2), V(320)}},
    {OP_LAYER_NORM_DP, "77 tokens", {.lnorm = {1e-5f}}, {T(2, 77, 64), T(2, 77, 64), T(2, 77, 2), V(64)}},
    {OP_LAYER_NORM_DP, "odd", {.lnorm = {1e-5f}}, {T(1, 33, 5), T(1, 33, 5), T(1, 33, 2), V(5)}},
    {OP_LAYER_NORM_DP, "320", {.lnorm = {1e-5f}}, {T(1, 1024, 320), T(1, 1024, 320), T(1, 1024, 2), V(320)}},
    /* x */
    {OP_UNARY, "silu", {.unary = {UNARY_SILU}}, {{2, 5, 7, 12}}},
    {OP_UNARY, "silu vector", {.unary = {UNARY_SILU}}, {V(1280)}},
    {OP_UNARY, "gelu", {.unary = {UNARY_GELU}}, {T(1, 77, 20)}},
    {OP_UNARY, "relu", {.unary = {UNARY_RELU}}, {{2, 5, 7, 6}}},
    {OP_UNARY, "quick gelu odd", {.unary = {UNARY_QUICK_GELU}}, {T(1, 33, 5)}},
    {OP_UNARY, "quick gelu", {.unary = {UNARY_QUICK_GELU}}, {T(1, 77, 3072)}, .big = true},
    /* g, x */
    {OP_UNARY_DX, "silu", {.unary = {UNARY_SILU}}, {{2, 5, 7, 12}, {2, 5, 7, 12}}},
    {OP_UNARY_DX, "gelu", {.unary = {UNARY_GELU}}, {T(1, 77, 20), T(1, 77, 20)}},
    {OP_UNARY_DX, "relu", {.unary = {UNARY_RELU}}, {{2, 5, 7, 6}, {2, 5, 7, 6}}},
    {OP_UNARY_DX, "quick gelu odd", {.unary = {UNARY_QUICK_GELU}}, {T(1, 33, 5), T(1, 33, 5)}},
    {OP_GEGLU, "small", {{0}}, {T(2, 33, 16)}},
    {OP_GEGLU, "2560", {{0}}, {T(1, 64, 2560)}, .big = true},
    {OP_GEGLU_DX, "small", {{0}}, {T(2, 33, 8), T(2, 33, 16)}},
    {OP_GEGLU_DX, "2560", {{0}}, {T(1, 64, 1280), T(1, 64, 2560)}},
    /* a, b */
    {OP_ADD, "same", {.binary = {BCAST_NONE}}, {{2, 5, 7, 12}, {2, 5, 7, 12}}},
    {OP_ADD, "same odd", {.binary = {BCAST_NONE}}, {T(1, 33, 5), T(1, 33, 5)}},
    {OP_ADD, "per image", {.binary = {BCAST_IMAGE}}, {{2, 5, 7, 12}, {2, 1, 1, 12}}},
    {OP_ADD, "per image odd", {.binary = {BCAST_IMAGE}}, {{3, 3, 3, 5}, {3, 1, 1, 5}}},
    {OP_ADD, "one image", {.binary = {BCAST_IMAGE}}, {{1, 5, 7, 12}, {1, 1, 1, 12}}},
    {OP_ADD, "to all", {.binary = {BCAST_ALL}}, {{2, 5, 7, 12}, V(12)}},
    {OP_ADD, "vectors", {.binary = {BCAST_NONE}}, {V(21), V(21)}},
    {OP_MUL, "same", {.binary = {BCAST_NONE}}, {{2, 5, 7, 12}, {2, 5, 7, 12}}},
    {OP_MUL, "per image", {.binary = {BCAST_IMAGE}}, {T(2, 77, 16), {2, 1, 1, 16}}},
    {OP_MUL, "per image odd", {.binary = {BCAST_IMAGE}}, {T(3, 7, 6), {3, 1, 1, 6}}},
    {OP_MUL, "number per image", {.binary = {BCAST_NUMBER}}, {{2, 5, 7, 12}, {2, 1, 1, 4}}, .no_grad = 2},
    {OP_MUL, "number per image odd", {.binary = {BCAST_NUMBER}}, {T(3, 7, 6), {3, 1, 1, 1}}, .no_grad = 2},
    {OP_MUL, "number for one", {.binary = {BCAST_NUMBER}}, {T(1, 33, 5), V(8)}, .no_grad = 2},
    {OP_MUL, "number per row", {.binary = {BCAST_ROW, 2}}, {{2, 5, 7, 12}, {2, 5, 7, 4}}, .no_grad = 2},
    {OP_MUL, "number per row, second texel", {.binary = {BCAST_ROW, 6}}, {T(2, 33, 5), {2, 3, 11, 8}}, .no_grad = 2},
    {OP_MUL, "number per row of one", {.binary = {BCAST_ROW, 5}}, {V(9), V(8)}, .no_grad = 2},
    {OP_MUL, "to all odd", {.binary = {BCAST_ALL}}, {T(2, 33, 5), V(5)}},
    {OP_SCALE, "x", {.scale = {-0.625f}}, {{2, 5, 7, 5}}},
    {OP_CONCAT, "channels", {{0}}, {{2, 5, 7, 12}, {2, 5, 7, 8}}},
    {OP_CONCAT, "odd end", {{0}}, {{1, 3, 11, 4}, {1, 3, 11, 5}}},
    {OP_CONCAT, "vectors", {{0}}, {V(8), V(6)}},
    {OP_CONCAT, "large", {{0}}, {{2, 16, 16, 640}, {2, 16, 16, 320}}},
    {OP_SLICE, "middle", {.slice = {4}}, {{2, 5, 7, 20}}, {2, 5, 7, 8}},
    {OP_SLICE, "odd end", {.slice = {8}}, {T(1, 33, 14)}, T(1, 33, 6)},
    {OP_SLICE, "first plane", {.slice = {0}}, {{1, 16, 16, 8}}, {1, 16, 16, 4}},
    {OP_SLICE_DX, "middle", {.slice = {4}}, {{2, 5, 7, 8}}, {2, 5, 7, 20}},
    {OP_SLICE_DX, "odd end", {.slice = {8}}, {T(1, 33, 6)}, T(1, 33, 14)},
    {OP_UPSAMPLE, "x2", {{0}}, {{2, 4, 5, 8}}, {2, 8, 10, 8}},
    {OP_UPSAMPLE, "5x7 to 9x13", {{0}}, {{1, 5, 7, 5}}, {1, 9, 13, 5}},
    {OP_UPSAMPLE, "smaller", {{0}}, {{1, 8, 8, 4}}, {1, 5, 3, 4}},
    {OP_UPSAMPLE_DX, "x2", {{0}}, {{2, 8, 10, 8}}, {2, 4, 5, 8}},
    {OP_UPSAMPLE_DX, "5x7 to 9x13", {{0}}, {{1, 9, 13, 5}}, {1, 5, 7, 5}},
    {OP_UPSAMPLE_DX, "smaller", {{0}}, {{1, 5, 3, 4}}, {1, 8, 8, 4}},
    /* q, k, v */
    {OP_ATTENTION, "causal", {.attn = {4, 0.125f, 1}}, {T(2, 77, 32), T(2, 77, 32), T(2, 77, 32)}},
    {OP_ATTENTION, "causal 64", {.attn = {2, 0.125f, 1}}, {T(1, 77, 128), T(1, 77, 128), T(1, 77, 128)}},
    {OP_ATTENTION, "self 8x4", {.attn = {8, 0.5f, 0}}, {T(1, 33, 32), T(1, 33, 32), T(1, 33, 32)}},
    {OP_ATTENTION, "self images", {.attn = {2, 0.35f, 0}}, {{2, 6, 6, 16}, {2, 6, 6, 16}, {2, 6, 6, 16}}},
    {OP_ATTENTION, "cross", {.attn = {5, 0.35f, 0}}, {{2, 8, 8, 40}, T(2, 77, 40), T(2, 77, 40)}},
    {OP_ATTENTION, "one key", {.attn = {1, 0.2f, 0}}, {T(1, 9, 32), T(1, 1, 32), T(1, 1, 32)}},
    {OP_ATTENTION, "one query", {.attn = {2, 0.2f, 0}}, {T(1, 1, 64), T(1, 77, 64), T(1, 77, 64)}},
    {OP_ATTENTION, "odd head width", {.attn = {3, 0.4f, 0}}, {T(1, 20, 18), T(1, 13, 18), T(1, 13, 18)}},
    {OP_ATTENTION, "8x40", {.attn = {8, 0.158f, 0}}, {T(2, 256, 320), T(2, 256, 320), T(2, 256, 320)}, .big = true},
    {OP_ATTENTION, "4x80 cross", {.attn = {4, 0.112f, 0}}, {T(2, 100, 320), T(2, 77, 320), T(2, 77, 320)}, .big = true},
    {OP_ATTENTION, "2x160", {.attn = {2, 0.079f, 0}}, {T(1, 64, 320), T(1, 64, 320), T(1, 64, 320)}, .big = true},
    {OP_ATTENTION, "5x64", {.attn = {5, 0.125f, 0}}, {T(1, 130, 320), T(1, 130, 320), T(1, 130, 320)}, .big = true},
    {OP_ATTENTION, "1x512", {.attn = {1, 0.044f, 0}}, {T(1, 144, 512), T(1, 144, 512), T(1, 144, 512)}, .big = true},
    {OP_ATTENTION, "98310 keys", {.attn = {1, 0.5f, 0}}, {T(1, 5, 4), T(1, 98310, 4), T(1, 98310, 4)}, .big = true},
    /* q, k, v, o, lse, g */
    {OP_ATTENTION_DX, "causal", {.attn = {4, 0.125f, 1}},
     {T(2, 77, 32), T(2, 77, 32), T(2, 77, 32), T(2, 77, 32), T(2, 77, 4), T(2, 77, 32)}},
    {OP_ATTENTION_DX, "self 8x4", {.attn = {8, 0.5f, 0}},
     {T(1, 33, 32), T(1, 33, 32), T(1, 33, 32), T(1, 33, 32), T(1, 33, 8), T(1, 33, 32)}},
    {OP_ATTENTION_DX, "cross", {.attn = {5, 0.35f, 0}},
     {{2, 8, 8, 40}, T(2, 77, 40), T(2, 77, 40), {2, 8, 8, 40}, {2, 8, 8, 5}, {2, 8, 8, 40}}},
    {OP_ATTENTION_DX, "one key", {.attn = {1, 0.2f, 0}},
     {T(1, 9, 32), T(1, 1, 32), T(1, 1, 32), T(1, 9, 32), T(1, 9, 1), T(1, 9, 32)}},
    {OP_ATTENTION_DX, "odd head width", {.attn = {3, 0.4f, 0}},
     {T(1, 20, 18), T(1, 13, 18), T(1, 13, 18), T(1, 20, 18), T(1, 20, 3), T(1, 20, 18)}},
    {OP_ATTENTION_DX, "8x40", {.attn = {8, 0.158f, 0}},
     {T(1, 256, 320), T(1, 256, 320), T(1, 256, 320), T(1, 256, 320), T(1, 256, 8), T(1, 256, 320)}},
    {OP_ATTENTION_DX, "4x80 cross", {.attn = {4, 0.112f, 0}},
     {T(2, 100, 320), T(2, 77, 320), T(2, 77, 320), T(2, 100, 320), T(2, 100, 4), T(2, 100, 320)}},
    {OP_ATTENTION_DX, "2x160", {.attn = {2, 0.079f, 0}},
     {T(1, 64, 320), T(1, 64, 320), T(1, 64, 320), T(1, 64, 320), T(1, 64, 2), T(1, 64, 320)}},
    {OP_ATTENTION_DX, "5x64", {.attn = {5, 0.125f, 0}},
     {T(1, 130, 320), T(1, 130, 320), T(1, 130, 320), T(1, 130, 320), T(1, 130, 5), T(1, 130, 320)}, .big = true},
    {OP_ATTENTION_DX, "66000 queries", {.attn = {1, 0.125f, 0}},
     {T(1, 66000, 44), T(1, 3, 44), T(1, 3, 44), T(1, 66000, 44), T(1, 66000, 1), T(1, 66000, 44)}, .big = true},
    {OP_ATTENTION_DX, "98310 keys", {.attn = {1, 0.5f, 0}},
     {T(1, 5, 4), T(1, 98310, 4), T(1, 98310, 4), T(1, 5, 4), T(1, 5, 1), T(1, 5, 4)}, .big = true},
    /* ids, table, positions */
    {OP_EMBED, "77 tokens", {{0}}, {T(2, 77, 1), W(100, 32), W(77, 32)}, .no_grad = 5},
    {OP_EMBED, "odd", {{0}}, {T(1, 5, 1), W(7, 5)}, .no_grad = 1},
    {OP_EMBED_DW, "77 tokens", {{0}}, {T(2, 77, 1), T(2, 77, 32)}, W(100, 32)},
    {OP_EMBED_DW, "odd", {{0}}, {T(1, 5, 1), T(1, 5, 5)}, W(7, 5)},
    {OP_TIMESTEP, "320", {.timestep = {1, 0}}, {{2, 1, 1, 1}}, {2, 1, 1, 320}},
    {OP_TIMESTEP, "sin first", {.timestep = {0, 1}}, {{3, 1, 1, 1}}, {3, 1, 1, 20}},
    {OP_TIMESTEP, "six ids", {.timestep = {1, 0}}, {{1, 1, 6, 1}}, {1, 1, 6, 256}},
    /* x, key */
    {OP_DROPOUT, "numbers", {.dropout = {DROPOUT_NUMBER, 0.3f, 1, 5}}, {{2, 5, 7, 12}, V(2)}, .no_grad = 2},
    {OP_DROPOUT, "numbers odd", {.dropout = {DROPOUT_NUMBER, 0.5f, 1, 77}}, {T(3, 7, 6), V(2)}, .no_grad = 2},
    {OP_DROPOUT, "channels", {.dropout = {DROPOUT_CHANNEL, 0.4f, 1, 1}}, {T(3, 33, 16), V(2)}, .no_grad = 2},
    {OP_DROPOUT, "channels odd", {.dropout = {DROPOUT_CHANNEL, 0.4f, 1, 3}}, {{2, 3, 3, 6}, V(2)}, .no_grad = 2},
    {OP_DROPOUT, "all", {.dropout = {DROPOUT_ALL, 0.5f, 0, 2}}, {T(2, 9, 8), V(2)}, .no_grad = 2},
    {OP_DROPOUT, "all, other stream", {.dropout = {DROPOUT_ALL, 0.5f, 0, 3}}, {T(2, 9, 8), V(2)}, .no_grad = 2},
    {OP_COPY, "x", {{0}}, {{2, 5, 7, 5}}},
    {OP_COPY, "vector", {{0}}, {V(13)}},
    {OP_MSE, "latents", {{0}}, {{2, 8, 8, 4}, {2, 8, 8, 4}}},
    {OP_MSE, "odd", {{0}}, {{3, 3, 5, 3}, {3, 3, 5, 3}}},
    {OP_MSE, "64x64", {{0}}, {{2, 64, 64, 4}, {2, 64, 64, 4}}},
    /* seed, prediction, target */
    {OP_MSE_DX, "latents", {{0}}, {{2, 1, 1, 1}, {2, 8, 8, 4}, {2, 8, 8, 4}}},
    {OP_MSE_DX, "odd", {{0}}, {{3, 1, 1, 1}, {3, 3, 5, 3}, {3, 3, 5, 3}}},
    /* prediction, target, hyper, mask */
    {OP_HUBER, "latents", {{0}}, {{2, 8, 8, 4}, {2, 8, 8, 4}, {2, 1, 1, 2}}, .no_grad = 4},
    {OP_HUBER, "odd, masked", {{0}}, {{3, 3, 5, 3}, {3, 3, 5, 3}, {3, 1, 1, 2}, {3, 3, 5, 3}}, .no_grad = 12},
    {OP_HUBER, "64x64", {{0}}, {{2, 64, 64, 4}, {2, 64, 64, 4}, {2, 1, 1, 2}}, .no_grad = 4, .big = true},
    /* seed, prediction, target, hyper, mask */
    {OP_HUBER_DX, "latents", {{0}}, {{2, 1, 1, 1}, {2, 8, 8, 4}, {2, 8, 8, 4}, {2, 1, 1, 2}}},
    {OP_HUBER_DX, "odd, masked", {{0}}, {{3, 1, 1, 1}, {3, 3, 5, 3}, {3, 3, 5, 3}, {3, 1, 1, 2}, {3, 3, 5, 3}}},
    /* flat banks */
    {OP_SUM_SQUARES, "small", {{0}}, {{1, 1, 32, 4}}},
    {OP_SUM_SQUARES, "with an earlier one", {{0}}, {{1, 1, 8192, 4}, V(1)}},
    {OP_ACCUMULATE, "small", {{0}}, {{1, 1, 96, 4}, {1, 1, 96, 4}, V(1)}},
    {OP_EMA, "small", {{0}}, {{1, 1, 96, 4}, {1, 1, 96, 4}, V(1)}},
    {OP_ADAMW, "small", {{0}}, {{1, 1, 96, 4}, {1, 1, 96, 4}, {1, 1, 96, 4}, {1, 1, 96, 4}, V(12), V(12)}},
    {OP_LION, "small", {{0}}, {{1, 1, 96, 4}, {1, 1, 96, 4}, {1, 1, 96, 4}, V(12), V(12)}},
    {OP_SCHEDULE_FREE, "small", {{0}}, {{1, 1, 96, 4}, {1, 1, 96, 4}, {1, 1, 96, 4}, {1, 1, 96, 4}, V(12), V(12)}},
    {OP_PRODIGY_SUMS, "small", {{0}}, {{1, 1, 96, 4}, {1, 1, 96, 4}, {1, 1, 96, 4}, {1, 1, 96, 4}, V(12)}},
    {OP_PRODIGY_SUMS, "with earlier ones", {{0}},
     {{1, 1, 8192, 4}, {1, 1, 8192, 4}, {1, 1, 8192, 4}, {1, 1, 8192, 4}, V(12), V(2)}},
    {OP_PRODIGY, "small", {{0}}, {{1, 1, 96, 4}, {1, 1, 96, 4}, {1, 1, 96, 4}, {1, 1, 96, 4}, V(12)}},
    {OP_PAIR_NORM, "shrinks", {.pair_norm = {0.5f, 1}}, {W(8, 37), W(70, 8)}},
    {OP_PAIR_NORM, "stays", {.pair_norm = {0.01f, 1000}}, {W(4, 20), W(33, 4)}},
    {OP_PAIR_NORM, "taps", {.pair_norm = {2, 3}}, {{9, 1, 12, 20}, W(40, 12)}},
    {OP_PAIR_NORM, "many ranks", {.pair_norm = {1, 1}}, {W(72, 30), W(50, 72)}},
    {OP_ADAFACTOR, "down", {.adafactor = {8, 6, 37, 1}}, {W(8, 37), W(8, 37), V(8), V(37), V(12)}},
    {OP_ADAFACTOR, "up", {.adafactor = {70, 70, 6, 0.5f}}, {W(70, 8), W(70, 8), V(70), V(8), V(12)}},
    {OP_ADAFACTOR, "taps", {.adafactor = {4, 3, 20, 1}}, {{9, 1, 4, 20}, {9, 1, 4, 20}, V(36), V(20), V(12)}},
    {OP_ADAFACTOR, "large", {.adafactor = {300, 300, 100, 2}}, {W(300, 100), W(300, 100), V(300), V(100), V(12)}},
};
const int op_case_count = sizeof op_cases / sizeof *op_cases;

int op_case_append(struct graph *g, const struct op_case *c, const int in[GRAPH_MAX_IN]) {
    int n_in = 0;
    for (int i = 0; i < GRAPH_MAX_IN; i++)
        if (c->in[i].n) n_in = i + 1;
    if (c->out.n) return graph_append_shaped(g, c->op, in, n_in, c->attr, &c->out, 1);
    return graph_append(g, c->op, in, n_in, c->attr);
}

int op_case_build(struct graph *g, const struct op_case *c, unsigned grads, int in[GRAPH_MAX_IN]) {
    static const char *const labels[GRAPH_MAX_IN] = {"in0", "in1", "in2", "in3", "in4", "in5", "in6", "in7"};
    for (int i = 0; i < GRAPH_MAX_IN; i++) {
        in[i] = c->in[i].n ? graph_io(g, labels[i], c->in[i]) : -1;
        if (in[i] >= 0 && (grads >> i & 1)) graph_value(g, in[i])->needs_grad = true;
    }
    return op_case_append(g, c, in);
}

static double *random_array(struct shape s, struct rng *r, struct arena *a) {
    size_t n = (size_t)shape_elems(s);
    float *normal = arena_alloc(a, n * sizeof *normal);
    double *out = arena_alloc(a, n * sizeof *out);
    rng_randn(r, normal, n);
    for (size_t i = 0; i < n; i++) out[i] = (double)normal[i];
    return out;
}

/* What the forward op's second result would be for these inputs: statistics, log sums. */
static void fill_forward(const struct graph *g, const struct node *node, double **data, struct arena *a) {
    bool attention = node->op == OP_ATTENTION_DX;
    struct node forward = *node;
    forward.op = attention                                                      ? OP_ATTENTION
                 : node->op == OP_GROUP_NORM_DX || node->op == OP_GROUP_NORM_DP ? OP_GROUP_NORM
                                                                                : OP_LAYER_NORM;
    int first = attention ? 3 : -1, second = attention ? 4 : 2;
    double *out[GRAPH_MAX_OUT] = {first >= 0 ? data[node->in[first]] : NULL, data[node->in[second]], NULL};
    if (!out[0]) out[0] = arena_alloc(a, (size_t)shape_elems(graph_shape(g, node->in[1])) * sizeof(double));
    const double *in[GRAPH_MAX_IN] = {0};
    static const int from_norm[3] = {1, 3, 4};
    for (int i = 0; i < 3; i++) {
        forward.in[i] = attention ? node->in[i] : node->in[from_norm[i]];
        if (forward.in[i] < 0) forward.in[i] = node->in[3]; /* layer_norm's gradients do without beta */
        in[i] = data[forward.in[i]];
    }
    op_table[forward.op].ref(g, &forward, in, out);
}

/* Plausible settings; squares where states are means of squares. */
static void fill_optimiser(const struct graph *g, const struct node *n, double **data) {
    static const double settings[][12] = {
        [OP_ADAMW - OP_ADAMW] = {1e-2, 0.01, 0.5, 0.9, 0.99, 1e-8, 1 / (1 - 0.9 * 0.9), 1 / (1 - 0.99 * 0.99),
                                 [10] = 0.1, [11] = 0.01},
        [OP_LION - OP_ADAMW] = {1e-2, 0.01, 0.5, 0.9, 0.99, [10] = 0.1, [11] = 0.01},
        [OP_SCHEDULE_FREE - OP_ADAMW] = {1e-2, 0.01, 0.5, 0.9, 0.99, 1e-8, 1 / (1 - 0.99 * 0.99), 0.3, [10] = 0.1, [11] = 0.01},
        [OP_PRODIGY_SUMS - OP_ADAMW] = {1, 0.01, 0.5, 0.9, 0.99, 1e-9, 0.1, 0.12, 0.995, 0.7, [10] = 0.1, [11] = 0.01},
        [OP_PRODIGY - OP_ADAMW] = {1, 0.01, 0.5, 0.9, 0.99, 1e-9, 0.1, 0.12, 0.995, 0.7, [10] = 0.1, [11] = 0.01},
        [OP_ADAFACTOR - OP_ADAMW] = {1e-2, 0.01, 0.5, 0.4, 1e-30, 1e-3, 1, 1},
    };
    bool two = n->op != OP_LION, one_more = n->op != OP_PRODIGY_SUMS && n->op != OP_PRODIGY && n->op != OP_ADAFACTOR;
    int hyper = two ? 4 : 3;
    for (int i = 0; i < 12; i++) data[n->in[hyper]][i] = (double)(float)settings[n->op - OP_ADAMW][i];
    for (int i = 0; one_more && i < 12; i++) data[n->in[hyper + 1]][i] = i % 3 ? 1 : 0.25;
    for (int state = n->op == OP_ADAFACTOR ? 2 : 3; two && n->op != OP_PRODIGY_SUMS && state < 4; state++)
        for (int64_t i = 0; i < shape_elems(graph_shape(g, n->in[state])); i++) data[n->in[state]][i] *= data[n->in[state]][i];
}

/* c of every size: none (the absolute error), tiny, about 1. */
static void fill_huber(const struct graph *g, int hyper, double **data) {
    static const double c[3] = {0, 1e-3, 0.7};
    for (int i = 0; i < graph_shape(g, hyper).n; i++) data[hyper][2 * i] = (double)(float)c[i % 3];
}

void op_case_fill(const struct graph *g, int node, uint64_t seed, double **data, struct arena *a) {
    const struct node *n = &g->nodes[node];
    struct rng rng;
    rng_seed(&rng, seed);
    for (int i = 0; i < n->n_in; i++)
        if (n->in[i] >= 0) data[n->in[i]] = random_array(graph_shape(g, n->in[i]), &rng, a);
    switch (n->op) {
    case OP_EMBED:
    case OP_EMBED_DW: {
        struct shape table = n->op == OP_EMBED ? graph_shape(g, n->in[1]) : graph_shape(g, n->out[0]);
        for (int64_t i = 0; i < shape_elems(graph_shape(g, n->in[0])); i++)
            data[n->in[0]][i] = rng_randint(&rng, (uint32_t)shape_rows(table));
        break;
    }
    case OP_TIMESTEP:
        for (int64_t i = 0; i < shape_elems(graph_shape(g, n->in[0])); i++)
            data[n->in[0]][i] = rng_randint(&rng, 4000) * 0.25;
        break;
    case OP_HUBER: fill_huber(g, n->in[2], data); break;
    case OP_HUBER_DX: fill_huber(g, n->in[3], data); break;
    case OP_DROPOUT:
        for (int i = 0; i < 2; i++) data[n->in[1]][i] = rng_randint(&rng, 1 << 24);
        break;
    case OP_ADAMW:
    case OP_LION:
    case OP_SCHEDULE_FREE:
    case OP_PRODIGY_SUMS:
    case OP_PRODIGY:
    case OP_ADAFACTOR: fill_optimiser(g, n, data); break;
    case OP_GROUP_NORM_DX:
    case OP_GROUP_NORM_DP:
    case OP_LAYER_NORM_DX:
    case OP_LAYER_NORM_DP:
    case OP_ATTENTION_DX: fill_forward(g, n, data, a); break;
    default: break;
    }
}

double **tape_fill(const struct graph *g, struct arena *a) {
    double **data = arena_alloc(a, (size_t)g->n_values * sizeof *data);
    for (int v = 0; v < g->n_values; v++) {
        const struct value *value = graph_value(g, v);
        if (value->producer >= 0 || value->view_of >= 0 || value->cls == VALUE_ACT) continue;
        uint64_t seed = (uint64_t)shape_elems(value->shape);
        for (const char *c = value->label; *c; c++) seed = seed * 31 + (unsigned char)*c;
        struct rng rng;
        rng_seed(&rng, seed);
        data[v] = random_array(value->shape, &rng, a);
        for (int64_t i = 0; i < shape_elems(value->shape); i++) data[v][i] *= 0.5;
    }
    return data;
}

double **tape_run(const struct graph *g, struct arena *a) {
    double **data = tape_fill(g, a);
    graph_eval_ref(g, data, a);
    return data;
}
