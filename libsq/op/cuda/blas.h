/* blas.h - the few functions of cuBLAS that products need, behind pointers: from libcublas when the first product runs
 * (62 ms that nobody else pays), from blas_emu.cpp in the emulator, which looks at every argument as cuBLAS would.
 * Private to op/cuda. */
#ifndef SQ_BLAS_H
#define SQ_BLAS_H

#include <stddef.h>

/* cuBLAS's own numbers (cublas_api.h, library_types.h); gemm_cuda.cu compares them where that header is */
enum { BLAS_N = 0, BLAS_T = 1, BLAS_R_32F = 0, BLAS_R_16BF = 14, BLAS_COMPUTE_32F = 68, BLAS_DEFAULT = -1 };

struct gpu_blas {
    void *library, *handle;
    int (*create)(void **handle);
    int (*destroy)(void *handle);
    int (*set_stream)(void *handle, void *stream);
    int (*set_workspace)(void *handle, void *space, size_t bytes);
    /* column-major C [m, n] = alpha op(A) op(B) + beta C; see cublasGemmEx */
    int (*gemm_ex)(void *handle, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int a_type,
                   int lda, const void *b, int b_type, int ldb, const void *beta, void *c, int c_type, int ldc,
                   int compute, int algo);
    void *space; /* its own workspace: with one stream the same choice of kernels, the same bytes */
};

/* Fills the pointers; false with a text in why. */
bool gpu_blas_load(struct gpu_blas *b, char *why, size_t n);

#endif
