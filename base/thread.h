/* Data parallelism on host cores. */
#ifndef ATELIER_BASE_THREAD_H
#define ATELIER_BASE_THREAD_H

#include <stddef.h>

/* Calls fn over disjoint ranges that cover [0, n), on this thread and the pool; returns when all are done.
 * How ranges are cut is unspecified, so fn's result must not depend on it. A call from inside fn, or while
 * another thread's call is running, runs on the calling thread alone. n == 0 does nothing. */
void thread_parallel_for(size_t n, void (*fn)(void *ctx, size_t begin, size_t end), void *ctx);

/* Cores this process may use, at least 1; the environment variable ATELIER_THREADS overrides (1..256). */
int thread_count(void);

#endif
