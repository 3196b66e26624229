#include "ref.h"

#include <math.h>

void sq_rmsnorm_ref(float *y, int64_t ldy, float *rrms, const float *x, int64_t ldx, const float *gain, double eps,
                    int64_t rows, int64_t n)
{
    for (int64_t t = 0; t < rows; t++) {
        const float *xt = x + t * ldx;
        double sum = 0;
        for (int64_t i = 0; i < n; i++)
            sum += (double)xt[i] * (double)xt[i];
        const double r = 1 / sqrt(sum / (double)n + eps);
        for (int64_t i = 0; i < n; i++)
            y[t * ldy + i] = (float)((double)gain[i] * (double)xt[i] * r);
        rrms[t] = (float)r;
    }
}

/* With h = gain * dy:  dx = r h - x r^3 mean(h x),  dgain = sum over rows of dy x r. */
void sq_rmsnorm_grad_ref(float *dx, int64_t lddx, bool add, float *dgain, const float *dy, int64_t lddy,
                         const float *x, int64_t ldx, const float *rrms, const float *gain, int64_t rows, int64_t n)
{
    /* first, as dx may be dy */
    for (int64_t i = 0; dgain && i < n; i++) {
        double sum = (double)dgain[i];
        for (int64_t t = 0; t < rows; t++)
            sum += (double)dy[t * lddy + i] * (double)x[t * ldx + i] * (double)rrms[t];
        dgain[i] = (float)sum;
    }
    for (int64_t t = 0; t < rows; t++) {
        const float *xt = x + t * ldx, *dyt = dy + t * lddy;
        const double r = (double)rrms[t];
        double dot = 0;
        for (int64_t i = 0; i < n; i++)
            dot += (double)gain[i] * (double)dyt[i] * (double)xt[i];
        const double f = r * r * r * dot / (double)n;
        for (int64_t i = 0; i < n; i++) {
            const double d = r * (double)gain[i] * (double)dyt[i] - f * (double)xt[i];
            float *out = &dx[t * lddx + i];
            *out = (float)(add ? (double)*out + d : d);
        }
    }
}
