/* norms, element-wise operations, losses: the CPU backend against the reference */
#include "ops_check.h"

/* A value made by r roundings of relative size U (at most, rms U/2 or so) has an NMSE of r U^2 / 3 or less; 16 U^2
 * covers all of them here but those with vexp, whose own error is below 2e-7, about 4 U: (4 U)^2 and some more. */
#define FEW (16 * U * U)
#define EXP (32 * U * U)

static void run_rmsnorm(const struct sq_ops *ops, struct buf *b, const int64_t *z)
{
    ops->rmsnorm(sq_f32(b[0].cur), z[2], b[1].cur, b[2].cur, z[3], b[3].cur, 1e-5, z[0], z[1]);
}

static void run_rmsnorm_in_place(const struct sq_ops *ops, struct buf *b, const int64_t *z)
{
    ops->rmsnorm(sq_f32(b[0].cur), z[2], b[1].cur, b[0].cur, z[2], b[2].cur, 1e-5, z[0], z[1]);
}

static const int64_t row_sizes[][2] = {{0, 5},  {1, 1},  {1, 8},   {3, 7},    {5, 64},
                                       {9, 65}, {4, 70}, {130, 257}, {601, 100}, {3, 13000},
                                       {2, 15}, {3, 16}, {2, 17},    {3, 33}};

static void rmsnorm(void **state)
{
    (void)state;
    for (int64_t s = 0; s < SQ_COUNT(row_sizes); s++)
        for (int64_t gap = 0; gap < 1002; gap = gap < 2 ? gap + 1 : gap + 999) {
            const int64_t rows = row_sizes[s][0], n = row_sizes[s][1], z[] = {rows, n, n + gap, n + 2 * gap, 0};
            struct buf b[4];
            buf_new(&b[0], rows_size(rows, n, z[2]), FEW);
            buf_new(&b[1], rows, FEW);
            buf_new(&b[2], rows_size(rows, n, z[3]), 0);
            buf_new(&b[3], n, 0);
            buf_normal_rows(&b[2], rows, n, z[3]);
            buf_normal(&b[3]);
            check_op("rmsnorm", b, 4, run_rmsnorm, z);
            buf_new(&b[0], rows_size(rows, n, z[2]), FEW);
            buf_new(&b[1], rows, FEW);
            buf_new(&b[2], n, 0);
            buf_normal_rows(&b[0], rows, n, z[2]);
            buf_normal(&b[2]);
            check_op("rmsnorm in place", b, 3, run_rmsnorm_in_place, z);
        }
}

static void run_rmsnorm_grad(const struct sq_ops *ops, struct buf *b, const int64_t *z)
{
    ops->rmsnorm_grad(b[0].cur, z[2], z[4], b[1].cur, b[2].cur, z[3], b[3].cur, z[2], b[4].cur, b[5].cur, z[0], z[1]);
}

static void run_rmsnorm_grad_in_place(const struct sq_ops *ops, struct buf *b, const int64_t *z)
{
    ops->rmsnorm_grad(b[0].cur, z[2], false, b[1].cur, b[0].cur, z[2], b[2].cur, z[2], b[3].cur, b[4].cur, z[0], z[1]);
}

static void rmsnorm_gradient(void **state)
{
    (void)state;
    for (int64_t s = 0; s < SQ_COUNT(row_sizes); s++)
        for (int64_t gap = 0; gap < 1002; gap = gap < 2 ? gap + 1 : gap + 999) {
            const int64_t rows = row_sizes[s][0], n = row_sizes[s][1];
            const int64_t z[] = {rows, n, n + gap, n + 2 * gap, gap % 2};
            struct buf b[6];
            /* one channel: dx is the difference of two equal numbers but for eps, so only its size is right */
            const double limit = n == 1 ? 1 : 2 * FEW;
            buf_new(&b[0], rows_size(rows, n, z[2]), limit);
            buf_new(&b[1], n, FEW);
            buf_new(&b[2], rows_size(rows, n, z[3]), 0);
            buf_new(&b[3], rows_size(rows, n, z[2]), 0);
            buf_new(&b[4], rows, 0);
            buf_new(&b[5], n, 0);
            if (z[4])
                buf_normal_rows(&b[0], rows, n, z[2]);
            buf_normal(&b[1]);
            buf_normal_rows(&b[2], rows, n, z[3]);
            buf_normal_rows(&b[3], rows, n, z[2]);
            buf_normal(&b[4]);
            buf_normal(&b[5]);
            check_op("rmsnorm_grad", b, 6, run_rmsnorm_grad, z);
            buf_new(&b[0], rows_size(rows, n, z[2]), limit);
            buf_new(&b[1], n, FEW);
            buf_new(&b[2], rows_size(rows, n, z[2]), 0);
            buf_new(&b[3], rows, 0);
            buf_new(&b[4], n, 0);
            buf_normal_rows(&b[0], rows, n, z[2]);
            for (int i = 1; i < 5; i++)
                buf_normal(&b[i]);
            check_op("rmsnorm_grad in place", b, 5, run_rmsnorm_grad_in_place, z);
        }
}

static void run_rope(const struct sq_ops *ops, struct buf *b, const int64_t *z)
{
    ops->rope(sq_f32(b[0].cur), b[3].cur, b[1].cur, b[2].cur, z[0] * z[1], z[1], z[2], z[3], z[4]);
}

static void run_rope_in_place(const struct sq_ops *ops, struct buf *b, const int64_t *z)
{
    ops->rope(sq_f32(b[0].cur), b[0].cur, b[1].cur, b[2].cur, z[0] * z[1], z[1], z[2], z[3], z[4]);
}

static void rope(void **state)
{
    (void)state;
    const int64_t sizes[][4] = {{0, 1, 1, 2}, {1, 1, 1, 2}, {2, 5, 3, 14}, {3, 7, 2, 64}, {2, 150, 4, 36}};
    for (int64_t s = 0; s < SQ_COUNT(sizes); s++)
        for (int inverse = 0; inverse < 2; inverse++) {
            const bool here = (s + inverse) % 2;
            const int64_t z[] = {sizes[s][0], sizes[s][1], sizes[s][2], sizes[s][3], inverse};
            struct buf b[4];
            buf_new(&b[0], z[0] * z[1] * z[2] * z[3], FEW);
            buf_new(&b[1], z[1] * z[3] / 2, 0);
            buf_new(&b[2], z[1] * z[3] / 2, 0);
            buf_new(&b[3], b[0].n, 0);
            buf_normal(&b[here ? 0 : 3]);
            for (int64_t i = 0; i < b[1].n; i++) {
                const double angle = 7 * sq_rng_uniform(&check_rng);
                b[1].init[i] = (float)cos(angle);
                b[2].init[i] = (float)sin(angle);
            }
            check_op(here ? "rope in place" : "rope", b, 4, here ? run_rope_in_place : run_rope, z);
        }
}

static const int64_t lengths[] = {0, 1, 7, 8, 9, 15, 16, 17, 31, 1000, 4096, 4097, 70001};

static void gates(struct buf *b)
{
    static const float special[] = {0, -0.0f, 1e-30f, 40, 88, 100, -20, -80, -86, -100, 3e38f};
    for (int64_t i = 0; i < b->n; i++)
        b->init[i] = 4 * (float)sq_rng_normal(&check_rng);
    memcpy(b->init, special, (size_t)SQ_MIN(b->n, SQ_COUNT(special)) * sizeof(float));
    for (int64_t i = 0; i < b->n; i++) /* the largest only alone: squares of the comparison end at 1e308 */
        if (b->n > 10 && b->init[i] > 1e30f)
            b->init[i] = 1;
}

static void run_swiglu(const struct sq_ops *ops, struct buf *b, const int64_t *z)
{
    ops->swiglu(sq_f32(b[0].cur), b[1].cur, b[2].cur, z[0]);
}

static void run_swiglu_grad(const struct sq_ops *ops, struct buf *b, const int64_t *z)
{
    ops->swiglu_grad(sq_f32(b[0].cur), sq_f32(b[1].cur), sq_f32(NULL), b[2].cur, b[3].cur, b[4].cur, z[0]);
}

static void run_swiglu_grad_in_place(const struct sq_ops *ops, struct buf *b, const int64_t *z)
{
    float *keep = malloc((size_t)z[0] * sizeof *keep + 1);
    ops->swiglu(sq_f32(keep), b[0].cur, b[1].cur, z[0]);
    ops->swiglu_grad(sq_f32(b[0].cur), sq_f32(b[1].cur), sq_f32(b[2].cur), b[2].cur, b[0].cur, b[1].cur, z[0]);
    if (!same_bits(keep, b[2].cur, z[0]))
        fail_msg("swiglu_grad on %.63s: y is not swiglu's", ops->isa);
    free(keep);
}

static void swiglu(void **state)
{
    (void)state;
    for (int64_t s = 0; s < SQ_COUNT(lengths); s++) {
        const int64_t z[5] = {lengths[s]};
        struct buf b[5];
        for (int i = 0; i < 3; i++)
            buf_new(&b[i], z[0], i == 0 ? EXP : 0);
        gates(&b[1]);
        buf_normal(&b[2]);
        check_op("swiglu", b, 3, run_swiglu, z);
        for (int i = 0; i < 5; i++)
            buf_new(&b[i], z[0], i < 2 ? EXP : 0);
        buf_normal(&b[2]);
        gates(&b[3]);
        buf_normal(&b[4]);
        check_op("swiglu_grad", b, 5, run_swiglu_grad, z);
        for (int i = 0; i < 3; i++)
            buf_new(&b[i], z[0], EXP);
        gates(&b[0]);
        buf_normal(&b[1]);
        buf_normal(&b[2]);
        check_op("swiglu_grad in place", b, 3, run_swiglu_grad_in_place, z);
    }
}

static void run_add(const struct sq_ops *ops, struct buf *b, const int64_t *z)
{
    ops->add(b[0].cur, b[1].cur, z[0]);
}

static void run_adamw(const struct sq_ops *ops, struct buf *b, const int64_t *z)
{
    ops->adamw(b[0].cur, b[1].cur, b[2].cur, b[3].cur, z[0], z[1], 1e-2);
}

static void add_and_adamw(void **state)
{
    (void)state;
    for (int64_t s = 0; s < SQ_COUNT(lengths); s++)
        for (int64_t step = 1; step < 3000; step = 7 * step + 3) {
            const int64_t z[5] = {lengths[s], step};
            struct buf b[4];
            buf_new(&b[0], z[0], U * U * 1e-6); /* the same sum of two floats: equal */
            buf_new(&b[1], z[0], 0);
            buf_normal(&b[0]);
            buf_normal(&b[1]);
            check_op("add", b, 2, run_add, z);
            for (int i = 0; i < 4; i++) {
                buf_new(&b[i], z[0], i < 3 ? FEW : 0);
                buf_normal(&b[i]);
            }
            for (int64_t i = 0; i < z[0]; i++)
                b[2].init[i] *= b[2].init[i] * (i % 3 ? 1e-3f : 1e-20f);
            if (z[0] > 0) /* never had a gradient */
                b[1].init[0] = b[2].init[0] = b[3].init[0] = 0;
            check_op("adamw", b, 4, run_adamw, z);
        }
}

static void run_bias(const struct sq_ops *ops, struct buf *b, const int64_t *z)
{
    ops->bias(b[0].cur, b[1].cur, z[0], z[1]);
}

static void run_bias_grad(const struct sq_ops *ops, struct buf *b, const int64_t *z)
{
    ops->bias_grad(b[0].cur, b[1].cur, z[0], z[1]);
}

static void bias(void **state)
{
    (void)state;
    for (int64_t s = 0; s < SQ_COUNT(row_sizes); s++) {
        const int64_t z[5] = {row_sizes[s][0], row_sizes[s][1]};
        struct buf b[2];
        buf_new(&b[0], z[0] * z[1], FEW);
        buf_new(&b[1], z[1], 0);
        buf_normal(&b[0]);
        buf_normal(&b[1]);
        check_op("bias", b, 2, run_bias, z);
        buf_new(&b[0], z[1], FEW);
        buf_new(&b[1], z[0] * z[1], 0);
        buf_normal(&b[0]);
        buf_normal(&b[1]);
        check_op("bias_grad", b, 2, run_bias_grad, z);
    }
}

/* Both in double throughout: what is left is the order of the sums and 1e-15 of dexp. */
static void losses(void **state)
{
    (void)state;
    const int64_t sizes[][2] = {{0, 3}, {1, 1}, {3, 7}, {2, 8}, {3, 16}, {2, 17}, {3, 31}, {5, 1001}, {40, 1030}};
    for (int64_t s = 0; s < SQ_COUNT(sizes); s++) {
        const int64_t rows = sizes[s][0], vocab = sizes[s][1];
        struct buf x, y;
        int32_t target[64];
        double nll[3][64], kl[3][64];
        uint8_t same[3][64];
        buf_new(&x, rows * vocab, 0);
        buf_new(&y, rows * vocab, 0);
        for (int64_t i = 0; i < rows * vocab; i++) {
            x.init[i] = 5 * (float)sq_rng_normal(&check_rng);
            y.init[i] = i / vocab % 2 ? x.init[i] : x.init[i] + 1e-3f * (float)sq_rng_normal(&check_rng);
        }
        if (vocab > 100) {
            x.init[3] = -1000;
            y.init[3] = 500;          /* far apart */
            x.init[vocab - 1] = x.init[vocab + 7] = x.init[vocab] = 30; /* equal maxima: the first counts */
            y.init[vocab + 7] = 31;
        }
        for (int64_t i = 0; i < rows; i++)
            target[i] = (int32_t)(i * 7 % vocab);
        for (int level = -1; level < LEVELS; level = next_level(level))
            for (int threads = 1; threads <= 4; threads *= 2) {
                const struct sq_ops *ops = level_ops(level);
                const int k = threads == 1 ? 1 : 2;
                omp_set_num_threads(threads);
                ops->nll(nll[k], x.init, target, rows, vocab);
                ops->kl(kl[k], same[k], x.init, y.init, rows, vocab);
                if (level < 0) {
                    memcpy(nll[0], nll[k], sizeof nll[0]);
                    memcpy(kl[0], kl[k], sizeof kl[0]);
                    memcpy(same[0], same[k], sizeof same[0]);
                }
                for (int64_t i = 0; i < rows; i++) {
                    assert_true(fabs(nll[k][i] - nll[0][i]) <= 1e-13 * (1 + nll[0][i]));
                    assert_true(fabs(kl[k][i] - kl[0][i]) <= 1e-13 * (1 + fabs(kl[0][i])));
                    assert_int_equal(same[k][i], same[0][i]);
                    if (k == 2)
                        assert_true(nll[2][i] == nll[1][i] && kl[2][i] == kl[1][i]);
                }
            }
        if (rows > 2) /* odd rows are equal: no divergence, but for the rounding of two sums of 1 */
            assert_true(fabs(kl[0][1]) < 1e-12 || vocab > 100);
        buf_free(&x);
        buf_free(&y);
    }
}

static void nan_stays(void **state)
{
    (void)state;
    enum { N = 21 };
    float gate[N], up[N], y[N];
    for (int i = 0; i < N; i++)
        gate[i] = (float)i, up[i] = 1;
    for (int at = 0; at < N; at++)
        EACH_LEVEL(level) {
            const float keep = gate[at];
            gate[at] = untouched();
            level_ops(level)->swiglu(sq_f32(y), gate, up, N);
            for (int i = 0; i < N; i++)
                assert_int_equal(isnan(y[i]) != 0, i == at);
            gate[at] = keep;
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rmsnorm), cmocka_unit_test(rmsnorm_gradient), cmocka_unit_test(rope),
        cmocka_unit_test(swiglu),  cmocka_unit_test(add_and_adamw),    cmocka_unit_test(bias),
        cmocka_unit_test(losses),  cmocka_unit_test(nan_stays),
    };
    check_rng = sq_rng_init(6, SQ_RNG_TEST, 0, 0, 0, 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
