/* The source of the AVX-512 kernels in AVX2 registers, two for each of its vectors: tested where AVX-512 is not. */
#define LANES 16
#include "../../libsq/op/cpu/kernels.h"

extern const struct sq_vec sq_vec_wide;
const struct sq_vec sq_vec_wide = KERNELS("wide");
