#include "train/recipe.h"

#include <stdio.h>
#include <string.h>

#include "base/text.h"

#define RECIPE(name) extern const struct recipe recipe_##name;
#include "train/recipes.def"
#undef RECIPE

#define RECIPE(name) &recipe_##name,
static const struct recipe *const recipes[] = {
#include "train/recipes.def"
};
#undef RECIPE

enum { N_RECIPES = sizeof recipes / sizeof *recipes };

const struct recipe *recipe_at(int i) { return i >= 0 && i < N_RECIPES ? recipes[i] : NULL; }

const struct recipe *recipe_find(const char *name, struct error *e) {
    char all[256] = "";
    for (int i = 0; i < N_RECIPES; i++) {
        if (!strcmp(recipes[i]->name, name)) return recipes[i];
        size_t n = strlen(all);
        snprintf(all + n, sizeof all - n, "%s%s", !i ? "" : i + 1 < N_RECIPES ? ", " : " and ", recipes[i]->name);
    }
    error_set(e, "There is no recipe \"%s\"; those there are: %s.", TEXT_SHOW(name), all);
    return NULL;
}
