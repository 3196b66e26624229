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
