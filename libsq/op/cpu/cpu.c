/* Which kernels are in force. */
#include "cpu.h"

#include <stdio.h>

#include "rowquant_cpu.h"

const struct sq_vec *sq_vec = &sq_vec_base;
struct sq_tile sq_tile;
const char *sq_bf16_unit;
bool sq_codes_unit;

static const struct sq_vec *vectors(void)
{
#if defined __x86_64__
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &sq_vec_avx2;
#endif
    return &sq_vec_base;
}

int sq_cpu_init(enum sq_cpu_level level, bool narrow)
{
    const int rc = sq_space_open();
    if (rc < 0)
        return rc;
    sq_vec = level == SQ_CPU_BASE ? &sq_vec_base : vectors();
    /* A processor without vectors of ours may still have a kernel of BLIS's. */
    if (level < SQ_CPU_LIBRARIES || sq_tile_blis(&sq_tile, narrow) < 0)
        sq_tile = sq_vec->tile;
    sq_codes_unit = level == SQ_CPU_LIBRARIES && sq_onednn_open(&sq_bf16_unit, narrow) == 0;
    if (!sq_codes_unit)
        sq_bf16_unit = NULL;
    return 0;
}

void sq_cpu_fill(struct sq_ops *ops)
{
    ops->name = "cpu";
    const bool units = ops->precision == SQ_BF16_PRODUCTS;
    const char *unit = units && sq_bf16_unit ? sq_bf16_unit : "", *codes = units && sq_codes_unit ? " int8" : "";
    snprintf(ops->isa, sizeof ops->isa, "%s %s%s%s%s", sq_vec->name, sq_tile.name, *unit ? " " : "", unit, codes);
    ops->gemm = sq_gemm_cpu;
    ops->gemm_codes = sq_gemm_codes_cpu;
    ops->fast_codes = ops->precision == SQ_BF16_PRODUCTS && sq_codes_unit;
    ops->attention = sq_attention_cpu;
    ops->attention_grad = sq_attention_grad_cpu;
    sq_rows_fill(ops);
    if (sq_vec != &sq_vec_base) { /* the reference's bits, so nothing but time depends on this */
        ops->rowquant = sq_rowquant_cpu;
        ops->rowquant_grad = sq_rowquant_grad_cpu;
        ops->rowquant_error = sq_rowquant_error_cpu;
        ops->rowquant_encode = sq_rowquant_encode_cpu;
    }
}
