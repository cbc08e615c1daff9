/* The operator table: ops.def, expanded. */
#include "graph/op_priv.h"

#define SIZE_STATED NULL
#define NO_GRAD NULL
#define OP(id, label, inputs, outputs, place, shape_rule, grad_rule, reference)                      \
    [OP_##id] = {label, inputs, outputs, place, shape_rule, grad_rule, reference, (grad_rule) == NULL},

const struct op_info op_table[OP_COUNT] = {
#include "graph/ops.def"
};
