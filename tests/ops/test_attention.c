/* attention: the CPU backend against the reference */
#include "ops_check.h"

/* A score is a sum of D products divided by sqrt(D): its error is about U sqrt(D) |s| / 2, that of its exponential the
 * same relatively, 4 U of vexp besides. With |s| about 1 and D <= 128, 16 U: squared, with room for 4: 1000 U^2.
 * The gradients multiply two such errors and sum over keys of both signs: the same again. */
#define LIMIT (1000 * U * U)
#define LIMIT_GRAD (4000 * U * U)

static void run_attention(const struct sq_ops *ops, struct buf *b, const int64_t *z)
{
    ops->attention(b[0].cur, b[1].cur, b[2].cur, b[3].cur, b[4].cur, z[0], z[1], z[2], z[3], z[4]);
}

static void run_attention_grad(const struct sq_ops *ops, struct buf *b, const int64_t *z)
{
    ops->attention_grad(b[0].cur, b[1].cur, b[2].cur, b[3].cur, b[4].cur, b[5].cur, b[6].cur, b[7].cur, b[8].cur, z[0],
                        z[1], z[2], z[3], z[4]);
}

static void check_attention(const int64_t *z, float size)
{
    const int64_t nq = z[0] * z[1] * z[2] * z[4], nk = z[0] * z[1] * z[3] * z[4], nl = z[0] * z[2] * z[1];
    struct buf b[5], g[9];
    buf_new(&b[0], nq, LIMIT);
    buf_new(&b[1], nl, LIMIT);
    buf_new(&b[2], nq, 0);
    buf_new(&b[3], nk, 0);
    buf_new(&b[4], nk, 0);
    buf_new(&g[0], nq, LIMIT_GRAD);
    buf_new(&g[1], nk, LIMIT_GRAD);
    buf_new(&g[2], nk, LIMIT_GRAD);
    if (z[1] == 1) /* one token: the true dq and dk are zero */
        g[0].limit = g[1].limit = HUGE_VAL;
    const int64_t counts[] = {nq, nq, nl, nq, nk, nk};
    for (int i = 0; i < 6; i++)
        buf_new(&g[3 + i], counts[i], 0);
    for (int i = 2; i < 5; i++)
        buf_normal(&b[i]);
    for (int64_t i = 0; i < nq; i++)
        b[2].init[i] *= size;
    buf_normal(&g[3]);
    for (int i = 0; i < 3; i++) /* out, lse of the reference */
        memcpy(g[6 + i].init, b[2 + i].init, (size_t)b[2 + i].n * sizeof(float));
    reference_ops()->attention(g[4].init, g[5].init, g[6].init, g[7].init, g[8].init, z[0], z[1], z[2], z[3], z[4]);
    check_op("attention", b, 5, run_attention, z);
    check_op("attention_grad", g, 9, run_attention_grad, z);
}

static void every_shape(void **state)
{
    (void)state;
    const int64_t sizes[][5] = {
        {0, 3, 1, 1, 4},  {1, 1, 1, 1, 1},   {1, 1, 2, 1, 8},   {2, 3, 2, 2, 5},    {1, 7, 3, 1, 6},
        {2, 17, 4, 2, 16}, {1, 33, 2, 1, 20}, {3, 65, 2, 2, 32}, {1, 130, 6, 2, 24}, {1, 257, 3, 1, 12},
        {1, 90, 1, 1, 128}, {1, 100, 2, 1, 130},
    };
    for (int64_t s = 0; s < SQ_COUNT(sizes); s++)
        check_attention(sizes[s], 1);
}

static void longer_than_a_chunk(void **state)
{
    (void)state;
    check_attention((int64_t[]){1, 700, 2, 1, 8}, 1);
}

/* Smaller blocks, and more of them than the workspace keeps packed: the last slot is used again and again. */
static void little_workspace(void **state)
{
    (void)state;
    sq_private = 40000;
    check_attention((int64_t[]){2, 300, 2, 1, 24}, 1);
    check_attention((int64_t[]){1, 80, 2, 2, 150}, 1);
    sq_private = SQ_PRIVATE;
    for (int64_t ranges = 0; ranges < 4; ranges++) { /* partial sums of no pair, of one, and of two of five at a time */
        sq_partials = 300 * 24 * ranges;
        check_attention((int64_t[]){5, 300, 2, 1, 24}, 1);
    }
    sq_partials = 300 * 24 * 3 * 2;
    check_attention((int64_t[]){5, 300, 2, 1, 24}, 1);
    sq_partials = SQ_PANELS;
}

/* Scores of several hundred: nothing overflows, the largest wins. */
static void large_scores_are_finite(void **state)
{
    (void)state;
    enum { T = 70, D = 16 };
    float q[T * D], k[T * D], v[T * D], out[T * D], lse[T];
    for (int i = 0; i < T * D; i++) {
        q[i] = 30 * (float)sq_rng_normal(&check_rng);
        k[i] = 30 * (float)sq_rng_normal(&check_rng);
        v[i] = (float)sq_rng_normal(&check_rng);
    }
    EACH_LEVEL(level) {
        level_ops(level)->attention(out, lse, q, k, v, 1, T, 1, 1, D);
        for (int i = 0; i < T * D; i++)
            assert_true(isfinite(out[i]) && fabsf(out[i]) < 10);
        for (int c = 0; c < D; c++)
            assert_true(out[c] == v[c]); /* the first token sees itself only */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shape),
        cmocka_unit_test(longer_than_a_chunk),
        cmocka_unit_test(little_workspace),
        cmocka_unit_test(large_scores_are_finite),
    };
    check_rng = sq_rng_init(7, SQ_RNG_TEST, 0, 0, 0, 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
