// hyper: see graph/op_optimise.c. A slot begins at a multiple of 8 texels and has one rate.
#define RATE(k, ref, i) (LOAD(k, ref, (i) >> 5)[(i) >> 3 & 3])
int flat_index() { return int(gl_GlobalInvocationID.x + gl_WorkGroupID.y * gl_NumWorkGroups.x * 64u); }
