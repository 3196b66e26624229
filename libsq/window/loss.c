#include "sq/window.h"

#include <math.h>

enum { PIECE = 512 }; /* channels widened at a time */

static double square_norm(struct sq_floats x, int64_t n)
{
    float wide[PIECE];
    double s = 0.0;
    for (int64_t at = 0; at < n; at += PIECE) {
        const int64_t some = SQ_MIN(PIECE, n - at);
        sq_floats_get(wide, sq_floats_from(x, at), some);
        for (int64_t i = 0; i < some; i++)
            s += (double)wide[i] * (double)wide[i];
    }
    return s;
}

void sq_loss_weights(double *weight, enum sq_loss_kind kind, struct sq_floats t, int64_t tokens, int64_t train,
                     int64_t hidden)
{
    double sum = 0.0;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < tokens; i++)
        weight[i] = square_norm(sq_floats_from(t, i * hidden), hidden);
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
