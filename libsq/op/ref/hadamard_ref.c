#include "../hadamard.h"

#include <math.h>

#include "ref.h"

int sq_hadamard_order(int64_t n)
{
    struct hadamard h;
    if (hadamard_of(&h, n))
        return 0;
    return sq_fail(SQ_E_UNSUP,
                   "no Hadamard matrix of order %" PRId64 " is known here: it is not 2^k m, m 1 or of Paley's", n);
}

void sq_hadamard_ref(float *y, const float *x, const float *sign, int64_t rows, int64_t n)
{
    struct hadamard h;
    SQ_ASSERT(hadamard_of(&h, n));
    for (int64_t t = 0; t < rows; t++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t i = 0; i < n; i++)
                sum += (double)x[t * n + i] * (sign ? (double)sign[i] : 1) * hadamard_entry(&h, h.k, (int)i, (int)j);
            y[t * n + j] = (float)(sum / sqrt((double)n));
        }
}
