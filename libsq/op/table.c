/* The tables: filled with the reference, then overridden by the CPU backend (STYLE 2.2, as BLIS does it). */
#include "sq/op.h"

#include "ref/ref.h"

static const struct sq_ops reference = {
    .name = "ref",
    .isa = "c",
    .precision = SQ_F32_PRODUCTS,
    .gemm = sq_gemm_ref,
    .rmsnorm = sq_rmsnorm_ref,
    .rmsnorm_grad = sq_rmsnorm_grad_ref,
    .rope = sq_rope_ref,
    .swiglu = sq_swiglu_ref,
    .swiglu_grad = sq_swiglu_grad_ref,
    .attention = sq_attention_ref,
    .attention_grad = sq_attention_grad_ref,
    .add = sq_add_ref,
    .bias = sq_bias_ref,
    .bias_grad = sq_bias_grad_ref,
    .adamw = sq_adamw_ref,
    .rowquant = sq_rowquant_ref,
    .rowquant_grad = sq_rowquant_grad_ref,
    .rowquant_error = sq_rowquant_error_ref,
    .nll = sq_nll_ref,
    .kl = sq_kl_ref,
};

static struct sq_ops tables[2];

int sq_ops_get(const struct sq_ops **out, enum sq_backend backend, enum sq_precision precision)
{
    (void)backend;
    tables[precision] = reference;
    tables[precision].precision = precision;
    *out = &tables[precision];
    return 0;
}
