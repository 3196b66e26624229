/* All kernels of one instruction set. A file that defines LANES, includes this and has a KERNELS table is compiled with the
 * set's flags. */
#include "kernels_attention.h"
#include "kernels_gemm.h"
#include "kernels_rows.h"
#include "kernels_rowquant.h"

#define KERNELS(set)                                                                                              \
    {                                                                                                             \
        .name = set,                                                                                              \
        .tile = {.name = "own", .wr = TILE_ROWS, .wc = TILE_VECS * LANES, .kc = 256, .mul = tile_mul},            \
        .pack = pack, .widen = widen, .rmsnorm = rmsnorm, .rmsnorm_dx = rmsnorm_dx, .column_sums = column_sums,   \
        .rope = rope, .swiglu = swiglu, .swiglu_grad = swiglu_grad, .add = add, .adamw = adamw, .nll = nll,       \
        .kl = kl, .softmax = softmax, .soften = soften, .scale = scale, .dot = dot, .rowquant = rowquant,         \
        .rowquant_grad = rowquant_grad, .rowquant_encode = rowquant_encode, .rowquant_error = rowquant_error      \
    }
