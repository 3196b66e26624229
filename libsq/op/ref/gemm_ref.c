#include "ref.h"

#include "sq/tensor.h"

static double operand(const struct sq_mat *a, int64_t row, int64_t col, bool round_bf16)
{
    const int64_t at = a->transposed ? col * a->ld + row : row * a->ld + col;
    const float v = a->type == SQ_BF16 ? sq_bf16_to_f32(((const uint16_t *)a->x)[at]) : ((const float *)a->x)[at];
    return round_bf16 ? (double)sq_bf16_to_f32(sq_f32_to_bf16(v)) : (double)v;
}

void sq_gemm_ref(float *c, int64_t ldc, struct sq_mat a, struct sq_mat b, int64_t m, int64_t n, int64_t k, bool add,
                 bool round_bf16)
{
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = add ? (double)c[i * ldc + j] : 0;
            for (int64_t p = 0; p < k; p++)
                sum += operand(&a, i, p, round_bf16) * operand(&b, p, j, round_bf16);
            c[i * ldc + j] = (float)sum;
        }
}

void sq_gemm_codes_ref(float *y, int64_t ldy, const float *base, const struct sq_codes *a, const struct sq_codes *b,
                       int64_t m, int64_t n)
{
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0; /* of whole numbers below 2^53: exact */
            for (int64_t p = 0; p < a->cols; p++)
                sum += ((double)a->q[i * a->ld + p] - (double)a->zero[i]) *
                       ((double)b->q[j * b->ld + p] - (double)b->zero[j]);
            const float x = (float)(sum * ((double)a->scale[i] * (double)b->scale[j]));
            y[i * ldy + j] = base ? base[i * ldy + j] + x : x;
        }
}
