/* BLIS's micro-kernel for this processor as our register tile. Only the kernel is used: packing, rounding, blocking and
 * threads are ours, so that operands are rounded while they are packed, panels are shared by all threads, and the
 * order of every sum is fixed. BLIS picks its kernel set once per process (BLIS_ARCH_TYPE overrides it). */
#include "cpu.h"

#include <stdio.h>
#include <string.h>

#include "config.h"

#if SQ_HAVE_BLIS
#include <blis.h>

static sgemm_ukr_ft kernel;
static cntx_t *context;

static void multiply(float *c, inc_t rs, inc_t cs, const float *a, const float *b, int64_t m, int64_t n, int64_t k,
                     bool add)
{
    static const float one = 1, zero = 0;
    /* BLIS's parameters are not const, but it does not write to them. */
    float *pa = (float *)(uintptr_t)a, *pb = (float *)(uintptr_t)b, *alpha = (float *)(uintptr_t)&one;
    auxinfo_t next = {0};
    bli_auxinfo_set_next_ab(pa, pb, &next);
    kernel(m, n, k, alpha, pa, pb, add ? alpha : (float *)(uintptr_t)&zero, c, rs, cs, &next, context);
}

static void by_rows(float *c, int64_t ldc, const float *a, const float *b, int64_t m, int64_t n, int64_t k, bool add)
{
    multiply(c, ldc, 1, a, b, m, n, k, add);
}

/* For a kernel that wants C by columns: the transposed product. */
static void by_columns(float *c, int64_t ldc, const float *a, const float *b, int64_t m, int64_t n, int64_t k,
                       bool add)
{
    multiply(c, 1, ldc, b, a, n, m, k, add);
}

/* What a kernel set is made for; of most sets that is not known here. */
static enum sq_isa needs(arch_t id)
{
    if (id == BLIS_ARCH_HASWELL || id == BLIS_ARCH_ZEN || id == BLIS_ARCH_ZEN2 || id == BLIS_ARCH_ZEN3)
        return SQ_ISA_AVX2;
    return id == BLIS_ARCH_SKX ? SQ_ISA_AVX512 : SQ_ISA_ANY;
}

int sq_tile_blis(struct sq_tile *out, enum sq_isa most)
{
    bli_init();
    if (needs(bli_arch_query_id()) > most)
        return sq_fail(SQ_E_UNSUP, "blis chose its kernels for %s", bli_arch_string(bli_arch_query_id()));
    context = bli_gks_query_cntx();
    const void_fp found = bli_cntx_get_l3_nat_ukr_dt(BLIS_FLOAT, BLIS_GEMM_UKR, context);
    memcpy(&kernel, &found, sizeof kernel); /* it comes as a pointer to void, which C does not convert */
    const int64_t mr = bli_cntx_get_blksz_def_dt(BLIS_FLOAT, BLIS_MR, context);
    const int64_t nr = bli_cntx_get_blksz_def_dt(BLIS_FLOAT, BLIS_NR, context);
    const int64_t kc = bli_cntx_get_blksz_def_dt(BLIS_FLOAT, BLIS_KC, context);
    const bool rows = bli_cntx_l3_nat_ukr_prefers_rows_dt(BLIS_FLOAT, BLIS_GEMM_UKR, context);
    /* Some kernels (POWER) want elements of a panel repeated or padded: leave those to others. */
    if (bli_cntx_get_blksz_max_dt(BLIS_FLOAT, BLIS_MR, context) != mr ||
        bli_cntx_get_blksz_max_dt(BLIS_FLOAT, BLIS_NR, context) != nr || mr > 64 || nr > 64)
        return sq_fail(SQ_E_UNSUP, "blis packs panels in a way that is not supported");
    *out = (struct sq_tile){.wr = rows ? mr : nr, .wc = rows ? nr : mr, .kc = SQ_MAX(SQ_MIN(kc, 512), 64),
                            .wide = !rows, .mul = rows ? by_rows : by_columns};
    snprintf(out->name, sizeof out->name, "blis-%s", bli_arch_string(bli_arch_query_id()));
    return 0;
}
#else
int sq_tile_blis(struct sq_tile *out, enum sq_isa most)
{
    (void)out, (void)most;
    return sq_fail(SQ_E_UNSUP, "this program was built without blis");
}
#endif
