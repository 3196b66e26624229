/* Products of codes: the integers by oneDNN, left where the result goes; then a pass over it applies
 *
 *   sum (qa - za) (qb - zb) = sum qa qb - za sum qb - zb sum qa + K za zb
 *
 * in double, where all terms are exact, so that the bits are the reference's. */
#include "cpu.h"

#include <string.h>

/* Where oneDNN refuses a shape: the same integers. */
static void plain(int32_t *c, int64_t ldc, const struct sq_codes *a, const struct sq_codes *b, int64_t m, int64_t n)
{
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            int32_t sum = 0;
            for (int64_t p = 0; p < a->cols; p++)
                sum += a->q[i * a->ld + p] * b->q[j * b->ld + p];
            c[i * ldc + j] = sum;
        }
}

/* A refusal is said once. */
static bool by_library(int32_t *c, int64_t ldc, const struct sq_codes *a, const struct sq_codes *b, int64_t m, int64_t n)
{
    static bool said;
    if (!sq_codes_unit || a->cols == 0)
        return false;
    sq_space_lock();
    const bool done = sq_gemm_codes_onednn(c, ldc, a->q, a->ld, b->q, b->ld, m, n, a->cols) == 0;
    if (!done && !said)
        sq_log(SQ_WARNING, "%s: such codes are multiplied slowly", sq_errmsg());
    said |= !done;
    sq_space_unlock();
    return done;
}

static void apply_row(float *y, const int32_t *sum, const float *base, const struct sq_codes *a,
                      const struct sq_codes *b, int64_t i, int64_t n)
{
    const double za = (double)a->zero[i], sa = (double)a->scale[i], k = (double)a->cols;
    const double offset = (double)a->sum[i] - k * za; /* what zb multiplies */
    for (int64_t j = 0; j < n; j++) {
        const double exact = (double)sum[j] - za * (double)b->sum[j] - offset * (double)b->zero[j];
        const float x = (float)(exact * (sa * (double)b->scale[j]));
        y[j] = base ? base[j] + x : x;
    }
}

void sq_gemm_codes_cpu(float *y, int64_t ldy, const float *base, const struct sq_codes *a, const struct sq_codes *b,
                       int64_t m, int64_t n)
{
    SQ_ASSERT(a->cols == b->cols && sq_codes_multiply(a->bits, b->bits, a->cols));
    if (m <= 0 || n <= 0)
        return;
    int32_t *sums = (int32_t *)(void *)y; /* read again through memcpy only */
    if (!by_library(sums, ldy, a, b, m, n))
        plain(sums, ldy, a, b, m, n);
#pragma omp parallel for schedule(static) if (m * n > 1 << 14)
    for (int64_t i = 0; i < m; i++) {
        enum { PART = 512 };
        int32_t row[PART];
        struct sq_codes part = *b;
        for (int64_t j = 0; j < n; j += PART) {
            const int64_t some = SQ_MIN(PART, n - j);
            memcpy(row, y + i * ldy + j, (size_t)some * sizeof *row);
            part.scale = b->scale + j;
            part.zero = b->zero + j;
            part.sum = b->sum + j;
            apply_row(y + i * ldy + j, row, base ? base + i * ldy + j : NULL, a, &part, i, some);
        }
    }
}
