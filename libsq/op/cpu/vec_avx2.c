/* The kernels compiled for AVX2 with FMA (the Makefile's flags for *_avx2.c). */
#if defined __x86_64__
#include "kernels_attention.h"
#include "kernels_gemm.h"
#include "kernels_rows.h"

const struct sq_vec sq_vec_avx2 = {
    .name = "avx2",
    .tile = {.name = "own", .wr = TILE_ROWS, .wc = TILE_VECS * LANES, .kc = 256, .mul = tile_mul},
    .pack = pack,
    .widen = widen,
    .rmsnorm = rmsnorm,
    .rmsnorm_dx = rmsnorm_dx,
    .column_sums = column_sums,
    .rope = rope,
    .swiglu = swiglu,
    .swiglu_grad = swiglu_grad,
    .add = add,
    .adamw = adamw,
    .nll = nll,
    .kl = kl,
    .softmax = softmax,
    .soften = soften,
    .scale = scale,
    .dot = dot,
};
#endif
