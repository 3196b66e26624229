#include "sq/window.h"

#include <math.h>

static double square_norm(const float *x, int64_t n)
{
    double s = 0.0;
    for (int64_t i = 0; i < n; i++)
        s += (double)x[i] * (double)x[i];
    return s;
}

void sq_loss_weights(double *weight, enum sq_loss_kind kind, const float *t, int64_t tokens, int64_t train,
                     int64_t hidden)
{
    double sum = 0.0;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < tokens; i++)
        weight[i] = square_norm(t + i * hidden, hidden);
    for (int64_t i = 0; i < train; i++)
        sum += weight[i];
    const double mean =
        fmax(sum / (double)SQ_MAX(train, 1), 1e-30); /* of |t|^2, that is C times the mean square */
    for (int64_t i = 0; i < tokens; i++) {
        const double token = 1.0 / fmax(weight[i], 1e-9 * mean);
        weight[i] = kind == SQ_LOSS_MSE     ? 1.0 / (double)hidden
                    : kind == SQ_LOSS_TOKEN ? token
                                            : 0.5 * token + 0.5 / mean;
    }
}

/* One thread: two operations an element are nothing beside a layer's, and the order of the sum stays fixed.
 */
double sq_loss_grad(float *dy, const float *y, const float *t, const double *weight, int64_t tokens,
                    int64_t hidden, double scale)
{
    double sum = 0.0;
    for (int64_t i = 0; i < tokens; i++) {
        const double slope = 2.0 * weight[i] * scale;
        double token = 0.0;
        for (int64_t c = i * hidden; c < (i + 1) * hidden; c++) {
            const double d = (double)y[c] - (double)t[c];
            token += d * d;
            if (dy)
                dy[c] = (float)(slope * d);
        }
        sum += weight[i] * token;
    }
    return sum;
}
