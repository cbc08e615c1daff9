/* Shared by schedule*.c. */
#ifndef ATELIER_DIFFUSION_SCHEDULE_PRIV_H
#define ATELIER_DIFFUSION_SCHEDULE_PRIV_H

/* The x at which Beta(a, b)'s distribution function reaches p. 0 <= p <= 1, a and b > 0. */
double schedule_beta_quantile(double p, double a, double b);

#endif
