/* cuBLAS for the emulator: the same signature, arguments refused as the documentation of cublasGemmEx has it, sums in
 * double. */
#include "blas.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "gpu.h"

enum { OK = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };

struct handle {
    gpu_stream stream;
};

static int create(void **out)
{
    *out = calloc(1, sizeof(handle));
    return *out ? OK : NOT_INITIALIZED;
}

static int destroy(void *h)
{
    free(h);
    return OK;
}

static int set_stream(void *h, void *stream)
{
    static_cast<handle *>(h)->stream = static_cast<gpu_stream>(stream);
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

/* A product as it is queued. */
struct product {
    int ta, tb, m, n, k, type, lda, ldb, ldc;
    const void *a, *b;
    double alpha, beta;
    float *c;
};

static double sum_of(const product &p, int64_t i, int64_t j)
{
    double sum = 0;
    for (int64_t t = 0; t < p.k; t++)
        sum += element(p.a, p.type, p.ta == BLAS_N ? t * p.lda + i : i * p.lda + t) *
               element(p.b, p.type, p.tb == BLAS_N ? j * p.ldb + t : t * p.ldb + j);
    return sum;
}

static void multiply(const product &p)
{
#pragma omp parallel for schedule(static)
    for (int64_t j = 0; j < p.n; j++)
        for (int64_t i = 0; i < p.m; i++) {
            const double sum = p.alpha * sum_of(p, i, j);
            float *at = &p.c[j * p.ldc + i];
            *at = (float)(p.beta == 0 ? sum : sum + p.beta * (double)*at); /* C is not read where beta is 0 */
        }
}

static int gemm_ex(void *h, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int a_type, int lda,
                   const void *b, int b_type, int ldb, const void *beta, void *c, int c_type, int ldc, int compute,
                   int algo)
{
    if (!h || m < 0 || n < 0 || k < 0 || ta < BLAS_N || ta > BLAS_T || tb < BLAS_N || tb > BLAS_T || !alpha || !beta ||
        lda < (ta == BLAS_N ? m : k) || ldb < (tb == BLAS_N ? k : n) || ldc < m || lda < 1 || ldb < 1 || ldc < 1)
        return INVALID_VALUE;
    if (!known(a_type) || a_type != b_type || c_type != BLAS_R_32F || compute != BLAS_COMPUTE_32F ||
        algo != BLAS_DEFAULT)
        return NOT_SUPPORTED;
    const product p = {.ta = ta,
                       .tb = tb,
                       .m = m,
                       .n = n,
                       .k = k,
                       .type = a_type,
                       .lda = lda,
                       .ldb = ldb,
                       .ldc = ldc,
                       .a = a,
                       .b = b,
                       .alpha = (double)*static_cast<const float *>(alpha),
                       .beta = (double)*static_cast<const float *>(beta),
                       .c = static_cast<float *>(c)};
    gpu_queue(static_cast<handle *>(h)->stream, SQ_QUEUE_WORK, [=] { multiply(p); });
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
