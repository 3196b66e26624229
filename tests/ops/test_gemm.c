/* products: the CPU backend against the reference */
#include "ops_check.h"

/* z: m n k lda ldb ldc ta tb add round, strides as gaps */
static void run_gemm(const struct sq_ops *ops, struct buf *b, const int64_t *z)
{
    ops->gemm(b[2].cur, z[5], sq_mat(b[0].cur, z[3], z[6]), sq_mat(b[1].cur, z[4], z[7]), z[0], z[1], z[2], z[8], z[9]);
}

/* A sum of k products of unit variance in f32: each of k additions is wrong by up to U times a partial sum of size
 * sqrt(i), so the variance of the error is at most U^2 k^2 / 2, that of the result k: NMSE below U^2 k / 2. Twice that
 * for the products, their rounding and the final addition of blocks. */
static double gemm_limit(int64_t k)
{
    return U * U * (double)(k + 8);
}

static void check_form(const char *what, run_fn *run, int64_t m, int64_t n, int64_t k, int gap, int flags)
{
    const bool ta = flags & 1, tb = flags & 2, add = flags & 4, round = flags & 8;
    const int64_t am = ta ? k : m, an = ta ? m : k, bm = tb ? n : k, bn = tb ? k : n;
    const int64_t z[] = {m, n, k, an + gap, bn + 2 * gap, n + 3 * gap, ta, tb, add, round};
    struct buf b[3];
    buf_new(&b[0], rows_size(am, an, z[3]), 0);
    buf_new(&b[1], rows_size(bm, bn, z[4]), 0);
    buf_new(&b[2], rows_size(m, n, z[5]), gemm_limit(k));
    buf_normal_rows(&b[0], am, an, z[3]);
    buf_normal_rows(&b[1], bm, bn, z[4]);
    if (add)
        buf_normal_rows(&b[2], m, n, z[5]);
    check_op(what, b, 3, run, z);
}

static void check_gemm(int64_t m, int64_t n, int64_t k, int gap, int flags)
{
    check_form("gemm", run_gemm, m, n, k, gap, flags);
}

static const int64_t sizes[][3] = {
    {0, 5, 3},   {5, 0, 3},    {5, 3, 0},     {1, 1, 1},     {1, 7, 5},    {7, 1, 5},     {6, 16, 8},
    {5, 15, 7},  {7, 17, 9},   {13, 33, 31},  {12, 32, 256}, {64, 64, 64}, {97, 101, 103}, {48, 64, 257},
    {3, 300, 4}, {200, 4, 90}, {150, 50, 513}, {145, 129, 70}, {12, 32, 16}, {13, 31, 15}, {23, 47, 33},
};

static void every_size_and_form(void **state)
{
    (void)state;
    for (int64_t s = 0; s < SQ_COUNT(sizes); s++)
        for (int flags = 0; flags < 16; flags++)
            check_gemm(sizes[s][0], sizes[s][1], sizes[s][2], flags % 3, flags);
}

static void large_strides(void **state)
{
    (void)state;
    for (int flags = 0; flags < 16; flags++)
        check_gemm(25, 35, 50, 1000, flags);
}

/* Larger than the tiles and than one block of k, with threads: the four forms that a model needs. */
static void model_sizes(void **state)
{
    (void)state;
    const int64_t big[][3] = {{300, 576, 192}, {192, 300, 576}, {576, 192, 300}, {65, 1100, 600}};
    for (int64_t s = 0; s < SQ_COUNT(big); s++)
        for (int flags = 0; flags < 4; flags++)
            check_gemm(big[s][0], big[s][1], big[s][2], 0, flags | (flags % 2 ? 8 : 4));
}

/* The layer over oneDNN, with f32 operands, as most processors have no unit for bf16. */
static void run_onednn(const struct sq_ops *ops, struct buf *b, const int64_t *z)
{
    if (ops == reference_ops()) {
        run_gemm(ops, b, z);
        return;
    }
    sq_space_lock();
    assert_int_equal(
        sq_gemm_onednn(b[2].cur, z[5], sq_mat(b[0].cur, z[3], z[6]), sq_mat(b[1].cur, z[4], z[7]), z[0], z[1],
                                    z[2], z[8], false), 0);
    sq_space_unlock();
}

static void onednn_in_f32(void **state)
{
    (void)state;
    const char *unit;
    if (sq_onednn_open(&unit, SQ_ISA_ANY) < 0) {
        print_message("skipped: %s\n", sq_errmsg());
        skip();
    }
    const int64_t more[][3] = {{300, 576, 192}, {65, 1100, 900}, {8200, 40, 16}, {3, 8300, 20}};
    for (int64_t s = 3; s < SQ_COUNT(sizes) + SQ_COUNT(more); s++)
        for (int flags = 0; flags < 8; flags++)
            if (s < SQ_COUNT(sizes))
                check_form("onednn", run_onednn, sizes[s][0], sizes[s][1], sizes[s][2], flags % 3, flags);
            else if (flags % 3 == 0)
                check_form("onednn", run_onednn, more[s - SQ_COUNT(sizes)][0], more[s - SQ_COUNT(sizes)][1],
                           more[s - SQ_COUNT(sizes)][2], 1, flags);
}

/* Operands that are bf16 already are not changed, others are rounded to nearest even: the two products agree, and not
 * with that of unrounded operands (which is 2^-9 away). */
static void rounding_is_that_of_bf16(void **state)
{
    (void)state;
    enum { M = 9, N = 18, K = 21 };
    float a[M * K], b[K * N], ra[M * K], rb[K * N], c[3][M * N];
    for (int i = 0; i < M * K; i++)
        a[i] = (float)sq_rng_normal(&check_rng);
    for (int i = 0; i < K * N; i++)
        b[i] = (float)sq_rng_normal(&check_rng);
    const uint32_t tie[] = {0x3f808000, 0x3f818000, 0x3f807fff, 0x3f808001, 0x00000001};
    memcpy(a, tie, sizeof tie);
    for (int i = 0; i < M * K; i++)
        ra[i] = sq_bf16_to_f32(sq_f32_to_bf16(a[i]));
    for (int i = 0; i < K * N; i++)
        rb[i] = sq_bf16_to_f32(sq_f32_to_bf16(b[i]));
    EACH_LEVEL(level) {
        const struct sq_ops *ops = level_ops(level);
        double wrong = 0, far = 0, norm = 0;
        ops->gemm(c[0], N, sq_mat(a, K, false), sq_mat(b, N, false), M, N, K, false, true);
        ops->gemm(c[1], N, sq_mat(ra, K, false), sq_mat(rb, N, false), M, N, K, false, false);
        ops->gemm(c[2], N, sq_mat(a, K, false), sq_mat(b, N, false), M, N, K, false, false);
        for (int i = 0; i < M * N; i++) {
            wrong += pow((double)c[0][i] - (double)c[1][i], 2);
            far += pow((double)c[0][i] - (double)c[2][i], 2);
            norm += pow((double)c[1][i], 2);
        }
        assert_true(wrong <= gemm_limit(K) * norm);
        assert_true(far > 1e-7 * norm);
        if (!sq_bf16_unit) /* the same code after rounding: the same bits */
            assert_memory_equal(c[0], c[1], sizeof c[0]);
    }
}

/* Stored as bf16 or the same values stored as f32: the same bits, in all forms, with and without rounding. */
static void bf16_operands_are_their_values(void **state)
{
    (void)state;
    enum { M = 65, N = 130, K = 300, MOST = K * N };
    uint16_t *a16 = malloc(MOST * 2), *b16 = malloc(MOST * 2);
    float *a = malloc(MOST * 4), *b = malloc(MOST * 4), *c[2] = {malloc(M * N * 4), malloc(M * N * 4)};
    for (int i = 0; i < MOST; i++) {
        a16[i] = sq_f32_to_bf16((float)sq_rng_normal(&check_rng));
        b16[i] = sq_f32_to_bf16((float)sq_rng_normal(&check_rng));
        a[i] = sq_bf16_to_f32(a16[i]);
        b[i] = sq_bf16_to_f32(b16[i]);
    }
    for (int level = -1; level < LEVELS; level = next_level(level))
        for (int flags = 1; flags < 32; flags++) {
            const struct sq_ops *ops = level_ops(level);
            const bool ta = flags & 4, tb = flags & 8, round = flags & 16;
            struct sq_mat x = sq_mat(a, ta ? M : K, ta), y = sq_mat(b, tb ? K : N, tb);
            if (flags % 4 == 0 || (level < 0 && flags % 4 != 3))
                continue;
            ops->gemm(c[0], N, x, y, M, N, K, false, round);
            if (flags & 1)
                x.x = a16, x.type = SQ_BF16;
            if (flags & 2)
                y.x = b16, y.type = SQ_BF16;
            ops->gemm(c[1], N, x, y, M, N, K, false, round);
            assert_memory_equal(c[0], c[1], M * N * sizeof(float));
        }
    free(a16), free(b16), free(a), free(b), free(c[0]), free(c[1]);
}

/* All codes at their largest, as many as are allowed: sums just below 2^24, in several parts. */
static void largest_codes(void **state)
{
    (void)state;
    static const int bits[][2] = {{7, 7}, {8, 6}, {4, 4}, {8, 2}};
    enum { M = 3, N = 40 };
    for (int f = 0; f < SQ_COUNT(bits); f++) {
        const int a = (1 << bits[f][0]) - 1, b = (1 << bits[f][1]) - 1;
        const int64_t k = SQ_MIN((1 << 24) / (a * b), 20000);
        float one[N], zero[N] = {0}, got[M * N];
        int32_t sum[2][N];
        uint8_t *q[2] = {malloc((size_t)(M * k)), malloc((size_t)(N * k))};
        memset(q[0], a, (size_t)(M * k));
        memset(q[1], b, (size_t)(N * k));
        q[0][k - 1] = (uint8_t)(a - 1); /* an odd sum */
        for (int i = 0; i < N; i++)
            one[i] = 1, sum[0][i] = (int32_t)(a * k - (i == 0)), sum[1][i] = (int32_t)(b * k);
        const struct sq_codes x = {q[0], k, k, one, zero, sum[0], bits[f][0]}, y = {q[1], k, k, one, zero, sum[1], bits[f][1]};
        assert_true(sq_codes_multiply(bits[f][0], bits[f][1], k));
        assert_false(sq_codes_multiply(bits[f][0], bits[f][1], (1 << 24) / (a * b) + 1));
        level_ops(LEVEL_LIBRARIES)->gemm_codes(got, N, NULL, &x, &y, M, N);
        for (int i = 0; i < M * N; i++)
            assert_true((double)got[i] == (double)(a * b * k - (i < N ? b : 0)));
        free(q[0]), free(q[1]);
    }
    assert_false(sq_codes_multiply(8, 7, 1) || sq_codes_multiply(2, 8, 1) || sq_codes_multiply(16, 4, 1));
}

static void ops_without_base(float *want, float *got, const struct sq_codes *a, const struct sq_codes *b, int64_t m,
                             int64_t n)
{
    reference_ops()->gemm_codes(want, n, NULL, a, b, m, n);
    level_ops(LEVEL_LIBRARIES)->gemm_codes(got, n, NULL, a, b, m, n);
    assert_memory_equal(got, want, (size_t)(m * n) * sizeof(float));
    if (sq_codes_unit) { /* the library takes the shape: it is not the plain loop that agrees */
        sq_space_lock();
        assert_int_equal(sq_gemm_codes_onednn((int32_t *)(void *)got, n, a->q, a->ld, b->q, b->ld, m, n, a->cols), 0);
        sq_space_unlock();
    }
}

struct coded {
    struct sq_codes c;
    float *z;
};

static struct coded encode(const struct sq_ops *ops, const struct sq_rowq *p, const float *z, int64_t rows, int64_t cols)
{
    struct coded x = {.c = {.ld = cols + 3}};
    x.c.q = malloc((size_t)(rows * x.c.ld) + 8);
    x.c.scale = malloc((size_t)rows * sizeof(float));
    x.c.zero = malloc((size_t)rows * sizeof(float));
    x.c.sum = malloc((size_t)rows * sizeof(int32_t));
    x.z = malloc((size_t)(rows * cols) * sizeof(float));
    memset(x.c.q, 99, (size_t)(rows * x.c.ld) + 8);
    ops->rowquant_encode(&x.c, z, p, NULL, NULL, rows, cols);
    ops->rowquant(sq_f32(x.z), z, p, NULL, NULL, rows, cols);
    return x;
}

static void coded_free(struct coded *x)
{
    free(x->c.q), free(x->c.scale), free(x->c.zero), free(x->c.sum), free(x->z);
}

/* Codes name the rounded floats exactly; their products have the reference's bits at every level, and differ from the
 * product of the floats, whose terms are rounded once more, by 2^-23 of the sum of the terms' magnitudes. */
static void codes(void **state)
{
    (void)state;
    static const struct {
        int64_t m, n, k;
        int a, b;
        double rate;
        float shift;
    } form[] = {{5, 7, 9, 4, 4, 1, 0},      {65, 130, 300, 4, 4, 1, 3}, {65, 130, 300, 4, 4, 0.5, 0}, {33, 40, 1000, 8, 6, 1, 0},
                {200, 300, 70, 7, 7, 1, 50}, {1, 1, 1, 2, 2, 1, 0},      {300, 576, 192, 8, 2, 1, -9},  {3, 8300, 20, 4, 4, 1, 0}};
    for (int f = 0; f < SQ_COUNT(form); f++) {
        const int64_t m = form[f].m, n = form[f].n, k = form[f].k;
        const struct sq_rowq pa = {.bits = form[f].a, .rate = form[f].rate},
                             pb = {.bits = form[f].b, .rate = form[f].rate, .sym = form[f].b > 2, .zero = true};
        float *za = malloc((size_t)(m * k) * 4), *zb = malloc((size_t)(n * k) * 4), *base = malloc((size_t)(m * n) * 4);
        float *want = malloc((size_t)(m * n) * 4), *got = malloc((size_t)(m * n) * 4);
        for (int64_t i = 0; i < m * k; i++)
            za[i] = (float)sq_rng_normal(&check_rng) + form[f].shift;
        for (int64_t i = 0; i < n * k; i++)
            zb[i] = (float)sq_rng_normal(&check_rng);
        for (int64_t i = 0; i < m * n; i++)
            base[i] = (float)sq_rng_normal(&check_rng);
        struct coded a = encode(reference_ops(), &pa, za, m, k), b = encode(reference_ops(), &pb, zb, n, k);
        const int64_t cols = a.c.cols;
        assert_int_equal(cols, sq_rowq_covered(k, form[f].rate));
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < cols; j++)
                assert_true(((float)a.c.q[i * a.c.ld + j] - a.c.zero[i]) * a.c.scale[i] == a.z[i * k + j]);
        reference_ops()->gemm_codes(want, n, base, &a.c, &b.c, m, n);
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < n; j++) {
                double exact = (double)base[i * n + j], size = fabs(exact);
                for (int64_t p = 0; p < cols; p++) {
                    const double term = (double)a.z[i * k + p] * (double)b.z[j * k + p];
                    exact += term;
                    size += fabs(term);
                }
                assert_true(fabs((double)want[i * n + j] - exact) <= size * 0x1p-22);
            }
        EACH_LEVEL(level)
            for (int threads = 1; threads <= 4; threads *= 2) {
                const struct sq_ops *ops = level_ops(level);
                omp_set_num_threads(threads);
                struct coded a2 = encode(ops, &pa, za, m, k);
                for (int64_t i = 0; i < m; i++) {
                    assert_memory_equal(a2.c.q + i * a.c.ld, a.c.q + i * a.c.ld, (size_t)a.c.ld);
                    assert_true(a2.c.sum[i] == a.c.sum[i] && a2.c.zero[i] == a.c.zero[i] && a2.c.scale[i] == a.c.scale[i]);
                }
                for (int64_t i = 0; i < m * n; i++)
                    got[i] = untouched();
                ops->gemm_codes(got, n, base, &a2.c, &b.c, m, n);
                assert_memory_equal(got, want, (size_t)(m * n) * sizeof(float));
                coded_free(&a2);
            }
        ops_without_base(want, got, &a.c, &b.c, m, n);
        coded_free(&a), coded_free(&b);
        free(za), free(zb), free(base), free(want), free(got);
    }
}

/* A NaN reaches every output that depends on it and no other. */
static void nan_goes_where_it_belongs(void **state)
{
    (void)state;
    float a[7 * 10], b[10 * 5], c[7 * 5];
    for (int i = 0; i < 70; i++)
        a[i] = 1;
    for (int i = 0; i < 50; i++)
        b[i] = 1;
    a[3 * 10 + 4] = untouched();
    EACH_LEVEL(level)
        for (int round = 0; round < 2; round++) {
            for (int i = 0; i < 35; i++)
                c[i] = untouched();
            level_ops(level)->gemm(c, 5, sq_mat(a, 10, false), sq_mat(b, 5, false), 7, 5, 10, false, round);
            for (int i = 0; i < 35; i++)
                assert_int_equal(isnan(c[i]) != 0, i / 5 == 3);
        }
}

static void the_comparison_notices_one_wrong_element(void **state)
{
    (void)state;
    struct buf b;
    buf_new(&b, 1000, gemm_limit(64));
    buf_normal(&b);
    memcpy(b.want, b.init, 1000 * sizeof(float));
    buf_reset(&b);
    assert_true(buf_error(&b, "same", 0) == 0);
    b.cur[500] += 1e-3f;
    assert_true(buf_error(&b, "other", 0) > b.limit);
    buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_size_and_form),       cmocka_unit_test(model_sizes),
        cmocka_unit_test(large_strides),
        cmocka_unit_test(onednn_in_f32),
        cmocka_unit_test(rounding_is_that_of_bf16), cmocka_unit_test(bf16_operands_are_their_values), cmocka_unit_test(codes), cmocka_unit_test(largest_codes),  cmocka_unit_test(nan_goes_where_it_belongs),
        cmocka_unit_test(the_comparison_notices_one_wrong_element),
    };
    check_rng = sq_rng_init(5, SQ_RNG_TEST, 0, 0, 0, 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
