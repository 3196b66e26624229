/* The kernels compiled for the compiler's default target. */
#define LANES 8
#include "kernels.h"

const struct sq_vec sq_vec_base = KERNELS("base");
