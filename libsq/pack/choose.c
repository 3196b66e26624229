/* Which block type holds a linear. Exactness is not derived from a table of schemes but tried on the data: the first
 * type, in order of size, that takes every block is the answer. */
#include <math.h>

#include "blocks.h"

/* By size; of equal sizes the one with smaller blocks, which leaves readers the finer rounding of activations. */
static const enum sq_pack_type order[] = {SQ_PACK_Q2_K, SQ_PACK_Q3_K, SQ_PACK_Q4_0, SQ_PACK_Q4_K,
                                          SQ_PACK_Q5_0, SQ_PACK_Q5_K, SQ_PACK_Q6_K, SQ_PACK_Q8_0};

bool sq_pack_fits(const struct sq_grid *g, enum sq_pack_type t, enum sq_pack_loss loss)
{
    const struct sq_pack_info *info = sq_pack_info(t);
    const int step = info->block > 1 ? (int)info->block : BLOCK_MAX;
    bool ok = g->cols % info->block == 0;

#pragma omp parallel for schedule(static) reduction(&& : ok)
    for (int64_t r = 0; r < g->rows; r++) {
        _Alignas(4) uint8_t block[BLOCK_MAX * sizeof(float)];
        for (int64_t c = 0; ok && c < g->cols; c += step)
            ok = pack_part(block, g, r, c, (int)SQ_MIN(step, g->cols - c), t, loss);
    }
    return ok;
}

/* Scales that no block can hold, and the reach of the codes: what a refusal speaks of. */
struct reach {
    int lo, hi;
    int64_t row; /* of the first scale that is no float16, -1: none */
    float scale;
};

static struct reach reach_of(const struct sq_grid *g)
{
    const int64_t group = g->group ? g->group : g->cols, groups = (g->cols + group - 1) / group;
    struct reach r = {.row = -1};
    for (int64_t i = 0; i < g->rows; i++) {
        for (int64_t k = 0; k < groups; k++) {
            const float s = g->scales[i * groups + k];
            if (r.row < 0 && (!isfinite(s) || sq_f16_to_f32(sq_f32_to_f16(s)) != s)) {
                r.row = i;
                r.scale = s;
            }
        }
        for (int64_t c = 0; c < g->cols; c++) {
            const int v = (int)g->codes[i * g->cols + c] - (int)g->zeros[i * groups + c / group];
            r.lo = SQ_MIN(r.lo, v);
            r.hi = SQ_MAX(r.hi, v);
        }
    }
    return r;
}

static int refuse(const struct sq_grid *g, enum sq_pack_type want, bool lossy)
{
    const enum sq_pack_type t = want == SQ_PACK_AUTO ? SQ_PACK_Q8_0 : want;
    const struct sq_pack_info *info = sq_pack_info(t);
    const char *way = lossy ? "" : "; --lossy writes the nearest";
    const struct reach r = reach_of(g);

    if (g->cols % info->block)
        return sq_fail(SQ_E_UNSUP, "tensor '%s' has %" PRId64 " columns, not a multiple of the %" PRId64
                       " of %s%s", g->name, g->cols, info->block, info->name, way);
    if (g->group && g->group % info->block && info->block > 1)
        return sq_fail(SQ_E_UNSUP, "tensor '%s' has groups of %" PRId64 " columns, not a multiple of the %" PRId64
                       " of %s%s", g->name, g->group, info->block, info->name, way);
    if (r.row >= 0 && info->block > 1)
        return sq_fail(SQ_E_UNSUP, "tensor '%s': scale %.9g of row %" PRId64 " is no float16, merge with --scale f16%s",
                       g->name, (double)r.scale, r.row, way);
    return sq_fail(SQ_E_UNSUP, "tensor '%s': codes minus zero points reach %d..%d, more than %s holds exactly%s",
                   g->name, r.lo, r.hi, info->name, way);
}

static int choose_wanted(enum sq_pack_type *t, enum sq_pack_loss *loss, const struct sq_grid *g, bool lossy)
{
    const enum sq_pack_loss last = lossy ? SQ_PACK_ROUNDED : SQ_PACK_EXACT;
    for (enum sq_pack_loss l = SQ_PACK_EXACT; l <= last; l++)
        if (sq_pack_fits(g, *t, l)) {
            *loss = l;
            return 0;
        }
    return refuse(g, *t, lossy);
}

int sq_pack_choose(enum sq_pack_type *t, enum sq_pack_loss *loss, const struct sq_grid *g, enum sq_pack_type want,
                   bool lossy)
{
    *t = want;
    if (want != SQ_PACK_AUTO)
        return choose_wanted(t, loss, g, lossy);
    for (*loss = SQ_PACK_EXACT; *loss <= (lossy ? SQ_PACK_SCALES : SQ_PACK_EXACT); ++*loss)
        for (int64_t i = 0; i < SQ_COUNT(order); i++)
            if (sq_pack_fits(g, order[i], *loss)) {
                *t = order[i];
                return 0;
            }
    if (!lossy)
        return refuse(g, want, lossy);
    *loss = SQ_PACK_ROUNDED;
    for (*t = SQ_PACK_Q8_0;; *t = SQ_PACK_F16) {
        if (sq_pack_fits(g, *t, *loss))
            return 0;
        if (*t == SQ_PACK_F16)
            return refuse(g, *t, lossy);
    }
}
