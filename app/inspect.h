/* Parts of `atelier inspect`. */
#ifndef ATELIER_APP_INSPECT_H
#define ATELIER_APP_INSPECT_H

#include "engine/model.h"

enum { INSPECT_SHOW = 12 }; /* entries of a list without --all */

/* Prints what a model folder or single file is, and its load report also where it cannot be used. */
bool inspect_model(const char *path, const struct model_files *files, bool all, struct error *e);
/* Whether a file holds a UNet in LDM's naming. */
bool inspect_is_model(const struct st_file *f);

#endif
