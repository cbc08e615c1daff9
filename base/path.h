/* Path strings; nothing here touches the disk. */
#ifndef ATELIER_BASE_PATH_H
#define ATELIER_BASE_PATH_H

#include <stdbool.h>

struct arena;

char *path_join(struct arena *a, const char *dir, const char *name); /* one slash between; absolute name wins */
const char *path_base(const char *path);                            /* points into path, after the last slash */
char *path_dir(struct arena *a, const char *path);                  /* "." when there is no slash */
char *path_stem(struct arena *a, const char *path);                 /* whole path without its last extension */
bool path_has_ext(const char *path, const char *ext);               /* ext without dot, any case */

#endif
