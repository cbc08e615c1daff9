#include "app/train_recipe.h"

#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "train/recipe.h"

#define FIELD(name) offsetof(struct train_recipe_options, name)

static const struct option rows[] = {
    {"recipe", OPTION_TEXT, FIELD(recipe), "NAME", "settings that belong together, as defaults: style, subject or b-lora;\n"
     "--dry-run says which (docs/recipes.md)"},
    {"instance-prompt", OPTION_TEXT, FIELD(instance_prompt), "TEXT", "caption of every picture, whatever stands beside it: \"sks dog, flat\""},
};

struct train_recipe_options train_recipe_defaults(const struct train_params *p) {
    return (struct train_recipe_options){.recipe = p->recipe};
}

struct option_table train_recipe_table(struct train_recipe_options *o) { return (struct option_table){OPTION_ROWS(rows), o}; }

bool train_recipe_preset(const struct train_recipe_options *o, const struct option_command *cmd, const struct option_result *given,
                         struct arena *a, struct error *e) {
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
    return true;
}

void train_recipe_print(const struct train_recipe_options *o, const struct option_command *cmd, const struct option_result *given) {
    struct error ignored;
    const struct recipe *r = o->recipe ? recipe_find(o->recipe, &ignored) : NULL;
    if (!r) return;
    printf("recipe      %s: %s\n            sets", r->name, r->title);
    int n = 0;
    for (const struct recipe_default *d = r->defaults; d->option; d++)
        if (!option_given(cmd, given, d->option)) printf("%s %s%s%s", n++ ? "," : "", d->option, *d->value ? " " : "", d->value);
    printf("%s\n", n ? "" : " nothing: all of its options were given");
}
