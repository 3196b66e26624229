/* The kernels compiled for AVX2 with FMA (the Makefile's flags for *_avx2.c). */
#include "cpu.h"

#if defined __x86_64__
#define LANES 8
#include "kernels.h"

const struct sq_vec sq_vec_avx2 = KERNELS("avx2");
#endif
