#define _GNU_SOURCE
#include "base/thread.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

enum { MAX_THREADS = 256, CHUNKS_PER_THREAD = 4 };

static struct {
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
    unsigned job; /* counts jobs, so that a worker joins each one once */
    int active;   /* workers inside the current job */
    bool open;    /* workers may still join the current job */
    void (*fn)(void *, size_t, size_t);
    void *ctx;
    size_t n, chunk;
    atomic_size_t next;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER, .done = PTHREAD_COND_INITIALIZER};

static pthread_mutex_t caller = PTHREAD_MUTEX_INITIALIZER; /* held by whoever runs a parallel job */
static pthread_once_t started = PTHREAD_ONCE_INIT;
static int n_threads = 1, n_workers;

static void drain(void) {
    for (;;) {
        size_t begin = atomic_fetch_add(&pool.next, pool.chunk);
        if (begin >= pool.n) return;
        size_t end = pool.n - begin < pool.chunk ? pool.n : begin + pool.chunk;
        pool.fn(pool.ctx, begin, end);
    }
}

static void *worker(void *unused) {
    (void)unused;
    unsigned seen = 0;
    pthread_mutex_lock(&pool.lock);
    for (;;) {
        while (!pool.open || pool.job == seen) pthread_cond_wait(&pool.wake, &pool.lock);
        seen = pool.job;
        pool.active++;
        pthread_mutex_unlock(&pool.lock);
        drain();
        pthread_mutex_lock(&pool.lock);
        if (--pool.active == 0) pthread_cond_signal(&pool.done);
    }
    return NULL;
}

static void start(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) n_threads = CPU_COUNT(&set);
    const char *wish = getenv("ATELIER_THREADS");
    if (wish && atoi(wish) > 0) n_threads = atoi(wish);
    if (n_threads > MAX_THREADS) n_threads = MAX_THREADS;
    if (n_threads < 1) n_threads = 1;
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_t id;
    /* Fewer workers than wished only costs speed. */
    while (n_workers < n_threads - 1 && pthread_create(&id, &attr, worker, NULL) == 0) n_workers++;
    pthread_attr_destroy(&attr);
}

int thread_count(void) {
    pthread_once(&started, start);
    return n_threads;
}

void thread_parallel_for(size_t n, void (*fn)(void *ctx, size_t begin, size_t end), void *ctx) {
    assert(fn);
    if (n == 0) return;
    size_t threads = (size_t)thread_count();
    if (n == 1 || n_workers == 0 || pthread_mutex_trylock(&caller) != 0) {
        fn(ctx, 0, n);
        return;
    }
    size_t chunks = threads * CHUNKS_PER_THREAD;
    pthread_mutex_lock(&pool.lock);
    pool.fn = fn;
    pool.ctx = ctx;
    pool.n = n;
    pool.chunk = n / chunks + (n % chunks != 0);
    pool.next = 0;
    pool.job++;
    pool.open = true;
    pthread_cond_broadcast(&pool.wake);
    pthread_mutex_unlock(&pool.lock);
    drain();
    pthread_mutex_lock(&pool.lock);
    pool.open = false; /* late wakers find nothing to join */
    while (pool.active) pthread_cond_wait(&pool.done, &pool.lock);
    pthread_mutex_unlock(&pool.lock);
    pthread_mutex_unlock(&caller);
}
