/* Mapped files. The kernel raises SIGBUS where a mapped file has become shorter; a handler then puts zeros in the place
 * of what is gone and remembers it, so that reading goes on and os_map_intact can say what happened. */
#define _GNU_SOURCE
#include "base/os.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct os_watch {
    uintptr_t begin, end; /* whole pages */
    atomic_bool cut;
    struct stat st;
    char path[];
};

/* What the handler may repair. A file past the table's end is only unprotected. */
enum { MAX_WATCHES = 1024 };
static _Atomic(struct os_watch *) watches[MAX_WATCHES];
static struct sigaction before;

static void on_sigbus(int sig, siginfo_t *info, void *context) {
    uintptr_t at = (uintptr_t)info->si_addr, page = (uintptr_t)sysconf(_SC_PAGESIZE);
    int saved = errno;
    for (int i = 0; i < MAX_WATCHES; i++) {
        struct os_watch *w = watches[i];
        if (!w || at < w->begin || at >= w->end) continue;
        uintptr_t first = at / page * page;
        atomic_store(&w->cut, true);
        void *zeros = mmap((void *)first, w->end - first, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        errno = saved;
        if (zeros != MAP_FAILED) return;
    }
    sigaction(SIGBUS, &before, NULL); /* not ours: the instruction runs again and fails as it would have */
}

/* Others may have set theirs since the last file was mapped. */
static void install(void) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    struct sigaction act = {.sa_flags = SA_SIGINFO | SA_NODEFER}, now;
    act.sa_sigaction = on_sigbus;
    sigemptyset(&act.sa_mask);
    pthread_mutex_lock(&lock);
    if (sigaction(SIGBUS, NULL, &now) == 0 && !((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_sigbus)) {
        before = now;
        sigaction(SIGBUS, &act, NULL);
    }
    pthread_mutex_unlock(&lock);
}

static struct os_watch *watch_create(const char *path, const struct stat *st, void *base) {
    size_t n = strlen(path) + 1, page = (size_t)sysconf(_SC_PAGESIZE);
    struct os_watch *w = calloc(1, sizeof *w + n);
    if (!w) return NULL;
    w->begin = (uintptr_t)base, w->end = w->begin + ((size_t)st->st_size + page - 1) / page * page;
    w->st = *st;
    memcpy(w->path, path, n);
    install();
    for (int i = 0; i < MAX_WATCHES; i++) {
        struct os_watch *none = NULL;
        if (atomic_compare_exchange_strong(&watches[i], &none, w)) break;
    }
    return w;
}

static void watch_destroy(struct os_watch *w) {
    for (int i = 0; w && i < MAX_WATCHES; i++) {
        struct os_watch *expected = w;
        if (atomic_compare_exchange_strong(&watches[i], &expected, NULL)) break;
    }
    free(w);
}

static bool open_regular(const char *path, int *fd, struct stat *st, struct error *e) {
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* NONBLOCK: a FIFO must not hang us */
    if (*fd < 0) return error_set(e, "cannot open '%s': %s", path, strerror(errno));
    if (fstat(*fd, st) == 0 && S_ISREG(st->st_mode)) return true;
    bool dir = S_ISDIR(st->st_mode);
    close(*fd);
    return error_set(e, "cannot read '%s': it is %s, an ordinary file was expected", path,
                     dir ? "a folder" : "not an ordinary file");
}

bool os_file_map(struct os_map *m, const char *path, struct error *e) {
    static const uint8_t nothing[1];
    *m = (struct os_map){0};
    int fd;
    struct stat st;
    if (!open_regular(path, &fd, &st, e)) return false;
    if (st.st_size == 0) {
        close(fd);
        m->data = nothing;
        return true;
    }
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    int why = errno;
    close(fd);
    if (p == MAP_FAILED)
        return error_set(e, "cannot map '%s' (%lld bytes): %s", path, (long long)st.st_size, strerror(why));
    *m = (struct os_map){.data = p, .bytes = (size_t)st.st_size, .base = p, .watch = watch_create(path, &st, p)};
    if (m->watch) return true;
    os_file_unmap(m);
    return error_set(e, "cannot map '%s': out of memory", path);
}

void os_file_unmap(struct os_map *m) {
    watch_destroy(m->watch);
    if (m->base) munmap(m->base, m->bytes);
    *m = (struct os_map){0};
}

bool os_map_intact(const struct os_map *m, struct error *e) {
    if (!m->watch) return true;
    const struct stat *then = &m->watch->st;
    struct stat now;
    bool same = !atomic_load(&m->watch->cut);
    /* A file that another one has replaced by rename, or that is gone, stays whole behind its mapping. */
    if (same && stat(m->watch->path, &now) == 0 && now.st_dev == then->st_dev && now.st_ino == then->st_ino)
        same = now.st_size == then->st_size && now.st_mtim.tv_sec == then->st_mtim.tv_sec &&
               now.st_mtim.tv_nsec == then->st_mtim.tv_nsec;
    return same || error_set(e, "'%s' changed while it was being read; try again when it is complete", m->watch->path);
}
