/* cuBLAS for the emulator: the same signature, arguments refused as the documentation of cublasGemmEx has it, sums in
 * double. */
#include "blas.h"

#include <stdint.h>
#include <string.h>

enum { OK = 0, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };

static int create(void **handle)
{
    static int one;
    *handle = &one;
    return OK;
}

static int destroy(void *)
{
    return OK;
}

static int set_stream(void *, void *)
{
    return OK;
}

static int set_workspace(void *, void *space, size_t bytes)
{
    return space || bytes == 0 ? OK : INVALID_VALUE;
}

static double element(const void *x, int type, int64_t at)
{
    if (type == BLAS_R_32F)
        return (double)static_cast<const float *>(x)[at];
    const uint32_t bits = (uint32_t) static_cast<const uint16_t *>(x)[at] << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return (double)f;
}

static bool known(int type)
{
    return type == BLAS_R_32F || type == BLAS_R_16BF;
}

static int gemm_ex(void *handle, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int a_type,
                   int lda, const void *b, int b_type, int ldb, const void *beta, void *c, int c_type, int ldc,
                   int compute, int algo)
{
    if (!handle || m < 0 || n < 0 || k < 0 || ta < BLAS_N || ta > BLAS_T || tb < BLAS_N || tb > BLAS_T || !alpha ||
        !beta || lda < (ta == BLAS_N ? m : k) || ldb < (tb == BLAS_N ? k : n) || ldc < m || lda < 1 || ldb < 1 ||
        ldc < 1)
        return INVALID_VALUE;
    if (!known(a_type) || a_type != b_type || c_type != BLAS_R_32F || compute != BLAS_COMPUTE_32F ||
        algo != BLAS_DEFAULT)
        return NOT_SUPPORTED;
    const double x = (double)*static_cast<const float *>(alpha), y = (double)*static_cast<const float *>(beta);
    float *to = static_cast<float *>(c);
#pragma omp parallel for schedule(static)
    for (int64_t j = 0; j < n; j++)
        for (int64_t i = 0; i < m; i++) {
            double sum = 0;
            for (int64_t p = 0; p < k; p++)
                sum += element(a, a_type, ta == BLAS_N ? p * lda + i : i * lda + p) *
                       element(b, b_type, tb == BLAS_N ? j * ldb + p : p * ldb + j);
            float *at = &to[j * ldc + i];
            *at = (float)(y == 0 ? x * sum : x * sum + y * (double)*at); /* C is not read where beta is 0 */
        }
    return OK;
}

bool gpu_blas_load(struct gpu_blas *b, char *, size_t)
{
    b->create = create;
    b->destroy = destroy;
    b->set_stream = set_stream;
    b->set_workspace = set_workspace;
    b->gemm_ex = gemm_ex;
    return true;
}
