#define _GNU_SOURCE
#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static void put_all(int fd, const void *data, size_t n) {
    if (fd < 0 || ftruncate(fd, 0) != 0 || pwrite(fd, data, n, 0) != (ssize_t)n) abort();
}

const char *fuzz_file(int slot, const void *data, size_t n) {
    static int fds[FUZZ_FILES];
    static char paths[FUZZ_FILES][32];
    if (!fds[slot]) fds[slot] = memfd_create("fuzz", MFD_CLOEXEC);
    put_all(fds[slot], data, n);
    snprintf(paths[slot], sizeof paths[slot], "/proc/self/fd/%d", fds[slot]);
    return paths[slot];
}

const char *fuzz_folder(void) {
    static char path[] = "/dev/shm/atelier-fuzz-XXXXXX";
    static int made;
    if (!made && !mkdtemp(path)) abort();
    made = 1;
    return path;
}

void fuzz_put(const char *name, const void *data, size_t n) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", fuzz_folder(), name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, n, f) != n || fclose(f) != 0) abort();
}
