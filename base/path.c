#include "base/path.h"
#include "base/arena.h"

#include <string.h>
#include <strings.h>

char *path_join(struct arena *a, const char *dir, const char *name) {
    size_t n = strlen(dir);
    if (n == 0 || name[0] == '/') return arena_strdup(a, name);
    return arena_printf(a, "%s%s%s", dir, dir[n - 1] == '/' ? "" : "/", name);
}

const char *path_base(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

char *path_dir(struct arena *a, const char *path) {
    const char *base = path_base(path);
    if (base == path) return arena_strdup(a, ".");
    size_t n = (size_t)(base - path);
    while (n > 1 && path[n - 1] == '/') n--;
    return arena_strndup(a, path, n);
}

/* A leading dot starts a hidden name, not an extension. */
static const char *extension(const char *path) {
    const char *base = path_base(path), *dot = strrchr(base, '.');
    return dot && dot != base ? dot : NULL;
}

char *path_stem(struct arena *a, const char *path) {
    const char *dot = extension(path);
    return dot ? arena_strndup(a, path, (size_t)(dot - path)) : arena_strdup(a, path);
}

bool path_has_ext(const char *path, const char *ext) {
    const char *dot = extension(path);
    return dot && strcasecmp(dot + 1, ext) == 0;
}
