#include "ref.h"

#include "sq/tensor.h"

static double operand(const float *x, int64_t ld, bool transposed, int64_t row, int64_t col, bool round_bf16)
{
    const float v = transposed ? x[col * ld + row] : x[row * ld + col];
    return round_bf16 ? (double)sq_bf16_to_f32(sq_f32_to_bf16(v)) : (double)v;
}

void sq_gemm_ref(float *c, int64_t ldc, const float *a, int64_t lda, bool ta, const float *b, int64_t ldb, bool tb,
                 int64_t m, int64_t n, int64_t k, bool add, bool round_bf16)
{
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = add ? (double)c[i * ldc + j] : 0;
            for (int64_t p = 0; p < k; p++)
                sum += operand(a, lda, ta, i, p, round_bf16) * operand(b, ldb, tb, p, j, round_bf16);
            c[i * ldc + j] = (float)sum;
        }
}
