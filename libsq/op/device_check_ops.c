/* The table of sq_device_check, the operations of a layer: arguments, reference and call, shapes, limits with their
 * reasons. */
#include "device_check.h"

#include <math.h>

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

/* Tensor cores cut what they add: an A100 after every eighth product, 0.72 U of the partial sum each time and always
 * towards zero, which makes 0.72 U k / 8 / sqrt(3) of what it comes to, and the products themselves at half a unit of the
 * largest. Twice that. */
static double gemm_limit(int64_t k, int64_t flags)
{
    const bool bf16 = flags & ROUND || (flags & A16 && flags & B16);
    const double cut = bf16 ? 2 * (0.42 * (double)k / 8 + 0.25 * sqrt((double)k)) : 0;
    return check_sum_limit(k) + cut * cut * CHECK_U2;
}

static void gemm_args(struct check_call *c)
{
    const int64_t m = c->z[0], n = c->z[1], k = c->z[2], gap = c->z[3], f = c->z[4];
    const bool ta = f & TA, tb = f & TB;
    check_filled_rows(c, m, n, n + 3 * gap, gemm_limit(k, f));
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
    check_reference()->gemm(F(0), z[1] + 3 * z[3], a, b, z[0], z[1], z[2], z[4] & ADD, z[4] & ROUND);
}

static void gemm_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    struct sq_mat a, b;
    gemm_sides(&a, &b, p, z);
    o->gemm(g, F(0), z[1] + 3 * z[3], a, b, z[0], z[1], z[2], z[4] & ADD, z[4] & ROUND);
}

static const int64_t gemm_shapes[][CHECK_DIMS] = {
    {0, 5, 3, 0, 0},
    {5, 0, 3, 1, ROUND},
    {5, 3, 0, 0, 0},
    {5, 3, 0, 2, ADD},
    {1, 1, 1, 0, 0},
    {1, 7, 5, 1, TA},
    {7, 1, 5, 2, TB},
    {13, 33, 31, 1, 0},
    {13, 33, 31, 2, TA | ROUND},
    {13, 33, 31, 0, TB | ADD},
    {40, 17, 70, 1, TA | TB},
    {40, 17, 70, 1, ROUND | TB},
    {33, 20, 65, 0, A16 | B16},
    {33, 20, 65, 3, A16 | TA | ADD},
    {33, 20, 65, 2, B16 | TB | ROUND},
    {33, 20, 65, 1, B16 | TB},
    {64, 64, 257, 0, A16 | B16 | TA | TB | ADD},
    {3, 300, 4, 0, ROUND | ADD},
    {8, 6, 5003, 0, ROUND | TA}, /* may be cut into pieces of k, of which none may get lost */
    {5, 7, 9001, 0, A16 | B16 | TB},
};

static double gemm_flops(const int64_t *z)
{
    return 2.0 * (double)z[0] * (double)z[1] * (double)z[2];
}

static void codes_side(struct check_call *c, int64_t rows, int64_t cols)
{
    check_in(c, SQ_U8, rows * (cols + 3));
    check_in(c, SQ_F32, rows);
    check_in(c, SQ_F32, rows);
    check_in(c, SQ_I32, rows);
}

/* z: m n k bits of a, of b, base; y base, q scale zero sum of a, of b, what they are made of */
static void codes_args(struct check_call *c)
{
    const int64_t *z = c->z;
    check_out(c, SQ_F32, z[0] * z[1], CHECK_BITS);
    check_in(c, SQ_F32, z[0] * z[1]);
    codes_side(c, z[0], z[2]);
    codes_side(c, z[1], z[2]);
    check_scratch(c, z[0] * z[2]);
    check_scratch(c, z[1] * z[2]);
}

static struct sq_codes codes_of(void *const *p, int64_t k, int64_t bits)
{
    return (struct sq_codes){
        .q = p[0], .ld = k + 3, .cols = k, .scale = p[1], .zero = p[2], .sum = p[3], .bits = (int)bits};
}

/* Codes made by the reference; of one sign mostly, so that zero points matter. */
static void codes_values(void *const *p, const int64_t *z)
{
    for (int k = 0; k < 2; k++) {
        const struct sq_rowq q = {.bits = (int)z[3 + k], .rate = 1};
        struct sq_codes to = codes_of(p + 2 + 4 * k, z[2], z[3 + k]);
        float *x = F(10 + k);
        for (int64_t i = 0; i < z[k] * z[2]; i++)
            x[i] += 0.5f;
        sq_rowquant_encode_ref(&to, x, &q, NULL, NULL, z[k], z[2]);
    }
}

static void codes_ref(void *const *p, const int64_t *z)
{
    const struct sq_codes a = codes_of(p + 2, z[2], z[3]), b = codes_of(p + 6, z[2], z[4]);
    check_reference()->gemm_codes(F(0), z[1], z[5] ? CF(1) : NULL, &a, &b, z[0], z[1]);
}

static void codes_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    const struct sq_codes a = codes_of(p + 2, z[2], z[3]), b = codes_of(p + 6, z[2], z[4]);
    o->gemm_codes(g, F(0), z[1], z[5] ? CF(1) : NULL, &a, &b, z[0], z[1]);
}

static const int64_t codes_shapes[][CHECK_DIMS] = {
    {0, 4, 5, 4, 4, 0},    {1, 1, 1, 4, 4, 1},   {3, 5, 0, 4, 4, 0},     {65, 70, 131, 4, 4, 1},
    {7, 130, 64, 8, 6, 0}, {66, 3, 67, 7, 7, 1}, {17, 19, 300, 3, 2, 0},
};

/* expf within 2 units, of an argument rounded before: |x| U relatively, |x| below 5 nearly always */
#define EXP (100 * CHECK_U2)

/* ---- norms, positions, activations ---- */

/* r: n / 32 terms in a lane, five more additions, all of one sign: (n / 32 + 5) U at most; and three roundings */
static double norm_limit(int64_t n)
{
    const double worst = (double)(n / 32 + 8);
    return CHECK_U2 * worst * worst;
}

/* An output that may be bf16; what the reference makes it of is a scratch. */
static void narrow_out(struct check_call *c, bool narrow, int64_t n, double limit)
{
    check_out(c, narrow ? SQ_BF16 : SQ_F32, n, narrow ? check_bf16_limit(limit, n) : limit);
}

static struct sq_floats narrow_of(void *x, bool narrow)
{
    return (struct sq_floats){narrow ? SQ_BF16 : SQ_F32, x};
}

/* z: rows n gap narrow; y rrms x gain, y as f32 */
static void norm_args(struct check_call *c)
{
    const int64_t rows = c->z[0], n = c->z[1], gap = c->z[2];
    narrow_out(c, c->z[3], rows > 0 ? (rows - 1) * (n + 2 * gap) + n : 0, norm_limit(n));
    check_out(c, SQ_F32, rows, norm_limit(n));
    check_in_rows(c, rows, n, n + gap);
    check_in(c, SQ_F32, n);
    check_scratch(c, rows * n);
}

static void norm_ref(void *const *p, const int64_t *z)
{
    const int64_t n = z[1], ldy = n + 2 * z[2];
    check_reference()->rmsnorm(sq_f32(F(4)), n, F(1), CF(2), n + z[2], CF(3), 1e-5, z[0], n);
    for (int64_t i = 0; i < z[0]; i++)
        sq_floats_put(sq_floats_from(narrow_of(p[0], z[3]), i * ldy), CF(4) + i * n, n);
}

static void norm_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->rmsnorm(g, narrow_of(p[0], z[3]), z[1] + 2 * z[2], F(1), CF(2), z[1] + z[2], CF(3), 1e-5, z[0], z[1]);
}

/* z: rows n gap */
static void norm_place_args(struct check_call *c)
{
    const int64_t rows = c->z[0], n = c->z[1];
    check_filled_rows(c, rows, n, n + 2 * c->z[2], norm_limit(n));
    check_out(c, SQ_F32, rows, norm_limit(n));
    check_in(c, SQ_F32, n);
}

static void norm_place_ref(void *const *p, const int64_t *z)
{
    check_reference()->rmsnorm(sq_f32(F(0)), z[1] + 2 * z[2], F(1), F(0), z[1] + 2 * z[2], CF(2), 1e-5, z[0], z[1]);
}

static void norm_place_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->rmsnorm(g, sq_f32(F(0)), z[1] + 2 * z[2], F(1), F(0), z[1] + 2 * z[2], CF(2), 1e-5, z[0], z[1]);
}

static const int64_t norm_shapes[][CHECK_DIMS] = {
    {0, 5, 0},       {1, 1, 0},     {1, 31, 1},   {3, 32, 0},    {5, 33, 7},       {130, 20, 0},
    {9, 257, 100},   {2, 1000, 3},  {0, 5, 0, 1}, {1, 31, 1, 1}, {130, 20, 0, 1},  {9, 257, 100, 1},
};
static const int64_t norm_place_shapes[][CHECK_DIMS] = {{0, 5, 0}, {1, 1, 0}, {1, 31, 1}, {5, 33, 7}, {2, 1000, 3}};

static double norm_grad_limit(int64_t n)
{
    return norm_limit(n) + check_sum_limit(n);
}

/* z: rows n gap add; dx dgain dy x rrms gain */
static void norm_grad_args(struct check_call *c)
{
    const int64_t rows = c->z[0], n = c->z[1], gap = c->z[2];
    check_filled_rows(c, rows, n, n + 2 * gap, norm_grad_limit(n));
    check_filled(c, SQ_F32, n, check_sum_limit(rows));
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
    check_reference()->rmsnorm_grad(F(0), lddx, z[3] == 1, F(1), here ? F(0) : F(2), here ? lddx : z[1] + 3 * z[2],
                                    CF(3), z[1] + z[2], CF(4), CF(5), z[0], z[1]);
}

static void norm_grad_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    const int64_t lddx = z[1] + 2 * z[2], here = z[3] == 2;
    o->rmsnorm_grad(g, F(0), lddx, z[3] == 1, F(1), here ? F(0) : F(2), here ? lddx : z[1] + 3 * z[2], CF(3),
                    z[1] + z[2], CF(4), CF(5), z[0], z[1]);
}

static const int64_t norm_grad_shapes[][CHECK_DIMS] = {
    {0, 5, 0, 0},  {1, 1, 0, 1},    {1, 31, 1, 2},     {3, 32, 0, 1},
    {5, 33, 7, 0}, {130, 20, 0, 2}, {70, 257, 100, 1}, {2, 1000, 3, 0},
};

/* z: rows tokens heads dim inverse narrow; f32 in place; y cos sin x, y as f32 */
static void rope_args(struct check_call *c)
{
    const int64_t *z = c->z, n = z[0] * z[2] * z[3];
    if (z[5])
        narrow_out(c, true, n, CHECK_FEW);
    else
        check_filled(c, SQ_F32, n, CHECK_FEW);
    check_in(c, SQ_F32, z[1] * (z[3] / 2));
    check_in(c, SQ_F32, z[1] * (z[3] / 2));
    check_in(c, SQ_F32, n);
    check_scratch(c, n);
}

static void rope_ref(void *const *p, const int64_t *z)
{
    check_reference()->rope(sq_f32(F(4)), z[5] ? CF(3) : CF(0), CF(1), CF(2), z[0], z[1], z[2], z[3], z[4]);
    sq_floats_put(narrow_of(p[0], z[5]), CF(4), z[0] * z[2] * z[3]);
}

static void rope_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->rope(g, narrow_of(p[0], z[5]), z[5] ? CF(3) : CF(0), CF(1), CF(2), z[0], z[1], z[2], z[3], z[4]);
}

static const int64_t rope_shapes[][CHECK_DIMS] = {
    {0, 3, 2, 4, 0},       {1, 1, 1, 2, 0},    {6, 3, 2, 6, 1},    {10, 5, 3, 64, 0},
    {10, 5, 3, 64, 0, 1}, {9, 9, 1, 10, 1, 1}, {1, 1, 1, 2, 1, 1},
};

/* z: n narrow; outputs, inputs, outputs as f32 */
static void one_in(struct check_call *c, double limit, int outs, int ins)
{
    for (int i = 0; i < outs; i++)
        narrow_out(c, c->z[1], c->z[0], limit);
    for (int i = 0; i < ins; i++)
        check_in(c, SQ_F32, c->z[0]);
    for (int i = 0; i < outs; i++)
        check_scratch(c, c->z[0]);
}

static void swiglu_args(struct check_call *c)
{
    one_in(c, EXP, 1, 2);
}

static void swiglu_ref(void *const *p, const int64_t *z)
{
    check_reference()->swiglu(sq_f32(F(3)), CF(1), CF(2), z[0]);
    sq_floats_put(narrow_of(p[0], z[1]), CF(3), z[0]);
}

static void swiglu_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->swiglu(g, narrow_of(p[0], z[1]), CF(1), CF(2), z[0]);
}

/* y: 0 not wanted, 1 written, 2 in the place of dy, as f32 */
static void swiglu_grad_args(struct check_call *c)
{
    for (int i = 0; i < 3; i++)
        if (i == 2 && c->z[2] == 2)
            check_filled(c, SQ_F32, c->z[0], EXP);
        else
            narrow_out(c, c->z[1], c->z[0], EXP);
    for (int i = 0; i < 3; i++)
        check_in(c, SQ_F32, c->z[0]);
    for (int i = 0; i < 3; i++)
        check_scratch(c, c->z[0]);
}

static struct sq_floats again_of(void *const *p, const int64_t *z)
{
    return z[2] == 0 ? sq_f32(NULL) : narrow_of(p[2], z[1] && z[2] == 1);
}

static void swiglu_grad_ref(void *const *p, const int64_t *z)
{
    const struct sq_floats out[] = {narrow_of(p[0], z[1]), narrow_of(p[1], z[1]), again_of(p, z)};
    check_reference()->swiglu_grad(sq_f32(F(6)), sq_f32(F(7)), sq_f32(F(8)), z[2] == 2 ? CF(2) : CF(3), CF(4), CF(5),
                                   z[0]);
    for (int k = 0; k < 3 && out[k].x; k++)
        sq_floats_put(out[k], CF(6 + k), z[0]);
}

static void swiglu_grad_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->swiglu_grad(g, narrow_of(p[0], z[1]), narrow_of(p[1], z[1]), again_of(p, z), z[2] == 2 ? CF(2) : CF(3), CF(4),
                   CF(5), z[0]);
}

static const int64_t counts[][CHECK_DIMS] = {{0}, {1}, {31}, {256}, {257}, {5000}};
static const int64_t swiglu_shapes[][CHECK_DIMS] = {{0},    {1},    {31},    {256},    {257},    {5000},
                                                    {0, 1}, {1, 1}, {31, 1}, {256, 1}, {257, 1}, {5000, 1}};
static const int64_t swiglu_grad_shapes[][CHECK_DIMS] = {
    {0, 0, 0}, {1, 0, 1}, {31, 0, 0}, {256, 0, 2}, {257, 0, 1}, {5000, 0, 2},
    {0, 1, 1}, {1, 1, 2}, {31, 1, 1}, {256, 1, 0}, {257, 1, 2}, {5000, 1, 1},
};

/* ---- attention ----
 * Scores are about 1, their errors those of sums of D products, then as with EXP; test_attention.c has the reasons for
 * both limits.
 *
 * They hold for tensor cores, too (attention_tiles.h). An operand of two numbers of tf32 is off by one unit of its last
 * bit of f32 in a quarter of the cases, 0.7 U as root mean square; the product of the low parts, which is left out, has
 * (2^-12.2)^2 = 0.7 U: together 1.3 U of a product, with any sign. A sum of 32 products is cut after every fourth of
 * them (simt_tensor.h), and loses 0.72 U of such a partial sum: 0.72 U 8 / sqrt(3) = 3.3 U of what it comes to; products
 * are cut at half a unit of the largest, 1.7 U in all. So scores err by 4 U, what is summed with their exponentials by
 * that and as much again: 2 4^2 U^2 of `out`. Of ds, dout.v errs by 4 U before delta is taken from it, which may leave
 * half of it: 2 4^2 + 4 4^2 U^2 of dq and dk. Where all signs are the same, sums lose 9 U in place of 4.
 *
 * A bias of one channel of the keys, as Qwen2 has it, makes scores of S = bias / sqrt(D) and their errors S times as
 * large; dq multiplies the errors of ds, which should cancel, with it once more. */

#define ATTENTION      (1000 * CHECK_U2)
#define ATTENTION_GRAD (4000 * CHECK_U2)

/* Where products are bf16, a forward's operands are two numbers of it. The low one is off by 2^-17 / sqrt(3) of the
 * mantissa's 1 to 2 where it is large, in half of the cases, by half of that in a quarter, and so on: by 0.31 2^-17 of the
 * whole as root mean square, 40 U. The product of the low parts, which is left out, has (0.41 2^-8)^2, 43 U: together 70 U
 * of a product, in place of 1.3 U. The 48 additions of 128 channels, or keys, lose 0.72 U 48 / sqrt(3) = 20 U, which is
 * little beside that. So 70^2 U^2 of lse, and of `out` as much again, and for the probabilities' and values' own.
 *
 * Of a backward those of dout.v and of dv are one, off by 2^-8 / sqrt(3), so by 0.41 2^-8 of themselves: a sum of products
 * of two such by 0.58 2^-8 of itself, whatever the signs, 0.33 2^-16 of the NMSE of dv. dq and dk have that of dout.v, several
 * times where delta leaves little; where the bias comes again, scores' 2 70^2 U^2 too. */
#define TWO_BF16  (30000 * CHECK_U2)
#define BF16_GRAD (4.0 / (1 << 16))

static bool rounds_attention(const int64_t *z) /* wider heads have no kernel in bf16 */
{
    return z[6] && z[4] <= 128;
}

static double biased(const int64_t *z) /* 1 + S^2 */
{
    return 1 + (double)(z[5] * z[5]) / (double)z[4];
}

static void bias_keys(float *k, const int64_t *z)
{
    for (int64_t i = 0; i < z[0] * z[1] * z[3]; i++)
        k[i * z[4]] += (float)z[5];
}

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
    const double limit = (rounds_attention(z) ? TWO_BF16 : ATTENTION) * biased(z);
    check_out(c, SQ_F32, z[0] * z[1] * z[2] * z[4], limit);
    check_out(c, SQ_F32, z[0] * z[1] * z[2], limit);
    qkv(c);
}

static void attention_values(void *const *p, const int64_t *z)
{
    bias_keys(F(3), z);
}

static void attention_ref(void *const *p, const int64_t *z)
{
    check_reference()->attention(F(0), F(1), CF(2), CF(3), CF(4), z[0], z[1], z[2], z[3], z[4]);
}

static void attention_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->attention(g, F(0), F(1), CF(2), CF(3), CF(4), z[0], z[1], z[2], z[3], z[4], z[6]);
}

/* dq dk dv, dout out lse q k v */
static void attention_grad_args(struct check_call *c)
{
    const int64_t *z = c->z, q = z[0] * z[1] * z[2] * z[4], k = z[0] * z[1] * z[3] * z[4];
    const double limit = rounds_attention(z) ? TWO_BF16 * biased(z) * biased(z) + BF16_GRAD * biased(z)
                                             : ATTENTION_GRAD * biased(z) * biased(z);
    check_out(c, SQ_F32, q, limit);
    check_out(c, SQ_F32, k, limit);
    check_out(c, SQ_F32, k, limit);
    check_in(c, SQ_F32, q);
    check_in(c, SQ_F32, q);
    check_in(c, SQ_F32, z[0] * z[1] * z[2]);
    qkv(c);
    if (z[1] == 1) /* one token: the true dq and dk are zero */
        c->arg[0].limit = c->arg[1].limit = HUGE_VAL;
}

static void attention_grad_values(void *const *p, const int64_t *z)
{
    bias_keys(F(7), z);
    if (z[1] <= 512) /* of large shapes only the time is looked at */
        check_reference()->attention(F(4), F(5), F(6), F(7), F(8), z[0], z[1], z[2], z[3], z[4]);
}

static void attention_grad_ref(void *const *p, const int64_t *z)
{
    check_reference()->attention_grad(F(0), F(1), F(2), CF(3), CF(4), CF(5), CF(6), CF(7), CF(8), z[0], z[1], z[2],
                                      z[3], z[4]);
}

static void attention_grad_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->attention_grad(g, F(0), F(1), F(2), CF(3), CF(4), CF(5), CF(6), CF(7), CF(8), z[0], z[1], z[2], z[3], z[4],
                      z[6]);
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
    {0, 3, 1, 1, 4},    {1, 1, 1, 1, 1},    {1, 1, 2, 1, 8},        {2, 3, 2, 2, 5},    {1, 7, 3, 1, 6},
    {2, 17, 4, 2, 16},  {1, 64, 2, 1, 20},  {2, 65, 2, 2, 32},      {1, 130, 6, 2, 24}, {1, 20, 2, 1, 1},
    {1, 66, 3, 1, 33},  {1, 80, 2, 1, 64},  {1, 129, 2, 2, 80},     {1, 90, 1, 1, 128}, {1, 70, 2, 1, 130},
    {1, 65, 1, 1, 192}, {1, 72, 2, 1, 256}, {1, 70, 2, 1, 64, 100}, {2, 3, 2, 2, 5, 0, 1}, {1, 130, 6, 2, 24, 0, 1},
    {1, 66, 3, 1, 33, 0, 1}, {1, 129, 2, 2, 128, 0, 1}, {1, 70, 2, 1, 130, 0, 1}, {1, 70, 2, 1, 64, 100, 1},
    {1, 1, 1, 1, 1, 0, 1}, {1, 33, 4, 1, 80, 0, 1}, {2, 97, 1, 1, 64, 0, 1}, {1, 64, 2, 1, 64, 0, 1},
    {1, 128, 4, 2, 127, 0, 1},
};

/* ---- sums, optimizer ---- */

static void add_args(struct check_call *c)
{
    check_filled(c, SQ_F32, c->z[0], CHECK_BITS);
    check_in(c, SQ_F32, c->z[0]);
}

static void add_ref(void *const *p, const int64_t *z)
{
    check_reference()->add(F(0), CF(1), z[0]);
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
    check_reference()->bias(F(0), CF(1), z[0], z[1]);
}

static void bias_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->bias(g, F(0), CF(1), z[0], z[1]);
}

static void bias_grad_args(struct check_call *c)
{
    check_filled(c, SQ_F32, c->z[1], check_sum_limit(c->z[0]));
    check_in(c, SQ_F32, c->z[0] * c->z[1]);
}

static void bias_grad_ref(void *const *p, const int64_t *z)
{
    check_reference()->bias_grad(F(0), CF(1), z[0], z[1]);
}

static void bias_grad_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->bias_grad(g, F(0), CF(1), z[0], z[1]);
}

static const int64_t matrix_shapes[][CHECK_DIMS] = {{0, 3}, {1, 1}, {1, 300}, {33, 7}, {1000, 5}, {600, 64}, {9000, 2}};

/* Each step of butterflies, and the scale, errs by at most U of every value: U^2 of the NMSE each, as they are
 * independent and the transform is orthogonal; then a sum of m terms of both signs. */
static double hadamard_limit(int64_t n)
{
    int64_t steps = 2;
    for (; n % 2 == 0; n /= 2)
        steps++;
    return check_sum_limit(steps + 4 * n);
}

/* z: rows n signs */
static void hadamard_args(struct check_call *c)
{
    check_out(c, SQ_F32, c->z[0] * c->z[1], hadamard_limit(c->z[1]));
    check_in(c, SQ_F32, c->z[0] * c->z[1]);
    check_in(c, SQ_F32, c->z[1]);
}

static void hadamard_values(void *const *p, const int64_t *z)
{
    for (int64_t i = 0; i < z[1]; i++)
        F(2)[i] = F(2)[i] < 0 ? -1 : 1;
}

static void hadamard_ref(void *const *p, const int64_t *z)
{
    check_reference()->hadamard(F(0), CF(1), z[2] ? CF(2) : NULL, z[0], z[1]);
}

static void hadamard_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->hadamard(g, F(0), CF(1), z[2] ? CF(2) : NULL, z[0], z[1]);
}

static const int64_t hadamard_shapes[][CHECK_DIMS] = {{0, 4, 1},   {3, 1, 1},   {5, 2, 0},  {33, 12, 1},  {2, 28, 0},
                                                      {3, 52, 1},  {7, 128, 1}, {40, 160, 0}, {2, 1120, 1}, {1, 252, 0},
                                                      {2, 4096, 0}, {1, 8192, 1}};

/* in double throughout: the reference's bits */
static void adamw_args(struct check_call *c)
{
    for (int i = 0; i < 3; i++)
        check_filled(c, SQ_F32, c->z[0], CHECK_BITS);
    check_in(c, SQ_F32, c->z[0]);
}

static void adamw_values(void *const *p, const int64_t *z)
{
    for (int64_t i = 0; i < z[0]; i++)
        F(2)[i] *= F(2)[i];
}

static void adamw_ref(void *const *p, const int64_t *z)
{
    check_reference()->adamw(F(0), F(1), F(2), CF(3), z[0], 3, 1e-3);
}

static void adamw_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->adamw(g, F(0), F(1), F(2), CF(3), z[0], 3, 1e-3);
}

static const struct check_op ops[] = {
    {"gemm",
     "m n k gap flags",
     gemm_args,
     NULL,
     gemm_ref,
     gemm_dev,
     SHAPES(gemm_shapes),
     {6144, 4096, 4096, 0, A16 | B16 | TB},
     gemm_flops},
    {"gemm_codes",
     "m n k abits bbits base",
     codes_args,
     codes_values,
     codes_ref,
     codes_dev,
     SHAPES(codes_shapes),
     {2048, 4096, 4096, 4, 4, 0},
     gemm_flops},
    {"rmsnorm",
     "rows n gap narrow",
     norm_args,
     NULL,
     norm_ref,
     norm_dev,
     SHAPES(norm_shapes),
     {6144, 4096, 0, 1},
     NULL},
    {"rmsnorm_in_place",
     "rows n gap",
     norm_place_args,
     NULL,
     norm_place_ref,
     norm_place_dev,
     SHAPES(norm_place_shapes),
     {0},
     NULL},
    {"rmsnorm_grad",
     "rows n gap form",
     norm_grad_args,
     NULL,
     norm_grad_ref,
     norm_grad_dev,
     SHAPES(norm_grad_shapes),
     {6144, 4096, 0, 1},
     NULL},
    {"rope",
     "rows tokens heads dim inverse narrow",
     rope_args,
     NULL,
     rope_ref,
     rope_dev,
     SHAPES(rope_shapes),
     {6144, 2048, 32, 128, 1, 1},
     NULL},
    {"swiglu",
     "n narrow",
     swiglu_args,
     NULL,
     swiglu_ref,
     swiglu_dev,
     SHAPES(swiglu_shapes),
     {2048 * 11008, 1},
     NULL},
    {"swiglu_grad",
     "n narrow y",
     swiglu_grad_args,
     NULL,
     swiglu_grad_ref,
     swiglu_grad_dev,
     SHAPES(swiglu_grad_shapes),
     {2048 * 11008, 1, 1},
     NULL},
    {"attention",
     "B T H KV D bias bf16",
     attention_args,
     attention_values,
     attention_ref,
     attention_dev,
     SHAPES(attention_shapes),
     {1, 2048, 32, 32, 128, 0, 1},
     attention_flops},
    {"attention_grad",
     "B T H KV D bias bf16",
     attention_grad_args,
     attention_grad_values,
     attention_grad_ref,
     attention_grad_dev,
     SHAPES(attention_shapes),
     {1, 2048, 32, 32, 128, 0, 1},
     attention_grad_flops},
    {"add", "n", add_args, NULL, add_ref, add_dev, SHAPES(counts), {6144 * 4096}, NULL},
    {"bias", "rows n", bias_args, NULL, bias_ref, bias_dev, SHAPES(matrix_shapes), {6144, 4096}, NULL},
    {"bias_grad",
     "rows n",
     bias_grad_args,
     NULL,
     bias_grad_ref,
     bias_grad_dev,
     SHAPES(matrix_shapes),
     {6144, 4096},
     NULL},
    {"adamw", "n", adamw_args, adamw_values, adamw_ref, adamw_dev, SHAPES(counts), {1 << 22}, NULL},
    {"hadamard",
     "rows n signs",
     hadamard_args,
     hadamard_values,
     hadamard_ref,
     hadamard_dev,
     SHAPES(hadamard_shapes),
     {6144, 4096, 1},
     NULL},
};
const struct check_table check_layer = {ops, SQ_COUNT(ops)};
