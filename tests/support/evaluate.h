/* Running tapes by their double references, on weights and inputs from files. */
#ifndef ATELIER_TESTS_EVALUATE_H
#define ATELIER_TESTS_EVALUATE_H

#include "graph/plan.h"
#include "io/safetensors.h"
#include "nn/params.h"

/* Where the slots of one set come from. */
struct eval_set {
    const struct tensor_set *set;
    void (*read)(const void *ctx, int slot, float *dst);
    const void *ctx;
};
struct eval_set eval_params(const struct nn_params *p);

/* Runs the tape on the device, or by the double references where dev is NULL. data (one pointer per value)
 * holds the inputs; afterwards also the outputs (IO) and parameter gradients (SET_GRAD). Fails the test on
 * any error. */
struct gpu_device;
void eval_run(struct gpu_device *dev, struct graph *g, double **data, const struct eval_set *sets, int n_sets,
              struct arena *a);

/* A golden tensor as canonical rows: [n,c,h,w] -> rows (n,h,w), [n,t,c] -> rows (n,t), [n] -> rows (n) of 1.
 * Fails the test if it is missing. */
double *eval_golden(const struct st_file *f, const char *name, struct arena *a, struct shape *shape);

/* Largest difference over the range of `want`. */
double eval_worst(const double *got, const double *want, int64_t n);

/* Opens, declares and binds are the test's; this only joins a path under tests/data. */
const char *eval_data_path(struct arena *a, const char *name);
#endif
