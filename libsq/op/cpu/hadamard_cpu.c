/* Rows times a Hadamard matrix: butterflies for its power of two, then plain sums over the m pieces of a row, a strip
 * of columns at a time. A thread takes rows. */
#include "cpu.h"

#include <math.h>

#include "../hadamard.h"

enum { STRIP = 16, LARGE = 1 << 16 };

/* H_2^k on pieces of `width` of y[n], in place */
static void butterflies(float *y, int64_t n, int64_t width)
{
    for (int64_t half = 1; half < width; half *= 2)
        for (int64_t first = 0; first < n; first += 2 * half)
            for (int64_t i = first; i < first + half; i++) {
                const float a = y[i], b = y[i + half];
                y[i] = a + b;
                y[i + half] = a - b;
            }
}

/* H_m [m, m] across the pieces of y [m, width], columns first ... first + n - 1 */
static void across(float *y, const int8_t *small, int64_t m, int64_t width, int64_t first, int64_t n)
{
    float in[HADAMARD_SMALL][STRIP];
    for (int64_t i = 0; i < m; i++)
        for (int64_t e = 0; e < n; e++)
            in[i][e] = y[i * width + first + e];
    for (int64_t j = 0; j < m; j++) {
        float sum[STRIP] = {0};
        for (int64_t i = 0; i < m; i++) {
            const float s = small[i * m + j];
            for (int64_t e = 0; e < n; e++)
                sum[e] += s * in[i][e];
        }
        for (int64_t e = 0; e < n; e++)
            y[j * width + first + e] = sum[e];
    }
}

static void row(float *y, const float *x, const float *sign, const struct hadamard *h, const int8_t *small, int64_t n)
{
    const int64_t width = (int64_t)1 << h->k;
    const float scale = (float)(1 / sqrt((double)n));
    for (int64_t i = 0; i < n; i++)
        y[i] = (sign ? x[i] * sign[i] : x[i]) * scale;
    butterflies(y, n, width);
    for (int64_t first = 0; h->m > 1 && first < width; first += STRIP)
        across(y, small, h->m, width, first, SQ_MIN(STRIP, width - first));
}

void sq_hadamard_cpu(float *y, const float *x, const float *sign, int64_t rows, int64_t n)
{
    int8_t small[HADAMARD_SMALL * HADAMARD_SMALL];
    struct hadamard h;
    SQ_ASSERT(hadamard_of(&h, n));
    for (int i = 0; i < h.m * h.m; i++)
        small[i] = (int8_t)hadamard_small(&h, i / h.m, i % h.m);
#pragma omp parallel for schedule(static) if (rows * n > LARGE)
    for (int64_t i = 0; i < rows; i++)
        row(y + i * n, x + i * n, sign, &h, small, n);
}
