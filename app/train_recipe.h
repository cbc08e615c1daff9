/* The options of `atelier train` that say what it learns: a recipe, a subject and its class. */
#ifndef ATELIER_APP_TRAIN_RECIPE_H
#define ATELIER_APP_TRAIN_RECIPE_H

#include "app/options.h"
#include "train/trainer.h"

struct train_recipe_options {
    const char *recipe, *instance_prompt, *class_prompt, *class_data;
    int class_count;     /* 0: not given */
    double prior_weight; /* NAN: not given */
};
struct train_recipe_options train_recipe_defaults(const struct train_params *p);
struct option_table train_recipe_table(struct train_recipe_options *o);
/* What the recipe sets and nobody else did. Between parsing and everything that looks at the values. */
bool train_recipe_preset(const struct train_recipe_options *o, const struct option_command *cmd,
                         const struct option_result *given, struct arena *a, struct error *e);
bool train_recipe_apply(const struct train_recipe_options *o, struct train_params *p, struct error *e);
/* Lines of --dry-run: the recipe and what it set; the class. */
void train_recipe_print_class(const struct train_plan *plan, const struct train_params *p);
void train_recipe_print(const struct train_recipe_options *o, const struct option_command *cmd,
                        const struct option_result *given);

#endif
