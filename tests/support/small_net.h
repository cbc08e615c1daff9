#pragma once
/* A miniature residual network with low-rank adapters: shared by the gradient and recompute tests. Three
 * segments of norm, convolution, attention and adapted linear layers, one skip connection. */
#include "tests/support/op_cases.h"

struct small_net {
    struct graph *g;
    struct tensor_set *frozen, *adapter;
    int loss, seed;
};
struct small_net small_net_build(struct arena *a);
/* The value that holds the gradient of an adapter slot; -1 if there is none. */
int small_net_gradient(const struct small_net *net, int slot);
