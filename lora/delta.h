/* What a module of any kind does to its layer at strength 1, as a change of weight and bias. */
#ifndef ATELIER_LORA_DELTA_H
#define ATELIER_LORA_DELTA_H

#include "lora/file.h"
#include "nn/params.h"

/* The module's own checks (lora_kind.fit), and those that are the same for all kinds. Error: a clause without subject. */
bool lora_module_fit(struct lora_module *m, struct error *e);

/* Whether it can go along as factors (lora_module_read) instead; its bias, if any, cannot. */
bool lora_module_is_low_rank(const struct lora_module *m);
/* What it changes; a few modules change only the bias. base: the model's parameters. */
bool lora_module_has_weight(const struct lora_module *m);
bool lora_module_has_bias(const struct lora_module *m, const struct nn_params *base);

/* How many numbers of it a device keeps beside the model's, padding apart. m must be matched. */
int64_t lora_module_numbers(const struct lora_module *m, const struct nn_params *base);

/* dw: m->target->weight's canonical f32 rows; db: one number per output. Either may be NULL, and must be where the
 * module has none. base: the model's parameters, bound, for kinds that start from its weight. m must be matched. Any
 * thread; the result does not depend on the number of cores. */
bool lora_module_delta(const struct lora_module *m, const struct nn_params *base, float *dw, float *db, struct error *e);

#endif
