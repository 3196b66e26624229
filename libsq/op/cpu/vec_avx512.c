/* The kernels compiled for AVX-512 F, VL, DQ and BW (the Makefile's flags for *_avx512.c). */
#include "cpu.h"

#if defined __x86_64__
#define LANES 16
#include "kernels.h"

const struct sq_vec sq_vec_avx512 = KERNELS("avx512");
#endif
