/* The tables: filled with the reference, then overridden by the CPU backend (STYLE 2.2, as BLIS does it). */
#include "sq/op.h"

#include <pthread.h>

#include "cpu/cpu.h"
#include "ref/ref.h"

static const struct sq_ops reference = {
    .name = "ref",
    .isa = "c",
    .precision = SQ_F32_PRODUCTS,
    .gemm = sq_gemm_ref,
    .gemm_codes = sq_gemm_codes_ref,
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
    .rowquant_encode = sq_rowquant_encode_ref,
    .nll = sq_nll_ref,
    .kl = sq_kl_ref,
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct sq_ops tables[2][2]; /* [ref or cpu][precision] */
static bool have_ref, have_cpu;

static void fill_ref(void)
{
    for (int b = 0; b < 2 && !have_ref; b++)
        for (int p = 0; p < 2; p++) {
            tables[b][p] = reference;
            tables[b][p].precision = (enum sq_precision)p;
        }
    have_ref = true;
}

static int fill_cpu(void)
{
    enum sq_isa kernels, libraries;
    int rc;
    if (have_cpu)
        return 0;
    if ((rc = sq_isa_get(&kernels, &libraries)) < 0 || (rc = sq_cpu_init(sq_vec_of(kernels), libraries)) < 0)
        return rc;
    for (int p = 0; p < 2; p++)
        sq_cpu_fill(&tables[1][p]);
    have_cpu = true;
    return 0;
}

int sq_ops_get(const struct sq_ops **out, enum sq_backend backend, enum sq_precision precision)
{
    int rc = 0;
    *out = NULL;
    if (precision != SQ_BF16_PRODUCTS && precision != SQ_F32_PRODUCTS)
        return sq_fail(SQ_E_ARG, "precision %d is unknown", (int)precision);
    SQ_ASSERT(pthread_mutex_lock(&lock) == 0);
    fill_ref();
    if (backend != SQ_BACKEND_REF)
        rc = fill_cpu();
    SQ_ASSERT(pthread_mutex_unlock(&lock) == 0);
    if (rc == 0)
        *out = &tables[backend != SQ_BACKEND_REF][precision];
    return rc;
}
