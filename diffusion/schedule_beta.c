/* Quantiles of the beta distribution, for the beta schedule. */
#include "diffusion/schedule_priv.h"

#include <math.h>

/* The continued fraction of the incomplete beta function (Abramowitz and Stegun 26.5.8), by Lentz' method; converges
 * fast for x < (a + 1) / (a + b + 2). */
static double fraction(double x, double a, double b) {
    const double tiny = 1e-300;
    double c = 1, d = 1 / fmax(fabs(1 - (a + b) * x / (a + 1)), tiny), value = d;
    for (int m = 1; m < 300; m++) {
        double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
        double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
        for (int k = 0; k < 2; k++) {
            double term = k ? odd : even;
            d = 1 + term * d;
            c = 1 + term / c;
            if (fabs(d) < tiny) d = tiny;
            if (fabs(c) < tiny) c = tiny;
            d = 1 / d;
            value *= c * d;
        }
        if (fabs(c * d - 1) < 1e-16) break;
    }
    return value;
}

static double distribution(double x, double a, double b) {
    if (x <= 0 || x >= 1) return x > 0;
    double front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x));
    if (x < (a + 1) / (a + b + 2)) return front * fraction(x, a, b) / a;
    return 1 - front * fraction(1 - x, b, a) / b;
}

double schedule_beta_quantile(double p, double a, double b) {
    double low = 0, high = 1;
    if (p <= 0) return 0;
    if (p >= 1) return 1;
    for (int i = 0; i < 200; i++) {
        double middle = (low + high) / 2;
        if (distribution(middle, a, b) < p) low = middle;
        else high = middle;
    }
    return high;
}
