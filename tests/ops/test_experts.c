/* Layers with experts: routing as written down by hand, and the CPU backend's bits, which are the reference's. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <omp.h>

#include "sq/op.h"
#include "sq/rng.h"

enum { TOKENS = 700, EXPERTS = 97, TOP = 5, SLOTS = TOKENS * TOP, WIDE = 129 };

static const struct sq_ops *backend(enum sq_backend b)
{
    const struct sq_ops *ops;
    assert_int_equal(sq_ops_get(&ops, b, SQ_F32_PRODUCTS), 0);
    return ops;
}

/* ---- what is meant ---- */

static void choices(void **state)
{
    (void)state;
    float prob[] = {0.1f, 0.4f, 0.1f, 0.4f, /* two equal ones */
                    0.3f, 0.2f, 0.2f, 0.3f, /* of those behind them the lower */
                    0.0f, 0.0f, 0.0f, 1.0f,
                    NAN,  0.0f, NAN,  0.5f, /* NaN is no probability */
                    NAN,  NAN,  NAN,  NAN};
    const int32_t want[2][15] = {{1, 3, 0, 3, 0, 3, 1, 3, 0, 1}, {0, 1, 3, 0, 1, 3, 0, 1, 3, 0, 1, 3, 0, 1, 2}};
    int32_t chosen[15];
    for (int64_t top = 2; top < 4; top++) {
        const struct sq_routing r = {.tokens = 5, .experts = 4, .top = top, .prob = prob, .chosen = chosen};
        backend(SQ_BACKEND_REF)->choose(&r);
        for (int64_t i = 0; i < 5 * top; i++)
            assert_int_equal(chosen[i], want[top - 2][i]);
    }
}

/* Three tokens, four experts, two of them each. */
static void slots(void **state)
{
    (void)state;
    float prob[] = {0.5f, 0.25f, 0.125f, 0.125f, 0.25f, 0.125f, 0.5f, 0.125f, 0.375f, 0.5f, 0.125f, 0.0f}, share[6];
    const float whole[] = {0.5f, 0.25f, 0.375f, 0.25f, 0.5f, 0.5f};
    const float parts[] = {0.5f / 0.75f, 0.25f / 0.75f, 0.375f / 0.875f, 0.25f / 0.75f, 0.5f / 0.875f, 0.5f / 0.75f};
    const int64_t token[] = {0, 1, 2, 0, 2, 1}, slot[] = {0, 3, 1, 5, 2, 4}, begin[] = {0, 3, 5, 6, 6};
    int32_t chosen[6];
    int64_t got_slot[6], got_token[6], got_begin[5];
    for (int renorm = 0; renorm < 2; renorm++) {
        const struct sq_routing r = {3, 4, 2, renorm, prob, chosen, got_slot, got_token, got_begin, share};
        backend(SQ_BACKEND_REF)->choose(&r);
        backend(SQ_BACKEND_REF)->assign(&r);
        assert_memory_equal(got_slot, slot, sizeof slot);
        assert_memory_equal(got_token, token, sizeof token);
        assert_memory_equal(got_begin, begin, sizeof begin);
        assert_memory_equal(share, renorm ? parts : whole, sizeof whole);
    }
}

/* ---- the same bits ---- */

/* Every operation on one case: large enough for threads, and not a multiple of their pieces. */
struct results {
    float prob[TOKENS * EXPERTS], dlogit[TOKENS * EXPERTS], share[SLOTS], at_slots[SLOTS * WIDE], rows[TOKENS * WIDE],
        summed[TOKENS * WIDE], scaled[SLOTS * WIDE];
    double dot[SLOTS];
    int32_t chosen[SLOTS];
    int64_t slot[SLOTS], token[SLOTS], begin[EXPERTS + 1];
};

static void normal(float *x, int64_t n, uint64_t what)
{
    struct sq_rng r = sq_rng_init(11, SQ_RNG_TEST, what, 0, 0, 0);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)sq_rng_normal(&r);
}

static struct results *results_of(const struct sq_ops *ops, bool renorm)
{
    struct results *to = calloc(1, sizeof *to);
    float *x = malloc(TOKENS * WIDE * sizeof *x);
    const struct sq_routing r = {TOKENS,   EXPERTS,   TOP,       renorm,   to->prob, to->chosen,
                                 to->slot, to->token, to->begin, to->share};
    normal(to->prob, TOKENS * EXPERTS, 0);
    normal(x, TOKENS * WIDE, 1);
    normal(to->summed, TOKENS * WIDE, 2);
    ops->softmax(to->prob, TOKENS, EXPERTS);
    ops->choose(&r);
    ops->assign(&r);
    ops->gather(to->at_slots, x, to->token, SLOTS, WIDE);
    memcpy(to->scaled, to->at_slots, sizeof to->scaled);
    ops->scale_rows(to->scaled, to->share, SLOTS, WIDE);
    ops->row_dots(to->dot, to->at_slots, to->scaled, SLOTS, WIDE);
    ops->route_grad(to->dlogit, to->dot, &r);
    ops->scatter(to->rows, false, to->at_slots, NULL, to->slot, TOKENS, TOP, WIDE);
    ops->scatter(to->summed, true, to->at_slots, to->share, to->slot, TOKENS, TOP, WIDE);
    free(x);
    return to;
}

/* What scatter sums is what gather spread: a token's row once for each of its slots. */
static void expect_sums(const struct results *got)
{
    double sum = 0;
    for (int64_t i = 0; i < TOKENS; i++) {
        const float *row = got->at_slots + got->slot[i * TOP] * WIDE;
        float all = 0;
        for (int k = 0; k < TOP; k++)
            all += row[7];
        assert_true(got->rows[i * WIDE + 7] == all);
    }
    for (int64_t s = 0; s < SLOTS; s++)
        sum += (double)got->share[s];
    assert_true(fabs(sum - TOKENS) < 1e-3);
}

static void processors_bits(void **state)
{
    (void)state;
    const int before = omp_get_max_threads();
    for (int renorm = 0; renorm < 2; renorm++) {
        struct results *want = results_of(backend(SQ_BACKEND_REF), renorm);
        if (renorm)
            expect_sums(want);
        for (int threads = 1; threads <= 4; threads *= 2) {
            omp_set_num_threads(threads);
            struct results *got = results_of(backend(SQ_BACKEND_CPU), renorm);
            assert_memory_equal(got, want, sizeof *got);
            free(got);
        }
        free(want);
    }
    omp_set_num_threads(before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(choices),
        cmocka_unit_test(slots),
        cmocka_unit_test(processors_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
