/* Lines for a person, on stderr. Results go to stdout and are app's business. Thread-safe. */
#ifndef ATELIER_BASE_LOG_H
#define ATELIER_BASE_LOG_H

enum { LOG_QUIET = 0, LOG_WARN = 1, LOG_INFO = 2, LOG_DEBUG = 3 };

void log_set_level(int level); /* default LOG_INFO */
int log_level(void);

/* One line each; a newline is added. log_warn starts with "warning: ". */
void log_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_debug(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* A line that the next one replaces when stderr is a terminal, and an ordinary line elsewhere. Level LOG_INFO. */
void log_progress(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
