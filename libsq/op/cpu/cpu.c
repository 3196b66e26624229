/* Which kernels are in force. */
#include "cpu.h"

#include <stdio.h>

#include "rowquant_cpu.h"

const struct sq_vec *sq_vec = &sq_vec_base;
struct sq_tile sq_tile;
const char *sq_bf16_unit;
bool sq_codes_unit;

const struct sq_vec *sq_vec_of(enum sq_isa isa)
{
#if defined __x86_64__
    static const struct sq_vec *const sets[] = {&sq_vec_base, &sq_vec_avx2, &sq_vec_avx512};
    return sets[isa];
#else
    (void)isa;
    return &sq_vec_base;
#endif
}

int sq_cpu_init(const struct sq_vec *vec, enum sq_isa libraries)
{
    const int rc = sq_space_open();
    if (rc < 0)
        return rc;
    sq_vec = vec;
    /* A processor without vectors of ours may still have a kernel of BLIS's. */
    if (libraries == SQ_ISA_BASE || sq_tile_blis(&sq_tile, libraries) < 0)
        sq_tile = vec->tile;
    sq_codes_unit = libraries > SQ_ISA_BASE && sq_onednn_open(&sq_bf16_unit, libraries) == 0;
    if (!sq_codes_unit)
        sq_bf16_unit = NULL;
    return 0;
}

static void rowquant(struct sq_floats y, const float *z, const struct sq_rowq *p, const float *u, const float *l,
                     int64_t rows, int64_t cols)
{
    sq_rowquant_cpu(sq_f32_of(y), z, p, u, l, rows, cols);
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
    ops->hadamard = sq_hadamard_cpu;
    sq_rows_fill(ops);
    ops->rowquant = rowquant;
    ops->rowquant_grad = sq_rowquant_grad_cpu;
    ops->rowquant_search = sq_rowquant_search_cpu;
    ops->rowquant_encode = sq_rowquant_encode_cpu;
}
