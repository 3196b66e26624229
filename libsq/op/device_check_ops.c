/* The table of sq_device_check: arguments, reference and call of every operation, shapes, limits with their reasons.
 *
 * U is the unit roundoff of f32; a limit of the NMSE is a multiple of U^2. The reference sums in double and rounds once (U^2 / 3). */
#include "device_check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FEW (8 * CHECK_U2)     /* one to three roundings of a term and of the result */
#define EXP (100 * CHECK_U2)   /* expf within 2 units, of an argument rounded before: |x| U relatively, |x| below 5 nearly always */
#define SUMS 1e-24             /* double sums of another order, stored as double */
#define F(k) ((float *)p[k])
#define CF(k) ((const float *)p[k])
#define D(k) ((double *)p[k])
#define SHAPES(x) .shape = x, .shapes = SQ_COUNT(x)

static const struct sq_ops *ref(void)
{
    const struct sq_ops *ops;
    SQ_ASSERT(sq_ops_get(&ops, SQ_BACKEND_REF, SQ_F32_PRODUCTS) == 0);
    return ops;
}

/* A sum of k terms of both signs in f32, in any order: the partial sums grow like sqrt(i), so the variance of the error is at most
 * U^2 k^2 / 2 beside k of the result; some more for the terms' rounding. */
static double sum_limit(int64_t k)
{
    return CHECK_U2 * (double)(k + 8);
}

/* ---- products ---- */

enum { TA = 1, TB = 2, ADD = 4, ROUND = 8, A16 = 16, B16 = 32 };

static struct sq_mat mat(const void *x, int64_t ld, int64_t flags, int64_t turned, int64_t narrow)
{
    return (struct sq_mat){x, ld, (flags & turned) != 0, flags & narrow ? SQ_BF16 : SQ_F32};
}

static void operand(struct check_call *c, int64_t rows, int64_t cols, int64_t ld, bool narrow)
{
    if (narrow)
        check_in(c, SQ_BF16, rows * cols > 0 ? (rows - 1) * ld + cols : 0);
    else
        check_in_rows(c, rows, cols, ld);
}

static void gemm_args(struct check_call *c)
{
    const int64_t m = c->z[0], n = c->z[1], k = c->z[2], gap = c->z[3], f = c->z[4];
    const bool ta = f & TA, tb = f & TB;
    check_filled_rows(c, m, n, n + 3 * gap, sum_limit(k));
    operand(c, ta ? k : m, ta ? m : k, (ta ? m : k) + gap, f & A16);
    operand(c, tb ? n : k, tb ? k : n, (tb ? k : n) + 2 * gap, f & B16);
}

static void gemm_sides(struct sq_mat *a, struct sq_mat *b, void *const *p, const int64_t *z)
{
    const int64_t f = z[4];
    *a = mat(p[1], (f & TA ? z[0] : z[2]) + z[3], f, TA, A16);
    *b = mat(p[2], (f & TB ? z[2] : z[1]) + 2 * z[3], f, TB, B16);
}

static void gemm_ref(void *const *p, const int64_t *z)
{
    struct sq_mat a, b;
    gemm_sides(&a, &b, p, z);
    ref()->gemm(F(0), z[1] + 3 * z[3], a, b, z[0], z[1], z[2], z[4] & ADD, z[4] & ROUND);
}

static void gemm_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    struct sq_mat a, b;
    gemm_sides(&a, &b, p, z);
    o->gemm(g, F(0), z[1] + 3 * z[3], a, b, z[0], z[1], z[2], z[4] & ADD, z[4] & ROUND);
}

static const int64_t gemm_shapes[][CHECK_DIMS] = {
    {0, 5, 3, 0, 0},           {5, 0, 3, 1, ROUND},         {5, 3, 0, 0, 0},     {5, 3, 0, 2, ADD},         {1, 1, 1, 0, 0},
    {1, 7, 5, 1, TA},          {7, 1, 5, 2, TB},            {13, 33, 31, 1, 0},  {13, 33, 31, 2, TA | ROUND}, {13, 33, 31, 0, TB | ADD},
    {40, 17, 70, 1, TA | TB},  {40, 17, 70, 1, ROUND | TB}, {33, 20, 65, 0, A16 | B16}, {33, 20, 65, 3, A16 | TA | ADD},
    {33, 20, 65, 2, B16 | TB | ROUND}, {33, 20, 65, 1, B16 | TB}, {64, 64, 257, 0, A16 | B16 | TA | TB | ADD},
    {3, 300, 4, 0, ROUND | ADD},
};

static double gemm_flops(const int64_t *z)
{
    return 2.0 * (double)z[0] * (double)z[1] * (double)z[2];
}

/* Codes made by the reference: q, scale, zero, sum of both sides. */
static void codes_side(struct check_call *c, int64_t rows, int64_t cols, int bits)
{
    const struct sq_rowq p = {.bits = bits, .rate = 1};
    struct sq_codes to = {.ld = cols + 3};
    float *z = malloc((size_t)(rows * cols) * sizeof *z + 1);
    SQ_ASSERT(z);
    for (int64_t i = 0; i < rows * cols; i++)
        z[i] = (float)check_normal(c) + 0.5f;
    check_in(c, SQ_U8, rows * to.ld);
    to.q = check_last(c);
    check_in(c, SQ_F32, rows);
    to.scale = check_last(c);
    check_in(c, SQ_F32, rows);
    to.zero = check_last(c);
    check_in(c, SQ_I32, rows);
    to.sum = check_last(c);
    sq_rowquant_encode_ref(&to, z, &p, NULL, NULL, rows, cols);
    free(z);
}

/* z: m n k bits of a, of b, base */
static void codes_args(struct check_call *c)
{
    const int64_t *z = c->z;
    check_out(c, SQ_F32, z[0] * z[1], CHECK_BITS);
    check_in(c, SQ_F32, z[0] * z[1]);
    codes_side(c, z[0], z[2], (int)z[3]);
    codes_side(c, z[1], z[2], (int)z[4]);
}

static struct sq_codes codes_of(void *const *p, int64_t k, int64_t bits)
{
    return (struct sq_codes){.q = p[0], .ld = k + 3, .cols = k, .scale = p[1], .zero = p[2], .sum = p[3], .bits = (int)bits};
}

static void codes_ref(void *const *p, const int64_t *z)
{
    const struct sq_codes a = codes_of(p + 2, z[2], z[3]), b = codes_of(p + 6, z[2], z[4]);
    ref()->gemm_codes(F(0), z[1], z[5] ? CF(1) : NULL, &a, &b, z[0], z[1]);
}

static void codes_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    const struct sq_codes a = codes_of(p + 2, z[2], z[3]), b = codes_of(p + 6, z[2], z[4]);
    o->gemm_codes(g, F(0), z[1], z[5] ? CF(1) : NULL, &a, &b, z[0], z[1]);
}

static const int64_t codes_shapes[][CHECK_DIMS] = {
    {0, 4, 5, 4, 4, 0}, {1, 1, 1, 4, 4, 1}, {3, 5, 0, 4, 4, 0}, {65, 70, 131, 4, 4, 1}, {7, 130, 64, 8, 6, 0}, {66, 3, 67, 7, 7, 1}, {17, 19, 300, 3, 2, 0},
};

/* ---- norms, positions, activations ---- */

/* r: n / 32 terms in a lane, five more additions, all of one sign: (n / 32 + 5) U at most; and three roundings */
static double norm_limit(int64_t n)
{
    const double worst = (double)(n / 32 + 8);
    return CHECK_U2 * worst * worst;
}

/* z: rows n gap */
static void norm_args(struct check_call *c)
{
    const int64_t rows = c->z[0], n = c->z[1], gap = c->z[2];
    check_filled_rows(c, rows, n, n + 2 * gap, norm_limit(n));
    check_out(c, SQ_F32, rows, norm_limit(n));
    check_in_rows(c, rows, n, n + gap);
    check_in(c, SQ_F32, n);
}

static void norm_ref(void *const *p, const int64_t *z)
{
    ref()->rmsnorm(F(0), z[1] + 2 * z[2], F(1), CF(2), z[1] + z[2], CF(3), 1e-5, z[0], z[1]);
}

static void norm_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->rmsnorm(g, F(0), z[1] + 2 * z[2], F(1), CF(2), z[1] + z[2], CF(3), 1e-5, z[0], z[1]);
}

static void norm_place_ref(void *const *p, const int64_t *z)
{
    ref()->rmsnorm(F(0), z[1] + 2 * z[2], F(1), F(0), z[1] + 2 * z[2], CF(3), 1e-5, z[0], z[1]);
}

static void norm_place_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->rmsnorm(g, F(0), z[1] + 2 * z[2], F(1), F(0), z[1] + 2 * z[2], CF(3), 1e-5, z[0], z[1]);
}

static const int64_t row_shapes[][CHECK_DIMS] = {
    {0, 5, 0}, {1, 1, 0}, {1, 31, 1}, {3, 32, 0}, {5, 33, 7}, {130, 20, 0}, {9, 257, 100}, {2, 1000, 3},
};

static double norm_grad_limit(int64_t n)
{
    return norm_limit(n) + sum_limit(n);
}

/* z: rows n gap add; dx dgain dy x rrms gain */
static void norm_grad_args(struct check_call *c)
{
    const int64_t rows = c->z[0], n = c->z[1], gap = c->z[2];
    check_filled_rows(c, rows, n, n + 2 * gap, norm_grad_limit(n));
    check_filled(c, SQ_F32, n, sum_limit(rows));
    check_in_rows(c, rows, n, n + 3 * gap);
    check_in_rows(c, rows, n, n + gap);
    check_in(c, SQ_F32, rows);
    check_in(c, SQ_F32, n);
    if (n == 1) /* dx cancels: r^3 eps of what there was */
        c->arg[0].limit = HUGE_VAL;
}

/* z[3]: 0 written, 1 added, 2 in place of dy */
static void norm_grad_ref(void *const *p, const int64_t *z)
{
    const int64_t lddx = z[1] + 2 * z[2], here = z[3] == 2;
    ref()->rmsnorm_grad(F(0), lddx, z[3] == 1, F(1), here ? F(0) : F(2), here ? lddx : z[1] + 3 * z[2], CF(3), z[1] + z[2], CF(4),
                        CF(5), z[0], z[1]);
}

static void norm_grad_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    const int64_t lddx = z[1] + 2 * z[2], here = z[3] == 2;
    o->rmsnorm_grad(g, F(0), lddx, z[3] == 1, F(1), here ? F(0) : F(2), here ? lddx : z[1] + 3 * z[2], CF(3), z[1] + z[2], CF(4),
                    CF(5), z[0], z[1]);
}

static const int64_t norm_grad_shapes[][CHECK_DIMS] = {
    {0, 5, 0, 0}, {1, 1, 0, 1}, {1, 31, 1, 2}, {3, 32, 0, 1}, {5, 33, 7, 0}, {130, 20, 0, 2}, {70, 257, 100, 1}, {2, 1000, 3, 0},
};

/* z: rows tokens heads dim inverse */
static void rope_args(struct check_call *c)
{
    const int64_t *z = c->z;
    check_filled(c, SQ_F32, z[0] * z[2] * z[3], FEW);
    check_in(c, SQ_F32, z[1] * (z[3] / 2));
    check_in(c, SQ_F32, z[1] * (z[3] / 2));
}

static void rope_ref(void *const *p, const int64_t *z)
{
    ref()->rope(F(0), CF(1), CF(2), z[0], z[1], z[2], z[3], z[4]);
}

static void rope_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->rope(g, F(0), CF(1), CF(2), z[0], z[1], z[2], z[3], z[4]);
}

static const int64_t rope_shapes[][CHECK_DIMS] = {{0, 3, 2, 4, 0}, {1, 1, 1, 2, 0}, {6, 3, 2, 6, 1}, {10, 5, 3, 64, 0}, {9, 9, 1, 5, 1}};

static void one_in(struct check_call *c, double limit, int outs, int ins)
{
    for (int i = 0; i < outs; i++)
        check_out(c, SQ_F32, c->z[0], limit);
    for (int i = 0; i < ins; i++)
        check_in(c, SQ_F32, c->z[0]);
}

static void swiglu_args(struct check_call *c)
{
    one_in(c, EXP, 1, 2);
}

static void swiglu_ref(void *const *p, const int64_t *z)
{
    ref()->swiglu(F(0), CF(1), CF(2), z[0]);
}

static void swiglu_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->swiglu(g, F(0), CF(1), CF(2), z[0]);
}

static void swiglu_grad_args(struct check_call *c)
{
    one_in(c, EXP, 2, 3);
}

static void swiglu_grad_ref(void *const *p, const int64_t *z)
{
    ref()->swiglu_grad(F(0), F(1), CF(2), CF(3), CF(4), z[0]);
}

static void swiglu_grad_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->swiglu_grad(g, F(0), F(1), CF(2), CF(3), CF(4), z[0]);
}

static const int64_t counts[][CHECK_DIMS] = {{0}, {1}, {31}, {256}, {257}, {5000}};

/* ---- attention: scores are about 1, their errors those of sums of D products, then as with EXP; test_attention.c has the reasons
 * for both limits ---- */

#define ATTENTION (1000 * CHECK_U2)
#define ATTENTION_GRAD (4000 * CHECK_U2)

static void qkv(struct check_call *c)
{
    const int64_t *z = c->z, q = z[0] * z[1] * z[2] * z[4], k = z[0] * z[1] * z[3] * z[4];
    check_in(c, SQ_F32, q);
    check_in(c, SQ_F32, k);
    check_in(c, SQ_F32, k);
}

static void attention_args(struct check_call *c)
{
    const int64_t *z = c->z;
    check_out(c, SQ_F32, z[0] * z[1] * z[2] * z[4], ATTENTION);
    check_out(c, SQ_F32, z[0] * z[1] * z[2], ATTENTION);
    qkv(c);
}

static void attention_ref(void *const *p, const int64_t *z)
{
    ref()->attention(F(0), F(1), CF(2), CF(3), CF(4), z[0], z[1], z[2], z[3], z[4]);
}

static void attention_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->attention(g, F(0), F(1), CF(2), CF(3), CF(4), z[0], z[1], z[2], z[3], z[4]);
}

/* dq dk dv, dout out lse q k v */
static void attention_grad_args(struct check_call *c)
{
    const int64_t *z = c->z, q = z[0] * z[1] * z[2] * z[4], k = z[0] * z[1] * z[3] * z[4];
    check_out(c, SQ_F32, q, ATTENTION_GRAD);
    check_out(c, SQ_F32, k, ATTENTION_GRAD);
    check_out(c, SQ_F32, k, ATTENTION_GRAD);
    check_in(c, SQ_F32, q);
    check_in(c, SQ_F32, q);
    check_in(c, SQ_F32, z[0] * z[1] * z[2]);
    qkv(c);
    if (z[1] == 1) /* one token: the true dq and dk are zero */
        c->arg[0].limit = c->arg[1].limit = HUGE_VAL;
    if (z[1] <= 512) /* of large shapes only the time is looked at */
        ref()->attention(c->arg[4].init, c->arg[5].init, c->arg[6].init, c->arg[7].init, c->arg[8].init, z[0], z[1], z[2], z[3], z[4]);
}

static void attention_grad_ref(void *const *p, const int64_t *z)
{
    ref()->attention_grad(F(0), F(1), F(2), CF(3), CF(4), CF(5), CF(6), CF(7), CF(8), z[0], z[1], z[2], z[3], z[4]);
}

static void attention_grad_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->attention_grad(g, F(0), F(1), F(2), CF(3), CF(4), CF(5), CF(6), CF(7), CF(8), z[0], z[1], z[2], z[3], z[4]);
}

/* T x T / 2 scores, two products forward, five backward by definition (seven are done) */
static double attention_flops(const int64_t *z)
{
    return 2.0 * (double)z[0] * (double)z[1] * (double)z[1] * (double)z[2] * (double)z[4];
}

static double attention_grad_flops(const int64_t *z)
{
    return 2.5 * attention_flops(z);
}

static const int64_t attention_shapes[][CHECK_DIMS] = {
    {0, 3, 1, 1, 4}, {1, 1, 1, 1, 1},  {1, 1, 2, 1, 8},  {2, 3, 2, 2, 5}, {1, 7, 3, 1, 6},    {2, 17, 4, 2, 16},
    {1, 64, 2, 1, 20}, {2, 65, 2, 2, 32}, {1, 130, 6, 2, 24}, {1, 90, 1, 1, 128}, {1, 70, 2, 1, 130},
};

/* ---- sums, optimizer ---- */

static void add_args(struct check_call *c)
{
    check_filled(c, SQ_F32, c->z[0], CHECK_BITS);
    check_in(c, SQ_F32, c->z[0]);
}

static void add_ref(void *const *p, const int64_t *z)
{
    ref()->add(F(0), CF(1), z[0]);
}

static void add_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->add(g, F(0), CF(1), z[0]);
}

static void bias_args(struct check_call *c)
{
    check_filled(c, SQ_F32, c->z[0] * c->z[1], CHECK_BITS);
    check_in(c, SQ_F32, c->z[1]);
}

static void bias_ref(void *const *p, const int64_t *z)
{
    ref()->bias(F(0), CF(1), z[0], z[1]);
}

static void bias_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->bias(g, F(0), CF(1), z[0], z[1]);
}

static void bias_grad_args(struct check_call *c)
{
    check_filled(c, SQ_F32, c->z[1], sum_limit(c->z[0]));
    check_in(c, SQ_F32, c->z[0] * c->z[1]);
}

static void bias_grad_ref(void *const *p, const int64_t *z)
{
    ref()->bias_grad(F(0), CF(1), z[0], z[1]);
}

static void bias_grad_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->bias_grad(g, F(0), CF(1), z[0], z[1]);
}

static const int64_t matrix_shapes[][CHECK_DIMS] = {{0, 3}, {1, 1}, {1, 300}, {33, 7}, {1000, 5}, {600, 64}, {9000, 2}};

/* in double throughout: the reference's bits */
static void adamw_args(struct check_call *c)
{
    for (int i = 0; i < 3; i++)
        check_filled(c, SQ_F32, c->z[0], CHECK_BITS);
    float *v = check_last(c);
    for (int64_t i = 0; i < c->z[0]; i++)
        v[i] *= v[i];
    check_in(c, SQ_F32, c->z[0]);
}

static void adamw_ref(void *const *p, const int64_t *z)
{
    ref()->adamw(F(0), F(1), F(2), CF(3), z[0], 3, 1e-3);
}

static void adamw_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->adamw(g, F(0), F(1), F(2), CF(3), z[0], 3, 1e-3);
}

/* ---- quantizers; z: rows cols bits group rate% flags ---- */

enum { SYM = 1, ZERO = 2, CLIP = 4 };

static struct sq_rowq rowq_of(const int64_t *z)
{
    return (struct sq_rowq){.bits = (int)z[2], .group = z[3], .rate = (double)z[4] / 100, .sym = z[5] & SYM, .zero = (z[5] & ZERO) != 0};
}

static int64_t groups_of(const int64_t *z)
{
    const struct sq_rowq q = rowq_of(z);
    return z[0] * sq_rowq_groups(&q, z[1]);
}

/* u, l: about 2 +- 1, now and then far away */
static void clipping(struct check_call *c, int64_t n)
{
    for (int k = 0; k < 2; k++) {
        check_in(c, SQ_F32, n);
        float *u = check_last(c);
        for (int64_t i = 0; i < n; i++)
            u[i] = i % 7 == 3 ? -8.0f * u[i] : u[i] + 2;
    }
}

static const float *clip(void *const *p, int k, const int64_t *z)
{
    return z[5] & CLIP ? CF(k) : NULL;
}

static void quant_args(struct check_call *c)
{
    check_out(c, SQ_F32, c->z[0] * c->z[1], CHECK_BITS);
    check_in(c, SQ_F32, c->z[0] * c->z[1]);
    clipping(c, groups_of(c->z));
}

static void quant_ref(void *const *p, const int64_t *z)
{
    const struct sq_rowq q = rowq_of(z);
    ref()->rowquant(F(0), CF(1), &q, clip(p, 2, z), clip(p, 3, z), z[0], z[1]);
}

static void quant_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    const struct sq_rowq q = rowq_of(z);
    o->rowquant(g, F(0), CF(1), &q, clip(p, 2, z), clip(p, 3, z), z[0], z[1]);
}

static const int64_t quant_shapes[][CHECK_DIMS] = {
    {0, 8, 4, 0, 100, 0},   {1, 1, 2, 0, 100, CLIP},      {3, 31, 4, 0, 100, ZERO}, {5, 33, 2, 0, 50, CLIP | ZERO}, {7, 100, 3, 32, 50, CLIP},
    {2, 130, 4, 64, 100, SYM | CLIP}, {9, 20, 8, 0, 70, SYM}, {4, 70, 16, 0, 100, CLIP}, {33, 128, 2, 128, 100, CLIP | ZERO}, {2, 600, 4, 0, 100, 0},
    {3, 10, 4, 3, 40, CLIP},
};

/* dz du dl, dy z u l: sums of up to a row in double, in another order; a share of a sum of both signs may cancel to 2^-20 of its
 * terms, so 2^-53 become 2^-33: below U^2 squared, but for the rounding to float */
static void quant_grad_args(struct check_call *c)
{
    const int64_t n = c->z[0] * c->z[1], groups = groups_of(c->z);
    check_out(c, SQ_F32, n, FEW);
    check_out(c, SQ_F32, groups, FEW);
    check_out(c, SQ_F32, groups, FEW);
    check_in(c, SQ_F32, n);
    check_in(c, SQ_F32, n);
    clipping(c, groups);
}

static void quant_grad_ref(void *const *p, const int64_t *z)
{
    const struct sq_rowq q = rowq_of(z);
    const bool clips = z[5] & CLIP;
    ref()->rowquant_grad(F(0), clips ? F(1) : NULL, clips ? F(2) : NULL, CF(3), CF(4), &q, clip(p, 5, z), clip(p, 6, z), z[0], z[1]);
}

static void quant_grad_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    const struct sq_rowq q = rowq_of(z);
    const bool clips = z[5] & CLIP;
    o->rowquant_grad(g, F(0), clips ? F(1) : NULL, clips ? F(2) : NULL, CF(3), CF(4), &q, clip(p, 5, z), clip(p, 6, z), z[0], z[1]);
}

/* q scale zero sum, z u l */
static void encode_args(struct check_call *c)
{
    check_out(c, SQ_U8, c->z[0] * (c->z[1] + 5), CHECK_BITS);
    check_out(c, SQ_F32, c->z[0], CHECK_BITS);
    check_out(c, SQ_F32, c->z[0], CHECK_BITS);
    check_out(c, SQ_I32, c->z[0], CHECK_BITS);
    check_in(c, SQ_F32, c->z[0] * c->z[1]);
    clipping(c, c->z[0]);
}

static struct sq_codes encode_to(void *const *p, const int64_t *z)
{
    return (struct sq_codes){.q = p[0], .ld = z[1] + 5, .scale = p[1], .zero = p[2], .sum = p[3]};
}

static void encode_ref(void *const *p, const int64_t *z)
{
    const struct sq_rowq q = rowq_of(z);
    struct sq_codes to = encode_to(p, z);
    ref()->rowquant_encode(&to, CF(4), &q, clip(p, 5, z), clip(p, 6, z), z[0], z[1]);
}

static void encode_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    const struct sq_rowq q = rowq_of(z);
    struct sq_codes to = encode_to(p, z);
    o->rowquant_encode(g, &to, CF(4), &q, clip(p, 5, z), clip(p, 6, z), z[0], z[1]);
}

static const int64_t encode_shapes[][CHECK_DIMS] = {
    {0, 8, 4, 0, 100, 0}, {1, 1, 2, 0, 100, CLIP}, {3, 31, 4, 0, 100, ZERO}, {5, 33, 2, 0, 50, CLIP}, {9, 20, 8, 0, 70, SYM}, {2, 600, 4, 0, 100, CLIP | SYM},
};

/* z: rows tries n bits weighted; err, z weight scale zero */
static void error_args(struct check_call *c)
{
    const int64_t *z = c->z, grids = z[0] * z[1];
    check_out(c, SQ_F64, grids, CHECK_BITS);
    check_in(c, SQ_F32, z[0] * z[2]);
    check_in(c, SQ_F32, z[2]);
    check_in(c, SQ_F32, grids);
    float *scale = check_last(c);
    check_in(c, SQ_F32, grids);
    float *zero = check_last(c);
    for (int64_t i = 0; i < grids; i++) {
        scale[i] = 0.1f + fabsf(scale[i]);
        zero[i] = rintf(3 * zero[i]);
    }
}

static void error_ref(void *const *p, const int64_t *z)
{
    const struct sq_rowq q = {.bits = (int)z[3], .rate = 1};
    for (int64_t i = 0; i < z[0]; i++)
        ref()->rowquant_error(D(0) + i * z[1], CF(1) + i * z[2], z[4] ? CF(2) : NULL, &q, CF(3) + i * z[1], CF(4) + i * z[1], z[1], z[2]);
}

static void error_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    const struct sq_rowq q = {.bits = (int)z[3], .rate = 1};
    o->rowquant_error(g, D(0), CF(1), z[4] ? CF(2) : NULL, &q, CF(3), CF(4), z[0], z[1], z[2]);
}

static const int64_t error_shapes[][CHECK_DIMS] = {{0, 4, 8, 2, 1}, {1, 1, 1, 2, 0}, {3, 5, 255, 4, 1}, {2, 3, 257, 2, 1}, {1, 2, 33000, 3, 0}, {2, 4, 0, 2, 0}};

/* ---- losses ---- */

static void targets(struct check_call *c, int64_t rows, int64_t vocab)
{
    check_in(c, SQ_I32, rows);
    int32_t *t = check_last(c);
    for (int64_t i = 0; i < rows; i++)
        t[i] = (int32_t)(i * 7 % vocab);
}

static void nll_args(struct check_call *c)
{
    check_out(c, SQ_F64, c->z[0], SUMS);
    check_in(c, SQ_F32, c->z[0] * c->z[1]);
    targets(c, c->z[0], c->z[1]);
}

static void nll_ref(void *const *p, const int64_t *z)
{
    ref()->nll(D(0), CF(1), p[2], z[0], z[1]);
}

static void nll_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->nll(g, D(0), CF(1), p[2], z[0], z[1]);
}

/* equal maxima in every third row; a vocabulary of one word has divergence zero */
static void kl_args(struct check_call *c)
{
    const int64_t rows = c->z[0], vocab = c->z[1];
    check_out(c, SQ_F64, rows, vocab == 1 ? HUGE_VAL : SUMS);
    check_out(c, SQ_U8, rows, CHECK_BITS);
    for (int k = 0; k < 2; k++) {
        check_in(c, SQ_F32, rows * vocab);
        float *x = check_last(c);
        for (int64_t i = 0; i < rows && vocab > 40; i += 3)
            x[i * vocab + 39] = x[i * vocab + 2 + i % 2 * k] = 9;
    }
}

static void kl_ref(void *const *p, const int64_t *z)
{
    ref()->kl(D(0), p[1], CF(2), CF(3), z[0], z[1]);
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
    check_filled(c, SQ_F64, 1, SUMS);
    check_out(c, SQ_F32, n, FEW);
    check_in(c, SQ_F32, n);
    check_in(c, z[2] ? SQ_BF16 : SQ_F32, n);
    check_in(c, SQ_F64, z[0]);
}

static void loss_ref(void *const *p, const int64_t *z)
{
    const struct check_arg t = {.type = z[2] ? SQ_BF16 : SQ_F32};
    const struct sq_floats target = {t.type, p[3]};
    float *wide = malloc((size_t)z[1] * sizeof *wide + 1);
    double total = 0;
    SQ_ASSERT(wide);
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
    free(wide);
}

static void loss_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->loss(g, D(0), z[3] ? F(1) : NULL, CF(2), p[3], z[2] ? SQ_BF16 : SQ_F32, D(4), z[0], z[1], 0.25);
}

static const int64_t loss_shapes[][CHECK_DIMS] = {{0, 4, 0, 1}, {1, 1, 0, 1}, {5, 33, 1, 1}, {300, 20, 0, 0}, {7, 257, 1, 0}};

/* ---- conversions, choices ---- */

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

/* ties, a carry into the exponent, infinity, the largest number, a small one */
static void narrow_args(struct check_call *c)
{
    static const uint32_t edge[] = {0x3f808000, 0x3f818000, 0x3f807fff, 0x3f808001, 0x3fffffff, 0x7f800000, 0x7f7fffff, 0xff800000, 1, 0x80000000};
    check_out(c, SQ_BF16, c->z[0], CHECK_BITS);
    check_in(c, SQ_F32, c->z[0]);
    if (c->z[0] >= SQ_COUNT(edge))
        memcpy(check_last(c), edge, sizeof edge);
}

static void narrow_ref(void *const *p, const int64_t *z)
{
    sq_bf16_narrow(p[0], CF(1), z[0]);
}

static void narrow_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->narrow(g, p[0], CF(1), z[0]);
}

/* z: rows n of bf16; y, x pick */
static void gather_args(struct check_call *c)
{
    const int64_t *z = c->z;
    check_out(c, SQ_F32, z[0] * z[1], CHECK_BITS);
    check_in(c, z[3] ? SQ_BF16 : SQ_F32, z[2] * z[1]);
    check_in(c, SQ_I64, z[0]);
    int64_t *pick = check_last(c);
    for (int64_t i = 0; i < z[0]; i++)
        pick[i] = (i * 5 + 3) % z[2];
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
    check_filled(c, SQ_F64, c->z[1], sum_limit(c->z[0]));
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
    int32_t *map = check_last(c);
    for (int64_t i = 0; i < z[0]; i++)
        map[i] = (int32_t)(i * 3 % z[1]);
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

/* dx, dy base x first from; i belongs to i % m, but the last of x to none */
static void collect_args(struct check_call *c)
{
    const int64_t *z = c->z, m = z[1];
    check_filled(c, SQ_F32, m, FEW);
    check_in(c, SQ_F32, z[0]);
    check_in(c, SQ_F32, z[0]);
    check_in(c, SQ_F32, m);
    float *x = check_last(c);
    check_in(c, SQ_I32, m + 1);
    int32_t *first = check_last(c), at = 0;
    check_in(c, SQ_I32, z[0]);
    int32_t *from = check_last(c);
    for (int64_t k = 0; k < m; k++) {
        x[k] = 0.5f + fabsf(x[k]);
        first[k] = at;
        for (int64_t i = k; k < SQ_MAX(m - 1, 1) && i < z[0]; i += SQ_MAX(m - 1, 1))
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

static const int64_t spread_shapes[][CHECK_DIMS] = {{0, 1, 0, 0}, {1, 1, 1, 1}, {300, 77, 1, 0}, {64, 16, 0, 1}, {33, 33, 1, 1}};

/* ---- the weight pass; z: rows cols bits group rate% flags rank ---- */

enum { COLS = 8, ROWS = 16, W16 = 32, TO16 = 64, CODES = 128 };

/* w c r a b u l, from argument k on */
static void weight_args(struct check_call *c)
{
    const int64_t *z = c->z;
    check_in(c, z[5] & W16 ? SQ_BF16 : SQ_F32, z[0] * z[1]);
    check_in(c, SQ_F32, z[1]);
    check_in(c, SQ_F32, z[0]);
    check_in(c, SQ_F32, z[6] * z[1]);
    check_in(c, SQ_F32, z[0] * z[6]);
    clipping(c, groups_of(z));
}

static struct sq_fold_args fold_of(void *const *p, const int64_t *z)
{
    return (struct sq_fold_args){.w = p[0],
                                 .w_type = z[5] & W16 ? SQ_BF16 : SQ_F32,
                                 .c = z[5] & COLS ? CF(1) : NULL,
                                 .r = z[5] & ROWS ? CF(2) : NULL,
                                 .a = z[6] ? CF(3) : NULL,
                                 .b = z[6] ? CF(4) : NULL,
                                 .rank = z[6],
                                 .u = clip(p, 5, z),
                                 .l = clip(p, 6, z),
                                 .q = rowq_of(z),
                                 .rows = z[0],
                                 .cols = z[1]};
}

/* W as f32 and W~, METHOD 3 in its order of operations */
static void make_flat(float *w, float *flat, const struct sq_fold_args *a)
{
    sq_floats_get(w, (struct sq_floats){a->w_type, (void *)(uintptr_t)a->w}, a->rows * a->cols);
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t j = 0; j < a->cols; j++) {
            float f = w[i * a->cols + j], sum = 0;
            f = a->c ? f * a->c[j] : f;
            f = a->r ? f * a->r[i] : f;
            for (int64_t t = 0; t < a->rank; t++)
                sum = t ? sum + a->b[i * a->rank + t] * a->a[t * a->cols + j] : a->b[i * a->rank] * a->a[j];
            flat[i * a->cols + j] = a->rank ? f + sum / (float)a->rank : f;
        }
}

static float *floats(int64_t n)
{
    float *x = malloc((size_t)n * sizeof *x + 1);
    SQ_ASSERT(x);
    return x;
}

/* to, q scale zero sum, then the weights' */
static void fold_args(struct check_call *c)
{
    const int64_t *z = c->z;
    check_out(c, z[5] & TO16 ? SQ_BF16 : SQ_F32, z[0] * z[1], CHECK_BITS);
    check_out(c, SQ_U8, z[0] * z[1], CHECK_BITS);
    check_out(c, SQ_F32, z[0], CHECK_BITS);
    check_out(c, SQ_F32, z[0], CHECK_BITS);
    check_out(c, SQ_I32, z[0], CHECK_BITS);
    weight_args(c);
}

static struct sq_codes fold_codes(void *const *p, const int64_t *z)
{
    return (struct sq_codes){.q = p[1], .ld = z[1], .scale = p[2], .zero = p[3], .sum = p[4]};
}

static void fold_ref(void *const *p, const int64_t *z)
{
    const struct sq_fold_args a = fold_of(p + 5, z);
    const struct sq_floats to = {z[5] & TO16 ? SQ_BF16 : SQ_F32, p[0]};
    struct sq_codes code = fold_codes(p, z);
    float *w = floats(z[0] * z[1]), *flat = floats(z[0] * z[1]);
    make_flat(w, flat, &a);
    if (z[5] & CODES)
        ref()->rowquant_encode(&code, flat, &a.q, a.u, a.l, z[0], z[1]);
    ref()->rowquant(flat, flat, &a.q, a.u, a.l, z[0], z[1]);
    sq_floats_put(to, flat, z[0] * z[1]);
    free(w), free(flat);
}

static void fold_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    struct sq_fold_args a = fold_of(p + 5, z);
    struct sq_codes code = fold_codes(p, z);
    a.to = p[0];
    a.to_type = z[5] & TO16 ? SQ_BF16 : SQ_F32;
    a.code = z[5] & CODES ? &code : NULL;
    o->fold(g, &a);
}

static const int64_t fold_shapes[][CHECK_DIMS] = {
    {0, 8, 4, 0, 100, COLS, 2},
    {1, 1, 2, 0, 100, CLIP | COLS | ROWS, 1},
    {5, 33, 2, 0, 50, CLIP | ZERO | COLS | W16 | TO16, 4},
    {7, 100, 3, 32, 50, CLIP | ROWS | W16, 3},
    {9, 64, 4, 0, 100, CLIP | COLS | ROWS | CODES | TO16, 4},
    {4, 70, 16, 0, 100, COLS | ROWS, 5},
    {40, 130, 2, 64, 100, SYM | CLIP | W16 | TO16, 0},
    {3, 257, 4, 0, 70, SYM | CODES | W16, 16},
};

/* dw du dl da db dc dr, then the weights' */
static void fold_grad_args(struct check_call *c)
{
    const int64_t *z = c->z;
    check_filled(c, SQ_F32, z[0] * z[1], FEW);
    check_out(c, SQ_F32, groups_of(z), FEW);
    check_out(c, SQ_F32, groups_of(z), FEW);
    check_filled(c, SQ_F32, z[6] * z[1], sum_limit(z[0]));
    check_out(c, SQ_F32, z[0] * z[6], sum_limit(z[1]));
    check_filled(c, SQ_F32, z[1], sum_limit(z[0]));
    check_out(c, SQ_F32, z[0], sum_limit(z[1]));
    weight_args(c);
}

static void fold_sums(float *da, float *db, float *dc, float *dr, const float *g, const float *w, const struct sq_fold_args *a)
{
    for (int64_t t = 0; t < a->rank; t++) {
        for (int64_t i = 0; i < a->rows; i++) {
            double sum = 0;
            for (int64_t j = 0; j < a->cols; j++)
                sum += (double)g[i * a->cols + j] * (double)a->a[t * a->cols + j];
            db[i * a->rank + t] = (float)(sum / (double)a->rank);
        }
        for (int64_t j = 0; j < a->cols; j++) {
            double sum = 0;
            for (int64_t i = 0; i < a->rows; i++)
                sum += (double)g[i * a->cols + j] * (double)a->b[i * a->rank + t];
            da[t * a->cols + j] = (float)((double)da[t * a->cols + j] + sum / (double)a->rank);
        }
    }
    for (int64_t i = 0; dr && i < a->rows; i++) {
        double sum = 0;
        for (int64_t j = 0; j < a->cols; j++)
            sum += (double)g[i * a->cols + j] * (double)w[i * a->cols + j] * (a->c ? (double)a->c[j] : 1);
        dr[i] = (float)sum;
    }
    for (int64_t j = 0; dc && j < a->cols; j++) {
        double sum = (double)dc[j];
        for (int64_t i = 0; i < a->rows; i++)
            sum += (double)g[i * a->cols + j] * (double)w[i * a->cols + j] * (a->r ? (double)a->r[i] : 1);
        dc[j] = (float)sum;
    }
}

static void fold_grad_ref(void *const *p, const int64_t *z)
{
    const struct sq_fold_args a = fold_of(p + 7, z);
    const bool clips = z[5] & CLIP, scales = z[5] & (COLS | ROWS);
    float *w = floats(z[0] * z[1]), *flat = floats(z[0] * z[1]);
    make_flat(w, flat, &a);
    ref()->rowquant_grad(F(0), clips ? F(1) : NULL, clips ? F(2) : NULL, F(0), flat, &a.q, a.u, a.l, z[0], z[1]);
    fold_sums(F(3), F(4), scales ? F(5) : NULL, scales ? F(6) : NULL, F(0), w, &a);
    free(w), free(flat);
}

static void fold_grad_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    const struct sq_fold_args a = fold_of(p + 7, z);
    const bool clips = z[5] & CLIP, scales = z[5] & (COLS | ROWS);
    o->fold_grad(g, F(0), clips ? F(1) : NULL, clips ? F(2) : NULL, z[6] ? F(3) : NULL, z[6] ? F(4) : NULL, scales ? F(5) : NULL, scales ? F(6) : NULL, &a);
}

/* ---- the table; large shapes: a layer of Llama-2-7B with 3 samples of 2048 tokens, or a part of it ---- */

const struct check_op check_ops[] = {
    {"gemm", "m n k gap flags", gemm_args, gemm_ref, gemm_dev, SHAPES(gemm_shapes), {6144, 4096, 4096, 0, A16 | B16 | TB}, gemm_flops},
    {"gemm_codes", "m n k abits bbits base", codes_args, codes_ref, codes_dev, SHAPES(codes_shapes), {2048, 4096, 4096, 4, 4, 0}, gemm_flops},
    {"rmsnorm", "rows n gap", norm_args, norm_ref, norm_dev, SHAPES(row_shapes), {6144, 4096, 0}, NULL},
    {"rmsnorm_in_place", "rows n gap", norm_args, norm_place_ref, norm_place_dev, SHAPES(row_shapes), {0}, NULL},
    {"rmsnorm_grad", "rows n gap form", norm_grad_args, norm_grad_ref, norm_grad_dev, SHAPES(norm_grad_shapes), {6144, 4096, 0, 1}, NULL},
    {"rope", "rows tokens heads dim inverse", rope_args, rope_ref, rope_dev, SHAPES(rope_shapes), {6144, 2048, 32, 128, 0}, NULL},
    {"swiglu", "n", swiglu_args, swiglu_ref, swiglu_dev, SHAPES(counts), {2048 * 11008}, NULL},
    {"swiglu_grad", "n", swiglu_grad_args, swiglu_grad_ref, swiglu_grad_dev, SHAPES(counts), {2048 * 11008}, NULL},
    {"attention", "B T H KV D", attention_args, attention_ref, attention_dev, SHAPES(attention_shapes), {1, 2048, 32, 32, 128}, attention_flops},
    {"attention_grad", "B T H KV D", attention_grad_args, attention_grad_ref, attention_grad_dev, SHAPES(attention_shapes), {1, 2048, 32, 32, 128}, attention_grad_flops},
    {"add", "n", add_args, add_ref, add_dev, SHAPES(counts), {6144 * 4096}, NULL},
    {"bias", "rows n", bias_args, bias_ref, bias_dev, SHAPES(matrix_shapes), {6144, 4096}, NULL},
    {"bias_grad", "rows n", bias_grad_args, bias_grad_ref, bias_grad_dev, SHAPES(matrix_shapes), {6144, 4096}, NULL},
    {"adamw", "n", adamw_args, adamw_ref, adamw_dev, SHAPES(counts), {1 << 22}, NULL},
    {"rowquant", "rows cols bits group rate% flags", quant_args, quant_ref, quant_dev, SHAPES(quant_shapes), {4096, 4096, 2, 0, 100, CLIP | ZERO}, NULL},
    {"rowquant_grad", "rows cols bits group rate% flags", quant_grad_args, quant_grad_ref, quant_grad_dev, SHAPES(quant_shapes), {4096, 4096, 2, 0, 100, CLIP | ZERO}, NULL},
    {"rowquant_encode", "rows cols bits group rate% flags", encode_args, encode_ref, encode_dev, SHAPES(encode_shapes), {6144, 4096, 4, 0, 100, 0}, NULL},
    {"rowquant_error", "rows tries n bits weighted", error_args, error_ref, error_dev, SHAPES(error_shapes), {256, 400, 4096, 2, 1}, NULL},
    {"nll", "rows vocab", nll_args, nll_ref, nll_dev, SHAPES(vocab_shapes), {512, 32000}, NULL},
    {"kl", "rows vocab", kl_args, kl_ref, kl_dev, SHAPES(vocab_shapes), {512, 32000}, NULL},
    {"widen", "n", widen_args, widen_ref, widen_dev, SHAPES(counts), {6144 * 4096}, NULL},
    {"narrow", "n", narrow_args, narrow_ref, narrow_dev, SHAPES(counts), {6144 * 4096}, NULL},
    {"gather", "rows n of bf16", gather_args, gather_ref, gather_dev, SHAPES(gather_shapes), {2, 2048 * 4096, 4, 1}, NULL},
    {"column_sums", "rows n squared", columns_args, columns_ref, columns_dev, SHAPES(columns_shapes), {6144, 4096, 1}, NULL},
    {"loss", "tokens hidden bf16 dy", loss_args, loss_ref, loss_dev, SHAPES(loss_shapes), {6144, 4096, 1, 1}, NULL},
    {"fold", "rows cols bits group rate% flags rank", fold_args, fold_ref, fold_dev, SHAPES(fold_shapes), {4096, 4096, 2, 0, 100, CLIP | ZERO | W16 | TO16, 4}, NULL},
    {"fold_grad", "rows cols bits group rate% flags rank", fold_grad_args, fold_grad_ref, fold_grad_dev, SHAPES(fold_shapes), {4096, 4096, 2, 0, 100, CLIP | ZERO | W16, 4}, NULL},
    {"spread", "n m inverse base", spread_args, spread_ref, spread_dev, SHAPES(spread_shapes), {0}, NULL},
    {"collect", "n m inverse base", collect_args, collect_ref, collect_dev, SHAPES(spread_shapes), {0}, NULL},
};
const int64_t check_nops = SQ_COUNT(check_ops);
