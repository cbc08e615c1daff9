/* Eigenvalues and eigenvectors of a symmetric matrix in double: Householder tridiagonalisation and implicit QL with
 * Wilkinson's shifts (Golub and Van Loan, Matrix Computations, 8.3). Deterministic on any number of cores. */
#ifndef ATELIER_LORA_EIGEN_H
#define ATELIER_LORA_EIGEN_H

#include <stdbool.h>
#include <stddef.h>

/* m[n][n] is used up. values[n] falling, vectors[n][n]: row k belongs to values[k]. False if it does not converge. */
bool eigen_symmetric(double *m, size_t n, double *values, double *vectors);

#endif
