#define _GNU_SOURCE
#include "base/os.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

/* ---- Clock ---- */

double os_now_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double os_wall_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void os_wallclock(char out[OS_WALLCLOCK_BYTES]) {
    time_t now = time(NULL);
    struct tm tm;
    gmtime_r(&now, &tm);
    strftime(out, OS_WALLCLOCK_BYTES, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

/* ---- Signals ---- */

static volatile sig_atomic_t interrupted;

static void on_signal(int unused) {
    (void)unused;
    interrupted = 1;
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
}

bool os_interrupt_install(void) {
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_RESTART}, hup;
    sigemptyset(&sa.sa_mask);
    if (sigaction(SIGHUP, NULL, &hup) != 0) return false;
    bool nohup = hup.sa_handler == SIG_IGN;
    return sigaction(SIGINT, &sa, NULL) == 0 && sigaction(SIGTERM, &sa, NULL) == 0 &&
           (nohup || sigaction(SIGHUP, &sa, NULL) == 0);
}

bool os_process_prepare(void) {
    int fd;
    do fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0) close(fd);
    return fd >= 0 && signal(SIGPIPE, SIG_IGN) != SIG_ERR && signal(SIGXFSZ, SIG_IGN) != SIG_ERR;
}

bool os_interrupted(void) { return interrupted != 0; }

/* ---- Machine ---- */

bool os_cpu_has_avx512(void) {
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512f");
#else
    return false;
#endif
}

static uint64_t read_number(const char *path) {
    FILE *f = fopen(path, "re");
    unsigned long long v = 0;
    if (!f) return 0;
    if (fscanf(f, "%llu", &v) != 1) v = 0; /* "max" = no limit */
    fclose(f);
    return v;
}

static uint64_t cgroup_limit(void) {
    uint64_t v2 = read_number("/sys/fs/cgroup/memory.max");
    return v2 ? v2 : read_number("/sys/fs/cgroup/memory/memory.limit_in_bytes");
}

/* First "name: number" or "name number" line of a file, 0 without one. */
static uint64_t read_field(const char *path, const char *name) {
    FILE *f = fopen(path, "re");
    char row[128];
    unsigned long long v = 0;
    size_t n = strlen(name);
    while (f && fgets(row, sizeof row, f))
        if (strncmp(row, name, n) == 0 && sscanf(row + n, "%*[: ]%llu", &v) == 1) break;
    if (f) fclose(f);
    return v;
}

uint64_t os_memory_total(void) {
    uint64_t physical = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE), limit = cgroup_limit();
    return limit && limit < physical ? limit : physical;
}

uint64_t os_memory_available(void) {
    uint64_t host = read_field("/proc/meminfo", "MemAvailable") * 1024;
    uint64_t limit = read_number("/sys/fs/cgroup/memory.max"), used = read_number("/sys/fs/cgroup/memory.current");
    if (!limit || !used) return host;
    /* The cgroup counts cached files as used, but gives them up under pressure. */
    used -= read_field("/sys/fs/cgroup/memory.stat", "file");
    uint64_t left = limit > used ? limit - used : 0;
    return left < host ? left : host;
}

uint64_t os_memory_peak_rss(void) {
    struct rusage r;
    return getrusage(RUSAGE_SELF, &r) == 0 ? (uint64_t)r.ru_maxrss * 1024 : 0;
}

uint64_t os_process_id(void) { return (uint64_t)getpid(); }

bool os_stderr_is_terminal(void) { return isatty(STDERR_FILENO) == 1; }

void os_setenv_default(const char *name, const char *value) { setenv(name, value, 0); }
