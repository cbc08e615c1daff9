/* The only door to the operating system: files, clock, signals, machine facts. Other rooms include no OS header.
 * Failures return false/NULL with a sentence naming the path. Safe from any thread unless said otherwise. */
#ifndef ATELIER_BASE_OS_H
#define ATELIER_BASE_OS_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

struct arena;

/* ---- Files, read ---- */

struct os_watch;
struct os_map {
    const uint8_t *data; /* read-only; never NULL after success, also for an empty file */
    size_t bytes;
    void *base; /* what to unmap; NULL for an empty file */
    struct os_watch *watch;
};

/* Maps a regular file. Should others shorten it while it is mapped, what is gone reads as zeros. */
bool os_file_map(struct os_map *m, const char *path, struct error *e);
void os_file_unmap(struct os_map *m); /* zeroes *m; harmless on {0} */
/* Call after reading what matters: false with a sentence if the file was written to or shortened since it was mapped. */
bool os_map_intact(const struct os_map *m, struct error *e);

struct os_stat {
    uint64_t bytes;
    int64_t mtime_ns; /* since 1970 */
};
bool os_file_stat(const char *path, struct os_stat *out, struct error *e);

/* ---- Files, written: they appear whole, by rename, or not at all ---- */

bool os_file_write_atomic(const char *path, const void *data, size_t bytes, struct error *e);

/* The same in pieces. After a failed append only abort is allowed. commit and abort both free and NULL *w;
 * a failed commit leaves the old file in place. */
struct os_writer;
struct os_writer *os_writer_open(const char *path, struct error *e);
bool os_writer_append(struct os_writer *w, const void *data, size_t bytes, struct error *e);
bool os_writer_commit(struct os_writer **w, struct error *e);
void os_writer_abort(struct os_writer **w);

/* For logs that grow: each write goes straight to the end of the file in one piece. A last line that a crash
 * left without its newline is cut off at open. */
struct os_appender;
struct os_appender *os_appender_open(const char *path, bool truncate, struct error *e);
bool os_appender_write(struct os_appender *a, const void *data, size_t bytes, struct error *e);
void os_appender_close(struct os_appender **a);

bool os_file_remove(const char *path, struct error *e); /* a missing file is fine */
bool os_file_rename(const char *from, const char *to, struct error *e);

/* ---- Folders ---- */

struct os_entry {
    const char *name; /* without the folder */
    bool is_dir;      /* links are followed */
};
/* Entries but "." and "..", sorted by bytes; memory from a. */
bool os_dir_list(struct arena *a, const char *path, struct os_entry **out, size_t *n, struct error *e);
bool os_dir_make(const char *path, struct error *e); /* with parents; an existing folder is fine */
bool os_dir_remove(const char *path, struct error *e); /* an empty one; a missing folder is fine */
bool os_path_exists(const char *path);
bool os_path_is_dir(const char *path);
bool os_path_is_file(const char *path);
/* Path without links and dots; where the path does not exist, a copy of it as given. */
char *os_path_real(struct arena *a, const char *path);

/* $ATELIER_CACHE_DIR, else $XDG_CACHE_HOME/atelier, else ~/.cache/atelier. Not created. */
char *os_cache_dir(struct arena *a);

/* ---- Clock ---- */

double os_now_seconds(void); /* monotonic, arbitrary zero */
enum { OS_WALLCLOCK_BYTES = 32 };
double os_wall_seconds(void); /* since 1970 */
void os_wallclock(char out[OS_WALLCLOCK_BYTES]); /* UTC, "2026-01-31T09:05:00Z" */

/* ---- Signals ---- */

/* At the very start: stdin, stdout and stderr are open (on nothing, where they were closed: else a file of ours would get
 * their number, and what is printed), and a reader who left or a limit on file sizes is a failed write, not the end. */
bool os_process_prepare(void);
/* From now on the first SIGINT, SIGTERM or SIGHUP (unless nohup ignores it) only sets a flag; the second kills. */
bool os_interrupt_install(void);
bool os_interrupted(void);

/* ---- Machine ---- */

bool os_cpu_has_avx512(void);
uint64_t os_memory_total(void);     /* bytes this process may use: physical memory or the cgroup's limit */
uint64_t os_memory_available(void); /* bytes free without swapping; 0 if unknown */
uint64_t os_memory_peak_rss(void);  /* bytes, of this process */
uint64_t os_process_id(void);
bool os_stderr_is_terminal(void);
void os_setenv_default(const char *name, const char *value); /* keeps a value that is already set; call early */

#endif
