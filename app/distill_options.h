/* What `atelier distill` has beside the options of `atelier train`. */
#ifndef ATELIER_APP_DISTILL_OPTIONS_H
#define ATELIER_APP_DISTILL_OPTIONS_H

#include "app/options.h"
#include "train/trainer.h"

struct distill_options {
    const char *method;
    double guidance_min, guidance_max;
    int skip;
};
struct distill_options distill_defaults(void);
struct option_table distill_table(struct distill_options *o);
/* The method's own defaults for options of training that nobody gave. */
bool distill_preset(const struct distill_options *o, const struct option_command *cmd, const struct option_result *given,
                    struct arena *a, struct error *e);
bool distill_apply(const struct distill_options *o, struct train_params *p, struct error *e);
/* A line of --dry-run. */
void distill_print(const struct distill_params *d);

#endif
