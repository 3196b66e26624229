/* libcublas, opened when the first product runs. */
#include "blas.h"

#include <cublas_v2.h>
#include <dlfcn.h>
#include <stdio.h>

static_assert(BLAS_N == (int)CUBLAS_OP_N && BLAS_T == (int)CUBLAS_OP_T, "cuBLAS's numbers");
static_assert(BLAS_R_32F == (int)CUDA_R_32F && BLAS_R_16BF == (int)CUDA_R_16BF, "cuBLAS's numbers");
static_assert(BLAS_COMPUTE_32F == (int)CUBLAS_COMPUTE_32F && BLAS_DEFAULT == (int)CUBLAS_GEMM_DEFAULT,
              "cuBLAS's numbers");

/* of the version that this is compiled with: another one's numbers may differ */
static void *open_library(char *why, size_t n)
{
    char name[64], installed[96];
    snprintf(name, sizeof name, "libcublas.so.%d", CUBLAS_VER_MAJOR);
    snprintf(installed, sizeof installed, "/usr/local/cuda/lib64/%s", name);
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        snprintf(why, n, "%s; LD_LIBRARY_PATH may name its folder", dlerror());
        library = dlopen(installed, RTLD_NOW | RTLD_LOCAL); /* NVIDIA's installer does not tell the loader */
    }
    return library;
}

bool gpu_blas_load(struct gpu_blas *b, char *why, size_t n)
{
    const struct {
        void *pointer;
        const char *name;
    } symbols[] = {{&b->create, "cublasCreate_v2"},
                   {&b->destroy, "cublasDestroy_v2"},
                   {&b->set_stream, "cublasSetStream_v2"},
                   {&b->set_workspace, "cublasSetWorkspace_v2"},
                   {&b->gemm_ex, "cublasGemmEx"}};
    b->library = open_library(why, n);
    for (size_t i = 0; b->library && i < sizeof symbols / sizeof *symbols; i++) {
        void *p = dlsym(b->library, symbols[i].name);
        if (!p) {
            snprintf(why, n, "libcublas has no %s", symbols[i].name);
            return false;
        }
        *static_cast<void **>(symbols[i].pointer) = p;
    }
    return b->library != nullptr;
}
