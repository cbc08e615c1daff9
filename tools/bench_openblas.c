// OpenBLAS beside `atelier bench`: C[M,N] = A[M,K] * B[N,K]^T in f32, best of several runs, one JSON line per
// shape. Built and run by bench_peer.py; by hand:
//   cc -O2 bench_openblas.c -o bench_openblas -lopenblas && OPENBLAS_NUM_THREADS=2 ./bench_openblas
//   4096x320x320
// OpenBLAS 0.3.21 chooses an AVX2 kernel on CPUs it does not know; OPENBLAS_CORETYPE=SkylakeX asks for
// AVX-512.
#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

char *openblas_get_corename(void);

static double now_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static float *random_matrix(size_t n) {
    float *p = malloc(n * sizeof *p);
    for (size_t i = 0; p && i < n; i++) p[i] = (float)rand() / (float)RAND_MAX - 0.5f;
    return p;
}

// Repeats for about `seconds`, at least five times.
static double best_time(int m, int n, int k, double seconds) {
    float *a = random_matrix((size_t)m * k), *b = random_matrix((size_t)n * k),
          *c = random_matrix((size_t)m * n);
    if (!a || !b || !c) {
        fprintf(stderr, "bench_openblas: no memory for %dx%dx%d\n", m, n, k);
        exit(1);
    }
    double best = 1e30, end = now_seconds() + seconds;
    for (int run = 0; run < 6 || now_seconds() < end; run++) {
        double start = now_seconds();
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, 1.0f, a, k, b, k, 0.0f, c, n);
        double t = now_seconds() - start;
        if (run > 0 && t < best) // the first run wakes the threads
            best = t;
    }
    free(a);
    free(b);
    free(c);
    return best;
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        int m, n, k;
        if (sscanf(argv[i], "%dx%dx%d", &m, &n, &k) != 3 || m < 1 || n < 1 || k < 1) {
            fprintf(stderr, "bench_openblas: '%s' is not MxNxK\n", argv[i]);
            return 1;
        }
        double t = best_time(m, n, k, 1.0);
        printf("{\"name\": \"gemm %dx%dx%d\", \"kernel\": \"%s\", \"ms\": %.4f, \"gflops\": %.1f}\n", m, n, k,
               openblas_get_corename(), t * 1e3, 2.0 * m * n * k / t * 1e-9);
    }
    return 0;
}
