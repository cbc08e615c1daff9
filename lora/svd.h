/* Singular value decomposition of a layer's change, cut to a rank: the nearest product of two thin matrices (Eckart and
 * Young). In double; the same input gives the same bits, whatever the number of cores.
 *
 * A dense matrix goes through the eigenvectors of its smaller Gram matrix (Householder tridiagonalisation and implicit
 * QL; Golub and Van Loan, Matrix Computations, 8.3), and the other factor is the matrix projected on them, so that a cut
 * is an orthogonal projection to the last digits. Singular values below 1e-8 of the largest are noise. A product of
 * factors is first reduced to a small square core by orthonormalising both. */
#ifndef ATELIER_LORA_SVD_H
#define ATELIER_LORA_SVD_H

#include "base/error.h"

#include <stddef.h>

struct arena;

struct lora_svd {
    size_t out, in, n;   /* n = min(out, in, rank of the product) */
    double *sigma;       /* [n], falling */
    /* What lora_svd_factors works from. */
    struct arena *arena;
    const double *matrix, *vectors; /* [rows][columns] of the matrix or core; [n][n] eigenvectors as rows */
    size_t rows, columns;
    const double *left, *right;     /* product only: orthonormal rows [n][out] and [n][in] */
};

/* d[out][in]. Memory, also later in lora_svd_factors, from a. False with a clause where numbers are not finite. */
bool lora_svd_dense(struct lora_svd *s, const float *d, size_t out, size_t in, struct arena *a, struct error *e);

/* up[out][rank] * down[rank][in]. */
bool lora_svd_product(struct lora_svd *s, const float *up, const float *down, size_t out, size_t rank, size_t in,
                      struct arena *a, struct error *e);

/* up[out][rank] = U * sigma and down[rank][in] = V', the first rank of them; 1 <= rank. Past s->n: zeros. */
void lora_svd_factors(const struct lora_svd *s, size_t rank, float *up, float *down);

/* How many singular values to keep. */
enum lora_rank_by {
    LORA_RANK_FIXED,      /* max */
    LORA_RANK_NUMERICAL,  /* all that are not noise */
    LORA_RANK_RATIO,      /* sigma > sigma[0] / q, and one more as kohya has it */
    LORA_RANK_CUMULATIVE, /* up to a share q of their sum */
    LORA_RANK_FRO         /* up to a share q of the Frobenius norm: q^2 of the sum of squares */
};
struct lora_rank_rule {
    enum lora_rank_by by;
    double q;
    int max; /* 0: no limit */
};
/* At least 1, at most s->n and rule->max. After kohya's resize_lora.py. */
int lora_svd_rank(const struct lora_svd *s, const struct lora_rank_rule *rule);

/* Shares of the sum of singular values and of their Euclidean norm that a rank keeps; 1 where all are 0. */
void lora_svd_kept(const struct lora_svd *s, int rank, double *sum, double *fro);

#endif
