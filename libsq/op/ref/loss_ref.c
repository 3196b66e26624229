#include "ref.h"

#include <math.h>

/* log of the sum of exp of a row */
static double log_sum(const float *x, int64_t n)
{
    double max = -HUGE_VAL, sum = 0;
    for (int64_t i = 0; i < n; i++)
        max = fmax(max, (double)x[i]);
    for (int64_t i = 0; i < n; i++)
        sum += exp((double)x[i] - max);
    return max + log(sum);
}

/* the first of equal maxima */
static int64_t argmax(const float *x, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        best = x[i] > x[best] ? i : best;
    return best;
}

void sq_nll_ref(double *nll, const float *logits, const int32_t *target, int64_t rows, int64_t vocab)
{
    for (int64_t i = 0; i < rows; i++) {
        const float *x = logits + i * vocab;
        nll[i] = log_sum(x, vocab) - (double)x[target[i]];
    }
}

void sq_kl_ref(double *kl, uint8_t *same_top, const float *logits, const float *base, int64_t rows, int64_t vocab)
{
    for (int64_t i = 0; i < rows; i++) {
        const float *x = logits + i * vocab, *y = base + i * vocab;
        const double lx = log_sum(x, vocab), ly = log_sum(y, vocab);
        double sum = 0;
        for (int64_t j = 0; j < vocab; j++) {
            const double logp = (double)y[j] - ly;
            sum += exp(logp) * (logp - ((double)x[j] - lx));
        }
        kl[i] = sum;
        same_top[i] = argmax(x, vocab) == argmax(y, vocab);
    }
}
