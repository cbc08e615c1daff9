#define _GNU_SOURCE
#include "base/os.h"
#include "base/arena.h"
#include "base/path.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

bool os_path_exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0;
}

bool os_path_is_dir(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool os_path_is_file(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct os_entry *)a)->name, ((const struct os_entry *)b)->name);
}

bool os_dir_list(struct arena *a, const char *path, struct os_entry **out, size_t *n, struct error *e) {
    *out = NULL;
    *n = 0;
    DIR *d = opendir(path);
    if (!d) return error_set(e, "cannot open the folder '%s': %s", path, strerror(errno));
    struct arena *scratch = arena_create(a);
    size_t room = 0;
    struct dirent *de;
    while (errno = 0, (de = readdir(d))) {
        if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0) continue;
        if (*n == room) {
            size_t more = room ? room * 2 : 64;
            *out = arena_grow(a, *out, *n, more, sizeof **out);
            room = more;
        }
        bool dir = de->d_type == DT_DIR;
        if (de->d_type == DT_UNKNOWN || de->d_type == DT_LNK)
            dir = os_path_is_dir(path_join(scratch, path, de->d_name));
        (*out)[(*n)++] = (struct os_entry){.name = arena_strdup(a, de->d_name), .is_dir = dir};
    }
    int why = errno;
    closedir(d);
    arena_destroy(&scratch);
    if (why) return error_set(e, "cannot list the folder '%s': %s", path, strerror(why));
    if (*n) qsort(*out, *n, sizeof **out, by_name);
    return true;
}

bool os_dir_make(const char *path, struct error *e) {
    if (path[0] == 0 || os_path_is_dir(path)) return true;
    struct arena *scratch = arena_create(NULL);
    char *p = arena_strdup(scratch, path);
    bool ok = true;
    for (char *at = p + 1; ok; at++) {
        if (*at != '/' && *at != 0) continue;
        char kept = *at;
        *at = 0;
        if (mkdir(p, 0777) != 0 && !os_path_is_dir(p))
            ok = error_set(e, "cannot make the folder '%s': %s", p, strerror(errno));
        *at = kept;
        if (!kept) break;
    }
    arena_destroy(&scratch);
    return ok;
}

bool os_dir_remove(const char *path, struct error *e) {
    if (rmdir(path) == 0 || errno == ENOENT) return true;
    return error_set(e, "cannot remove the folder '%s': %s", path, strerror(errno));
}

char *os_path_real(struct arena *a, const char *path) {
    char *real = realpath(path, NULL);
    char *copy = arena_strdup(a, real ? real : path);
    free(real);
    return copy;
}

char *os_cache_dir(struct arena *a) {
    const char *own = getenv("ATELIER_CACHE_DIR"), *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (own && *own) return arena_strdup(a, own);
    if (xdg && xdg[0] == '/') return path_join(a, xdg, "atelier"); /* the XDG rules ignore relative values */
    return path_join(a, home && *home ? home : "/tmp", ".cache/atelier");
}
