/* The operator table: ops.def, expanded. */
#include "graph/op_priv.h"

#define SIZE_STATED NULL
#define NO_GRAD NULL
/* A constant even where sanitizers make comparisons of functions run-time ones. No rule's name is so short. */
#define IS_NO_GRAD(text) (sizeof(text) == sizeof("NO_GRAD"))
#define OP(id, label, inputs, outputs, place, shape_rule, grad_rule, reference)                      \
    [OP_##id] = {label, inputs, outputs, place, shape_rule, grad_rule, reference, IS_NO_GRAD(#grad_rule)},

const struct op_info op_table[OP_COUNT] = {
#include "graph/ops.def"
};
