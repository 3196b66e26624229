/* The table of sq_device_check, losses and what a step moves. */
#include "device_check.h"

#include <math.h>
#include <string.h>

/* ---- losses ---- */

static void nll_args(struct check_call *c)
{
    check_out(c, SQ_F64, c->z[0], CHECK_DOUBLE);
    check_in(c, SQ_F32, c->z[0] * c->z[1]);
    check_in(c, SQ_I32, c->z[0]);
}

static void nll_values(void *const *p, const int64_t *z)
{
    for (int64_t i = 0; i < z[0]; i++)
        ((int32_t *)p[2])[i] = (int32_t)(i * 7 % z[1]);
}

static void nll_ref(void *const *p, const int64_t *z)
{
    check_reference()->nll(D(0), CF(1), p[2], z[0], z[1]);
}

static void nll_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->nll(g, D(0), CF(1), p[2], z[0], z[1]);
}

/* a vocabulary of one word has divergence zero */
static void kl_args(struct check_call *c)
{
    const int64_t rows = c->z[0], vocab = c->z[1];
    check_out(c, SQ_F64, rows, vocab == 1 ? HUGE_VAL : CHECK_DOUBLE);
    check_out(c, SQ_U8, rows, CHECK_BITS);
    check_in(c, SQ_F32, rows * vocab);
    check_in(c, SQ_F32, rows * vocab);
}

/* equal maxima in every third row, the first of them elsewhere in every sixth */
static void kl_values(void *const *p, const int64_t *z)
{
    for (int64_t i = 0; i < z[0] && z[1] > 40; i += 3)
        for (int k = 0; k < 2; k++)
            F(2 + k)[i * z[1] + 39] = F(2 + k)[i * z[1] + 2 + i % 2 * k] = 9;
}

static void kl_ref(void *const *p, const int64_t *z)
{
    check_reference()->kl(D(0), p[1], CF(2), CF(3), z[0], z[1]);
}

static void kl_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->kl(g, D(0), p[1], CF(2), CF(3), z[0], z[1]);
}

static const int64_t vocab_shapes[][CHECK_DIMS] = {{0, 3}, {1, 1}, {3, 7}, {7, 300}, {2, 1030}};

/* z: tokens hidden bf16 dy; sum dy, y target weight */
static void loss_args(struct check_call *c)
{
    const int64_t *z = c->z, n = z[0] * z[1];
    check_filled(c, SQ_F64, 1, CHECK_DOUBLE);
    check_out(c, SQ_F32, n, CHECK_FEW);
    check_in(c, SQ_F32, n);
    check_in(c, z[2] ? SQ_BF16 : SQ_F32, n);
    check_in(c, SQ_F64, z[0]);
    check_scratch(c, z[1]);
}

static void loss_ref(void *const *p, const int64_t *z)
{
    const struct sq_floats target = {z[2] ? SQ_BF16 : SQ_F32, p[3]};
    float *wide = F(5);
    double total = 0;
    for (int64_t i = 0; i < z[0]; i++) {
        double sum = 0;
        sq_floats_get(wide, sq_floats_from(target, i * z[1]), z[1]);
        for (int64_t j = 0; j < z[1]; j++) {
            const double d = (double)CF(2)[i * z[1] + j] - (double)wide[j];
            sum += d * d;
            if (z[3])
                F(1)[i * z[1] + j] = (float)(2 * D(4)[i] * 0.25 * d);
        }
        total += D(4)[i] * sum;
    }
    *D(0) += total;
}

static void loss_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->loss(g, D(0), z[3] ? F(1) : NULL, CF(2), p[3], z[2] ? SQ_BF16 : SQ_F32, D(4), z[0], z[1], 0.25);
}

static const int64_t loss_shapes[][CHECK_DIMS] = {
    {0, 4, 0, 1}, {1, 1, 0, 1}, {5, 33, 1, 1}, {300, 20, 0, 0}, {7, 257, 1, 0}};

/* ---- conversions, choices ---- */

static const int64_t counts[][CHECK_DIMS] = {{0}, {1}, {31}, {256}, {257}, {5000}};

static void widen_args(struct check_call *c)
{
    check_out(c, SQ_F32, c->z[0], CHECK_BITS);
    check_in(c, SQ_BF16, c->z[0]);
}

static void widen_ref(void *const *p, const int64_t *z)
{
    sq_bf16_widen(F(0), p[1], z[0]);
}

static void widen_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->widen(g, F(0), p[1], z[0]);
}

static void narrow_args(struct check_call *c)
{
    check_out(c, SQ_BF16, c->z[0], CHECK_BITS);
    check_in(c, SQ_F32, c->z[0]);
}

/* ties, a carry into the exponent, infinity, the largest number, a small one */
static void narrow_values(void *const *p, const int64_t *z)
{
    static const uint32_t edge[] = {0x3f808000, 0x3f818000, 0x3f807fff, 0x3f808001, 0x3fffffff,
                                    0x7f800000, 0x7f7fffff, 0xff800000, 1,          0x80000000};
    if (z[0] >= SQ_COUNT(edge))
        memcpy(p[1], edge, sizeof edge);
}

static void narrow_ref(void *const *p, const int64_t *z)
{
    sq_bf16_narrow(p[0], CF(1), z[0]);
}

static void narrow_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->narrow(g, p[0], CF(1), z[0]);
}

static void own_args(struct check_call *c)
{
    check_filled(c, SQ_F32, c->z[0], CHECK_BITS);
}

static void round_values(void *const *p, const int64_t *z)
{
    void *const shifted[] = {NULL, p[0]};
    narrow_values(shifted, z);
}

static void round_ref(void *const *p, const int64_t *z)
{
    sq_floats_round(F(0), SQ_BF16, z[0]);
}

static void round_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->round(g, F(0), z[0]);
}

/* both zeros, and some on either side of the limit */
static void project_values(void *const *p, const int64_t *z)
{
    for (int64_t i = 0; i < z[0]; i += 3)
        F(0)[i] = (i % 2 ? -0.0f : 0.0f) * (float)i;
}

static void project_ref(void *const *p, const int64_t *z)
{
    check_reference()->project(F(0), 0.5f, z[0]);
}

static void project_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->project(g, F(0), 0.5f, z[0]);
}

static void finite_args(struct check_call *c)
{
    check_filled(c, SQ_F64, 1, CHECK_BITS);
    check_in(c, SQ_F32, c->z[0]);
}

static void finite_values(void *const *p, const int64_t *z)
{
    static const float odd[] = {INFINITY, -INFINITY, NAN};
    for (int64_t i = 0; i < z[0]; i += 7)
        F(1)[i] = odd[i % 3];
}

static void finite_ref(void *const *p, const int64_t *z)
{
    check_reference()->not_finite(D(0), CF(1), z[0]);
}

static void finite_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->not_finite(g, D(0), CF(1), z[0]);
}

/* z: rows n of bf16; y, x pick */
static void gather_args(struct check_call *c)
{
    const int64_t *z = c->z;
    check_out(c, SQ_F32, z[0] * z[1], CHECK_BITS);
    check_in(c, z[3] ? SQ_BF16 : SQ_F32, z[2] * z[1]);
    check_in(c, SQ_I64, z[0]);
}

static void gather_values(void *const *p, const int64_t *z)
{
    for (int64_t i = 0; i < z[0]; i++)
        ((int64_t *)p[2])[i] = (i * 5 + 3) % z[2];
}

static void gather_ref(void *const *p, const int64_t *z)
{
    const struct sq_floats x = {z[3] ? SQ_BF16 : SQ_F32, p[1]};
    for (int64_t i = 0; i < z[0]; i++)
        sq_floats_get(F(0) + i * z[1], sq_floats_from(x, ((const int64_t *)p[2])[i] * z[1]), z[1]);
}

static void gather_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->gather(g, F(0), p[1], z[3] ? SQ_BF16 : SQ_F32, p[2], z[0], z[1]);
}

static const int64_t gather_shapes[][CHECK_DIMS] = {{0, 3, 4, 0}, {1, 1, 1, 1}, {5, 33, 7, 0}, {3, 300, 9, 1}};

/* z: rows n squared */
static void columns_args(struct check_call *c)
{
    check_filled(c, SQ_F64, c->z[1], check_sum_limit(c->z[0]));
    check_in(c, SQ_F32, c->z[0] * c->z[1]);
}

static void columns_ref(void *const *p, const int64_t *z)
{
    for (int64_t t = 0; t < z[0]; t++)
        for (int64_t i = 0; i < z[1]; i++) {
            const double v = (double)CF(1)[t * z[1] + i];
            D(0)[i] += z[2] ? v * v : v;
        }
}

static void columns_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->column_sums(g, D(0), CF(1), z[2], z[0], z[1]);
}

static const int64_t columns_shapes[][CHECK_DIMS] = {{0, 3, 0}, {1, 1, 1}, {33, 300, 0}, {1000, 5, 1}, {9000, 2, 0}};

/* z: n m inverse base; y, base x map */
static void spread_args(struct check_call *c)
{
    const int64_t *z = c->z;
    check_out(c, SQ_F32, z[0], CHECK_BITS);
    check_in(c, SQ_F32, z[0]);
    check_in(c, SQ_F32, z[1]);
    check_in(c, SQ_I32, z[0]);
}

static void spread_values(void *const *p, const int64_t *z)
{
    for (int64_t i = 0; i < z[0]; i++)
        ((int32_t *)p[3])[i] = (int32_t)(i * 3 % z[1]);
}

static void spread_ref(void *const *p, const int64_t *z)
{
    for (int64_t i = 0; i < z[0]; i++) {
        const float x = CF(2)[((const int32_t *)p[3])[i]], base = z[3] ? CF(1)[i] : 1;
        F(0)[i] = z[2] ? base / x : base * x;
    }
}

static void spread_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->spread(g, F(0), z[3] ? CF(1) : NULL, CF(2), p[3], z[2], z[0]);
}

/* dx, dy base x first from */
static void collect_args(struct check_call *c)
{
    const int64_t *z = c->z, m = z[1];
    check_filled(c, SQ_F32, m, CHECK_FEW);
    check_in(c, SQ_F32, z[0]);
    check_in(c, SQ_F32, z[0]);
    check_in(c, SQ_F32, m);
    check_in(c, SQ_I32, m + 1);
    check_in(c, SQ_I32, z[0]);
}

/* All i go in turn to the x, but none to the last of several. */
static void collect_values(void *const *p, const int64_t *z)
{
    const int64_t m = z[1], owners = SQ_MAX(m - 1, 1);
    int32_t *first = p[4], *from = p[5], at = 0;
    for (int64_t k = 0; k < m; k++) {
        F(3)[k] = 0.5f + fabsf(F(3)[k]);
        first[k] = at;
        for (int64_t i = k; k < owners && i < z[0]; i += owners)
            from[at++] = (int32_t)i;
    }
    first[m] = at;
}

static void collect_ref(void *const *p, const int64_t *z)
{
    const int32_t *first = p[4], *from = p[5];
    for (int64_t k = 0; k < z[1]; k++)
        for (int32_t j = first[k]; j < first[k + 1]; j++) {
            const double d = (double)CF(1)[from[j]] * (z[3] ? (double)CF(2)[from[j]] : 1), x = (double)CF(3)[k];
            F(0)[k] = (float)((double)F(0)[k] + (z[2] ? -d / (x * x) : d));
        }
}

static void collect_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->collect(g, F(0), CF(1), z[3] ? CF(2) : NULL, CF(3), p[4], p[5], z[2], z[1]);
}

static const int64_t spread_shapes[][CHECK_DIMS] = {
    {0, 1, 0, 0}, {1, 1, 1, 1}, {300, 77, 1, 0}, {64, 16, 0, 1}, {33, 33, 1, 1}};

static const struct check_op ops[] = {
    {"nll", "rows vocab", nll_args, nll_values, nll_ref, nll_dev, SHAPES(vocab_shapes), {512, 32000}, NULL},
    {"kl", "rows vocab", kl_args, kl_values, kl_ref, kl_dev, SHAPES(vocab_shapes), {512, 32000}, NULL},
    {"widen", "n", widen_args, NULL, widen_ref, widen_dev, SHAPES(counts), {6144 * 4096}, NULL},
    {"narrow", "n", narrow_args, narrow_values, narrow_ref, narrow_dev, SHAPES(counts), {6144 * 4096}, NULL},
    {"round", "n", own_args, round_values, round_ref, round_dev, SHAPES(counts), {6144 * 4096}, NULL},
    {"project", "n", own_args, project_values, project_ref, project_dev, SHAPES(counts), {0}, NULL},
    {"not_finite", "n", finite_args, finite_values, finite_ref, finite_dev, SHAPES(counts), {1 << 20}, NULL},
    {"gather",
     "rows n of bf16",
     gather_args,
     gather_values,
     gather_ref,
     gather_dev,
     SHAPES(gather_shapes),
     {2, 2048 * 4096, 4, 1},
     NULL},
    {"column_sums",
     "rows n squared",
     columns_args,
     NULL,
     columns_ref,
     columns_dev,
     SHAPES(columns_shapes),
     {6144, 4096, 1},
     NULL},
    {"loss",
     "tokens hidden bf16 dy",
     loss_args,
     NULL,
     loss_ref,
     loss_dev,
     SHAPES(loss_shapes),
     {6144, 4096, 1, 1},
     NULL},
    {"spread",
     "n m inverse base",
     spread_args,
     spread_values,
     spread_ref,
     spread_dev,
     SHAPES(spread_shapes),
     {0},
     NULL},
    {"collect",
     "n m inverse base",
     collect_args,
     collect_values,
     collect_ref,
     collect_dev,
     SHAPES(spread_shapes),
     {0},
     NULL},
};
const struct check_table check_step = {ops, SQ_COUNT(ops)};
