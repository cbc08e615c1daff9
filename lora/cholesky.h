/* Symmetric positive definite systems in double (Cholesky, by blocks of rows; Golub and Van Loan, Matrix Computations, 4.2).
 * All cores; the result does not depend on their number. */
#ifndef ATELIER_LORA_CHOLESKY_H
#define ATELIER_LORA_CHOLESKY_H

#include <stdbool.h>
#include <stddef.h>

/* m[n][n], of which the lower half is read, becomes L with m = L L'; the upper half is left as it was. False if m is not
 * positive definite. */
bool cholesky_factor(double *m, size_t n);

/* Every row x of rows[n_rows][n] becomes x (L L')^-1. */
void cholesky_solve_rows(const double *l, size_t n, double *rows, size_t n_rows);

/* sum of a[i] * b[i], in an order that depends on n alone. */
double cholesky_dot(const double *a, const double *b, size_t n);

#endif
