#define _GNU_SOURCE
#include "base/os.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- Reading: see os_map.c ---- */

bool os_file_stat(const char *path, struct os_stat *out, struct error *e) {
    struct stat st;
    if (stat(path, &st) != 0) return error_set(e, "cannot look at '%s': %s", path, strerror(errno));
    out->bytes = (uint64_t)st.st_size;
    out->mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
    return true;
}

/* ---- Writing ---- */

struct os_writer {
    int fd;
    uint64_t written;
    size_t n_buffered;
    char *path, *temp;
    uint8_t buffer[1 << 16];
};

static bool write_error(const char *path, uint64_t written, int why, struct error *e) {
    if (why == ENOSPC || why == EDQUOT)
        return error_set(e, "cannot write '%s': the disk is full after %llu bytes; free some space or choose another place",
                         path, (unsigned long long)written);
    return error_set(e, "cannot write '%s': %s", path, strerror(why));
}

static bool write_all(int fd, const uint8_t *data, size_t bytes) {
    while (bytes) {
        ssize_t n = write(fd, data, bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        data += n;
        bytes -= (size_t)n;
    }
    return true;
}

static void writer_free(struct os_writer *w) {
    free(w->path);
    free(w->temp);
    free(w);
}

/* A short name of its own: the target's name plus a suffix could pass the file system's limit. */
static char *temp_name(const char *path) {
    static atomic_uint serial;
    const char *slash = strrchr(path, '/');
    char *t = NULL;
    if (asprintf(&t, "%.*s.atelier-%ld-%u.tmp", slash ? (int)(slash - path + 1) : 0, path, (long)getpid(), serial++) < 0)
        return NULL;
    return t;
}

struct os_writer *os_writer_open(const char *path, struct error *e) {
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        error_set(e, "cannot write '%s': it is %s; give the name of a file", path,
                  S_ISDIR(st.st_mode) ? "a folder" : "not an ordinary file");
        return NULL;
    }
    struct os_writer *w = calloc(1, sizeof *w);
    if (w) w->path = strdup(path);
    if (w) w->temp = temp_name(path);
    if (!w || !w->path || !w->temp) {
        if (w) writer_free(w);
        error_set(e, "cannot write '%s': out of memory", path);
        return NULL;
    }
    w->fd = open(w->temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (w->fd < 0) {
        write_error(path, 0, errno, e);
        writer_free(w);
        return NULL;
    }
    return w;
}

static bool flush(struct os_writer *w, struct error *e) {
    if (!write_all(w->fd, w->buffer, w->n_buffered)) return write_error(w->path, w->written, errno, e);
    w->written += w->n_buffered;
    w->n_buffered = 0;
    return true;
}

bool os_writer_append(struct os_writer *w, const void *data, size_t bytes, struct error *e) {
    assert(w);
    if (bytes > sizeof w->buffer - w->n_buffered) {
        if (!flush(w, e)) return false;
        if (bytes >= sizeof w->buffer) {
            if (!write_all(w->fd, data, bytes)) return write_error(w->path, w->written, errno, e);
            w->written += bytes;
            return true;
        }
    }
    if (bytes) memcpy(w->buffer + w->n_buffered, data, bytes);
    w->n_buffered += bytes;
    return true;
}

bool os_writer_commit(struct os_writer **pw, struct error *e) {
    struct os_writer *w = *pw;
    assert(w);
    if (!flush(w, e)) {
        os_writer_abort(pw);
        return false;
    }
    /* EINVAL: a file system without fsync. */
    bool ok = fsync(w->fd) == 0 || errno == EINVAL || write_error(w->path, w->written, errno, e);
    if (close(w->fd) != 0 && ok) ok = write_error(w->path, w->written, errno, e);
    w->fd = -1;
    if (ok && rename(w->temp, w->path) != 0) ok = write_error(w->path, w->written, errno, e);
    if (!ok) {
        os_writer_abort(pw);
        return false;
    }
    writer_free(w);
    *pw = NULL;
    return true;
}

void os_writer_abort(struct os_writer **pw) {
    struct os_writer *w = *pw;
    if (!w) return;
    *pw = NULL;
    if (w->fd >= 0) close(w->fd);
    unlink(w->temp);
    writer_free(w);
}

bool os_file_write_atomic(const char *path, const void *data, size_t bytes, struct error *e) {
    struct os_writer *w = os_writer_open(path, e);
    if (!w) return false;
    if (os_writer_append(w, data, bytes, e)) return os_writer_commit(&w, e);
    os_writer_abort(&w);
    return false;
}

/* ---- Logs that grow ---- */

struct os_appender {
    int fd;
    char *path;
};

/* Byte count up to and with the last newline; reads backwards in blocks. */
static off_t whole_lines(int fd, off_t size) {
    char block[4096];
    while (size > 0) {
        size_t n = size < (off_t)sizeof block ? (size_t)size : sizeof block;
        if (pread(fd, block, n, size - (off_t)n) != (ssize_t)n) return size;
        for (size_t i = n; i-- > 0;)
            if (block[i] == '\n') return size - (off_t)(n - 1 - i);
        size -= (off_t)n;
    }
    return 0;
}

struct os_appender *os_appender_open(const char *path, bool truncate, struct error *e) {
    int fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | (truncate ? O_TRUNC : 0), 0666);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0) {
        write_error(path, 0, errno, e);
        if (fd >= 0) close(fd);
        return NULL;
    }
    struct os_appender *a = calloc(1, sizeof *a);
    if (a) a->path = strdup(path);
    off_t keep = S_ISREG(st.st_mode) ? whole_lines(fd, st.st_size) : st.st_size;
    if (!a || !a->path || (keep != st.st_size && ftruncate(fd, keep) != 0)) {
        write_error(path, 0, a && a->path ? errno : ENOMEM, e);
        if (a) free(a->path);
        free(a);
        close(fd);
        return NULL;
    }
    a->fd = fd;
    return a;
}

bool os_appender_write(struct os_appender *a, const void *data, size_t bytes, struct error *e) {
    return write_all(a->fd, data, bytes) || write_error(a->path, 0, errno, e);
}

void os_appender_close(struct os_appender **pa) {
    if (!*pa) return;
    close((*pa)->fd);
    free((*pa)->path);
    free(*pa);
    *pa = NULL;
}

bool os_file_remove(const char *path, struct error *e) {
    if (unlink(path) == 0 || errno == ENOENT) return true;
    return error_set(e, "cannot remove '%s': %s", path, strerror(errno));
}

bool os_file_rename(const char *from, const char *to, struct error *e) {
    if (rename(from, to) == 0) return true;
    return error_set(e, "cannot rename '%s' to '%s': %s", from, to, strerror(errno));
}
