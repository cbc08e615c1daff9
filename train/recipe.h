/* What to train for: a name for settings that belong together. A recipe gives options other defaults (what a user or
 * --config says wins), and may look at the model before anything is built. A table (recipes.def), one file each. */
#ifndef ATELIER_TRAIN_RECIPE_H
#define ATELIER_TRAIN_RECIPE_H

#include "base/error.h"

#include <stdbool.h>

struct model;
struct train_params;

/* An option of `atelier train` by its name, and the text that would follow it; "" for a flag. */
struct recipe_default {
    const char *option, *value;
};
struct recipe {
    const char *name, *title;              /* as --recipe takes it; what it is, with the paper */
    const struct recipe_default *defaults; /* up to one without option */
    /* Called before anything is built: what must be there for this recipe, and what depends on the model. NULL: nothing.
     * Texts that it sets are constant. */
    bool (*prepare)(struct train_params *p, const struct model *m, struct error *e);
};

/* NULL with a sentence that names those there are. */
const struct recipe *recipe_find(const char *name, struct error *e);
/* In the table's order; NULL past the end. */
const struct recipe *recipe_at(int i);

#endif
