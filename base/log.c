#include "base/log.h"
#include "base/os.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>

static atomic_int level = LOG_INFO;
static atomic_bool progress_open; /* the cursor stands at the end of a progress line */

void log_set_level(int l) { level = l; }
int log_level(void) { return level; }

/* One fwrite per line keeps lines whole between threads. */
static void line(const char *prefix, bool stay, const char *fmt, va_list ap) {
    char text[2048];
    bool tty = os_stderr_is_terminal();
    bool erase = atomic_exchange(&progress_open, stay && tty);
    int n = snprintf(text, sizeof text, "%s%s", erase ? "\r\x1b[K" : "", prefix);
    int m = vsnprintf(text + n, sizeof text - (size_t)n - 1, fmt, ap);
    size_t end = (size_t)n + (m < 0 ? 0 : (size_t)m);
    if (end > sizeof text - 2) end = sizeof text - 2;
    if (!(stay && tty)) text[end++] = '\n';
    fwrite(text, 1, end, stderr);
    fflush(stderr);
}

#define DEFINE(name, min, prefix, stay)                                                                      \
    void name(const char *fmt, ...) {                                                                        \
        if (level < min) return;                                                                             \
        va_list ap;                                                                                          \
        va_start(ap, fmt);                                                                                   \
        line(prefix, stay, fmt, ap);                                                                         \
        va_end(ap);                                                                                          \
    }

DEFINE(log_warn, LOG_WARN, "warning: ", false)
DEFINE(log_info, LOG_INFO, "", false)
DEFINE(log_debug, LOG_DEBUG, "", false)
DEFINE(log_progress, LOG_INFO, "", true)
