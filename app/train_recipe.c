#include "app/train_recipe.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "train/recipe.h"

#define FIELD(name) offsetof(struct train_recipe_options, name)

static const struct option rows[] = {
    {"recipe", OPTION_TEXT, FIELD(recipe), "NAME",
     "settings that belong together, as defaults: style, subject, b-lora,\ntextual-inversion, pivotal or custom-diffusion;\n"
     "--dry-run says which (docs/recipes.md)"},
    {"instance-prompt", OPTION_TEXT, FIELD(instance_prompt), "TEXT",
     "caption of every picture, whatever stands beside it: \"sks dog, flat\""},
    {"class-prompt", OPTION_TEXT, FIELD(class_prompt), "TEXT",
     "prior preservation: what the subject is one of, \"dog, flat\"; every step\n"
     "also sees pictures of the class, which the model draws beforehand\nwith --sample-steps and --sample-cfg"},
    {"class-data", OPTION_TEXT, FIELD(class_data), "DIR", "where those pictures lie, or are drawn to and kept; your own, with\n"
     "captions or folders called like 10_dog, do as well (beside --out)"},
    {"class-count", OPTION_INT, FIELD(class_count), "N", "how many there shall be at least (100)", 1, 100000},
    {"prior-weight", OPTION_NUMBER, FIELD(prior_weight), "X",
     "weight of the class's loss beside the subject's; 0 goes without (1)", 0, 1e6},
};

struct train_recipe_options train_recipe_defaults(const struct train_params *p) {
    return (struct train_recipe_options){.recipe = p->recipe, .prior_weight = NAN};
}

struct option_table train_recipe_table(struct train_recipe_options *o) { return (struct option_table){OPTION_ROWS(rows), o}; }

bool train_recipe_preset(const struct train_recipe_options *o, const struct option_command *cmd,
                         const struct option_result *given, struct arena *a, struct error *e) {
    const struct recipe *r = o->recipe ? recipe_find(o->recipe, e) : NULL;
    if (!o->recipe) return true;
    if (!r) return false;
    for (const struct recipe_default *d = r->defaults; d->option; d++)
        if (!option_preset(cmd, given, d->option, d->value, a, e)) return error_prefix(e, "recipe %s", r->name);
    return true;
}

bool train_recipe_apply(const struct train_recipe_options *o, struct train_params *p, struct error *e) {
    p->recipe = o->recipe, p->instance_prompt = o->instance_prompt;
    if (o->instance_prompt && !text_utf8_valid(o->instance_prompt, strlen(o->instance_prompt)))
        return error_set(e, "--instance-prompt is not UTF-8 text.");
    if (o->class_prompt && !text_utf8_valid(o->class_prompt, strlen(o->class_prompt)))
        return error_set(e, "--class-prompt is not UTF-8 text.");
    p->class_prompt = o->class_prompt, p->class_data = o->class_data;
    if (o->class_count) p->class_count = o->class_count;
    if (!isnan(o->prior_weight)) p->prior_weight = (float)o->prior_weight;
    if (o->class_count && !o->class_prompt)
        return error_set(e, "--class-count says how many pictures to draw of --class-prompt; give that too.");
    if (o->prior_weight > 0 && !o->class_prompt && !o->class_data)
        return error_set(e, "--prior-weight weighs pictures of the class; give --class-prompt, or --class-data with captions.");
    return true;
}

void train_recipe_print(const struct train_recipe_options *o, const struct option_command *cmd,
                        const struct option_result *given) {
    struct error ignored;
    const struct recipe *r = o->recipe ? recipe_find(o->recipe, &ignored) : NULL;
    if (!r) return;
    printf("recipe      %s: %s\n            sets", r->name, r->title);
    int n = 0;
    for (const struct recipe_default *d = r->defaults; d->option; d++)
        if (!option_given(cmd, given, d->option))
            printf("%s %s%s%s", n++ ? "," : "", d->option, *d->value ? " " : "", d->value);
    printf("%s\n", n ? "" : " nothing: all of its options were given");
}

void train_recipe_print_class(const struct train_plan *plan, const struct train_params *p) {
    if (!plan->n_class) return;
    printf("class       %zu pictures in %s, weight %g", plan->n_class, TEXT_SHOW(plan->class_data), (double)p->prior_weight);
    if (plan->n_class_missing) printf("; %zu of them will be drawn: %s", plan->n_class_missing, TEXT_SHOW(p->class_prompt));
    printf("\n            every step sees as many of them as of the subject\n");
}
