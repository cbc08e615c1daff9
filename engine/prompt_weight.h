#pragma once
/* What a weight does to the rows of its token. Rows are those of one text encoder in one window. */
#include "textenc/prompt.h"

/* z*weight, then everything times mean before / mean after (A1111's "Original"). rows: [n] of `width`, `stride` apart. */
void prompt_weight_a1111(float *rows, int n, int width, int stride, const float *weights);
/* empty + weight*(z - empty) where the weight is not 1 (compel). */
void prompt_weight_compel(float *rows, const float *empty, int n, int width, const float *weights);
/* What the encoding without a fragment counts beside the one with it (compel, weights below 1). */
double prompt_weight_without(double weight);
