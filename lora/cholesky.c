#include "lora/cholesky.h"

#include <math.h>

#include "base/thread.h"

enum { BLOCK = 64 };

double cholesky_dot(const double *a, const double *b, size_t n) {
    double s[8] = {0}; /* the compiler may not reorder one sum */
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (size_t k = 0; k < 8; k++) s[k] += a[i + k] * b[i + k];
    for (; i < n; i++) s[0] += a[i] * b[i];
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

struct panel {
    double *m;
    size_t n, first, end; /* columns */
};

/* Columns first..end of the rows below, from those before them and from the block on the diagonal. */
static void panel_rows(void *ctx, size_t begin, size_t end) {
    const struct panel *p = ctx;
    for (size_t r = p->end + begin; r < p->end + end; r++) {
        double *row = p->m + r * p->n;
        for (size_t c = p->first; c < p->end; c++) {
            const double *other = p->m + c * p->n;
            row[c] = (row[c] - cholesky_dot(row, other, c)) / other[c];
        }
    }
}

bool cholesky_factor(double *m, size_t n) {
    for (size_t first = 0; first < n; first += BLOCK) {
        struct panel p = {m, n, first, first + BLOCK < n ? first + BLOCK : n};
        for (size_t r = first; r < p.end; r++) {
            double *row = m + r * n;
            for (size_t c = first; c < r; c++) row[c] = (row[c] - cholesky_dot(row, m + c * n, c)) / m[c * n + c];
            double square = row[r] - cholesky_dot(row, row, r);
            if (!(square > 0)) return false;
            row[r] = sqrt(square);
        }
        thread_parallel_for(n - p.end, panel_rows, &p);
    }
    return true;
}

struct solve {
    const double *l;
    double *rows;
    size_t n;
};

static void solve_rows(void *ctx, size_t begin, size_t end) {
    const struct solve *s = ctx;
    for (size_t r = begin; r < end; r++) {
        double *x = s->rows + r * s->n;
        for (size_t i = 0; i < s->n; i++) x[i] = (x[i] - cholesky_dot(s->l + i * s->n, x, i)) / s->l[i * s->n + i];
        for (size_t i = s->n; i-- > 0;) { /* along L's rows, which lie in one piece */
            const double *row = s->l + i * s->n;
            x[i] /= row[i];
            for (size_t k = 0; k < i; k++) x[k] -= row[k] * x[i];
        }
    }
}

void cholesky_solve_rows(const double *l, size_t n, double *rows, size_t n_rows) {
    struct solve s = {l, rows, n};
    thread_parallel_for(n_rows, solve_rows, &s);
}
