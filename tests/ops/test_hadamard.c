/* Rows times Hadamard matrices: these beside the oracle's and their definition, the processor beside the reference. */
#include "ops_check.h"

#include "../golden.h"

/* x [n, n] as the matrix that the reference multiplies rows with: its rows are those of the identity. */
static float *matrix(const float *sign, int64_t n)
{
    float *one = calloc((size_t)(n * n), sizeof *one), *h = malloc((size_t)(n * n) * sizeof *h);
    for (int64_t i = 0; i < n; i++)
        one[i * n + i] = 1;
    reference_ops()->hadamard(h, one, sign, n, n);
    free(one);
    return h;
}

/* The oracle's: Paley's matrices, and rotations diag(sign) H / sqrt(n), n = 64 and 12 x 4. */
static void test_goldens(void **state)
{
    (void)state;
    static const int64_t orders[] = {12, 20, 28, 36, 52, 60, 108, 140};
    static const char *const models[] = {"rotate_llama3", "rotate_llama-48"};
    struct golden g;
    int64_t count;
    golden_open(&g, "hadamard");
    for (int64_t k = 0; k < SQ_COUNT(orders); k++) {
        const int64_t n = orders[k];
        char name[16];
        snprintf(name, sizeof name, "H%d", (int)n);
        double *want = golden_f64(&g, name, &count);
        float *h = matrix(NULL, n);
        assert_int_equal(count, n * n);
        for (int64_t i = 0; i < n * n; i++)
            assert_true(h[i] == (float)(want[i] / sqrt((double)n)));
        free(h);
        free(want);
    }
    golden_close(&g);
    for (int64_t k = 0; k < SQ_COUNT(models); k++) {
        golden_open(&g, models[k]);
        int64_t n;
        float *sign = golden_f32(&g, "sign", &n), *h = matrix(sign, n);
        double *want = golden_f64(&g, "rotation", &count);
        assert_int_equal(count, n * n);
        for (int64_t i = 0; i < n * n; i++)
            assert_true(h[i] == (float)want[i]);
        free(want);
        free(h);
        free(sign);
        golden_close(&g);
    }
}

/* H H' = n I, entries +-1 */
static void is_hadamard(int64_t n)
{
    float *h = matrix(NULL, n);
    for (int64_t i = 0; i < n * n; i++)
        assert_true(fabsf(h[i]) == (float)(1 / sqrt((double)n)));
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j <= i; j++) {
            int64_t sum = 0;
            for (int64_t k = 0; k < n; k++)
                sum += (h[i * n + k] < 0) == (h[j * n + k] < 0) ? 1 : -1;
            assert_int_equal(sum, i == j ? n : 0);
        }
    free(h);
}

/* Every small order that there is, and the largest ones of each construction; and which there are. */
static void test_definition(void **state)
{
    (void)state;
    static const int64_t missing[] = {92, 116, 156, 172, 184, 188, 232, 236};
    for (int64_t n = 1; n <= 256; n++) {
        bool there = n < 3 || n % 4 == 0;
        for (int k = 0; k < SQ_COUNT(missing); k++)
            there &= n != missing[k];
        assert_int_equal(sq_hadamard_order(n) == 0, there);
        if (there && (n <= 148 || n == 228 || n == 244 || n == 252))
            is_hadamard(n);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    static const int64_t none[] = {-4, 0, 3, 6, 11008 /* 172 x 64 */, 92, 4 * 65, 1 << 21, INT64_MAX};
    static const int64_t some[] = {5632, 8960, 4864, 13824, 18944, 14336, 17408, 1 << 20};
    for (int64_t k = 0; k < SQ_COUNT(none); k++) {
        assert_int_equal(sq_hadamard_order(none[k]), SQ_E_UNSUP);
        assert_non_null(strstr(sq_errmsg(), "no Hadamard matrix of order "));
    }
    for (int64_t k = 0; k < SQ_COUNT(some); k++)
        assert_int_equal(sq_hadamard_order(some[k]), 0);
}

static void run(const struct sq_ops *ops, struct buf *b, const int64_t *z)
{
    ops->hadamard(b[0].cur, b[1].cur, z[2] ? b[2].cur : NULL, z[0], z[1]);
}

/* Each of k steps, and the scale, errs by at most U of every value: U^2 of the NMSE each, as they are independent and
 * the transform is orthogonal; a sum of m terms of both signs by U^2 m / 2. */
static double limit(int64_t n)
{
    int64_t steps = 2;
    for (; n % 2 == 0; n /= 2)
        steps++;
    return U * U * (double)(steps + 4 * n + 8);
}

static void test_processor(void **state)
{
    (void)state;
    static const int64_t shapes[][5] = {{0, 4, 1},    {1, 1, 0},    {3, 2, 1},   {5, 12, 0},  {4, 28, 1},  {3, 36, 1},
                                        {100, 64, 1}, {2, 1120, 1}, {1, 252, 0}, {70, 960, 1}, {2, 2048, 0}};
    for (int64_t k = 0; k < SQ_COUNT(shapes); k++) {
        const int64_t *z = shapes[k];
        struct buf b[3];
        buf_new(&b[0], z[0] * z[1], limit(z[1]));
        buf_new(&b[1], z[0] * z[1], 0);
        buf_new(&b[2], z[1], 0);
        buf_normal(&b[1]);
        for (int64_t i = 0; i < z[1]; i++)
            b[2].init[i] = sq_rng_uniform(&check_rng) < 0.5 ? -1 : 1;
        check_op("hadamard", b, 3, run, z);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens),
        cmocka_unit_test(test_definition),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_processor),
    };
    check_rng = sq_rng_init(13, SQ_RNG_TEST, 0, 0, 0, 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
