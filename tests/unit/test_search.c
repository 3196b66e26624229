/* The clip search against brute force over factor pairs, with the row quantizer itself as the judge. */
#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "../../libsq/op/cpu/rowquant_cpu.h"
#include "sq/params.h"
#include "sq/rng.h"

static const struct sq_config cfg = {.hidden = 96,
                                     .heads = 2,
                                     .kv_heads = 1,
                                     .head_dim = 20,
                                     .ffn = 130,
                                     .layers = 1,
                                     .vocab = 8,
                                     .eps = 1e-6,
                                     .rope_theta = 1e4};

/* rows of every kind: normal, heavy tail, one-sided, zeros, constant, one outlier */
static void fill_block(struct sq_block *w)
{
    struct sq_rng r = sq_rng_init(11, SQ_RNG_TEST, 0, 0, 0, 0);
    for (int64_t k = 0; k < w->nlinear; k++) {
        int64_t rows, cols;
        sq_linear_shape(&rows, &cols, &cfg, k);
        for (int64_t i = 0; i < rows * cols; i++) {
            const double x = sq_rng_normal(&r);
            const int64_t row = i / cols;
            ((float *)w->w[k])[i] = (float)(row % 7 == 1                    ? x * x * x
                                 : row % 7 == 2                  ? fabs(x)
                                 : row % 7 == 3                  ? 0
                                 : row % 7 == 4                  ? -0.25
                                 : row % 7 == 5 && i % cols == 3 ? 40
                                                                 : x);
        }
    }
}

static double error_of(const float *z, const float *weight, const struct sq_rowq *p, float u, float l,
                       int64_t n)
{
    float *y = malloc((size_t)n * 4);
    double sum = 0;
    sq_rowquant_ref(y, z, p, &u, &l, 1, n);
    for (int64_t j = 0; j < n; j++)
        sum += pow((double)z[j] - (double)y[j], 2) * (weight ? (double)weight[j] : 1);
    free(y);
    return sum;
}

static double brute(const float *z, const float *weight, const struct sq_rowq *p, int64_t n)
{
    double best = INFINITY;
    for (int a = 1; a <= 40; a++)
        for (int b = 1; b <= 40; b++) {
            const float u = a == 40 ? 8 : logf((float)a / (float)(40 - a)),
                        l = b == 40 ? 8 : logf((float)b / (float)(40 - b));
            if (!p->sym || a == b)
                best = fmin(best, error_of(z, weight, p, u, l, n));
        }
    return best;
}

static const struct sq_ops *backend(int which)
{
    static struct sq_ops with[2];
    const struct sq_ops *ops = NULL;
    assert_int_equal(sq_ops_get(&ops, SQ_BACKEND_REF, SQ_F32_PRODUCTS), 0);
    with[which] = *ops;
    if (which)
        with[1].rowquant_search = sq_rowquant_search_cpu;
    return &with[which];
}

static void check(const struct sq_scheme *s, bool weighted)
{
    const struct sq_params_spec spec = {.clip = true, .clip_start = 4};
    struct sq_block w;
    struct sq_params p, again;
    double second[256];
    struct sq_input_stats stats = {.qkv = second, .out = second, .fc1 = second, .fc2 = second, .tokens = 10};
    const struct sq_rowq q = sq_scheme_weights(s);
    struct sq_rng r = sq_rng_init(12, SQ_RNG_TEST, 0, 0, 0, 0);
    for (int64_t j = 0; j < SQ_COUNT(second); j++)
        second[j] = exp(3 * sq_rng_normal(&r));
    assert_int_equal(sq_block_new(&w, &cfg, SQ_F32), 0);
    fill_block(&w);
    assert_int_equal(sq_params_new(&p, &cfg, s, &spec, 0), 0);
    assert_int_equal(sq_params_new(&again, &cfg, s, &spec, 0), 0);
    omp_set_num_threads(1);
    assert_int_equal(sq_params_search(&p, backend(0), &w, s, weighted ? &stats : NULL), 0);
    omp_set_num_threads(4);
    assert_int_equal(sq_params_search(&again, backend(1), &w, s, weighted ? &stats : NULL), 0);
    for (int64_t i = 0; i < p.nparam; i++)
        assert_memory_equal(p.param[i].x, again.param[i].x, (size_t)p.param[i].n * 4);
    double found = 0, best = 0;
    for (int64_t k = 0; k < w.nlinear; k += 3) {
        int64_t rows, cols;
        sq_linear_shape(&rows, &cols, &cfg, k);
        const int64_t groups = sq_rowq_groups(&q, cols);
        float weight[256];
        for (int64_t j = 0; j < cols; j++)
            weight[j] = (float)second[j];
        for (int64_t i = 0; i < SQ_MIN(rows, 21) * groups; i++) {
            const int64_t first = q.group ? i % groups * q.group : 0,
                          n = q.group ? SQ_MIN(q.group, cols - first) : cols;
            const struct sq_rowq one = {.bits = q.bits, .sym = q.sym, .zero = q.zero, .rate = 1};
            const float *z = (const float *)w.w[k] + i / groups * cols + first, *wt = weighted ? weight + first : NULL;
            const float u = p.u[k]->x[i], l = p.l[k]->x[i];
            const double e = error_of(z, wt, &one, u, l, n);
            assert_true(u <= 8 && l <= 8);
            assert_true(e <= error_of(z, wt, &one, 8, 8, n) * (1 + 1e-5));
            if (q.sym)
                assert_true(u == l);
            if (i / groups % 7 == 3)
                assert_true(u == 8 && l == 8 && e == 0);
            if (i / groups % 7 == 2 && !q.sym)
                assert_true(l == 8); /* all positive: the lower side has no effect */
            found += e;
            best += brute(z, wt, &one, n);
        }
    }
    print_message("W%d g%d sym %d weighted %d: error %.4f of brute force over 40 x 40\n", s->wbits,
                  (int)s->group, s->sym, weighted, found / best);
    assert_true(found <=
                (s->wbits == 1 ? 1.08 : 1.03) *
                    best); /* the descent may end in a neighbouring dip; the sum over rows shows it */
    sq_params_release(&again), sq_params_release(&p), sq_block_release(&w);
}

static void test_search(void **state)
{
    (void)state;
    for (int bits = 1; bits <= 4; bits++)
        for (int k = 0; k < 8; k++) {
            const struct sq_scheme s = {
                .wbits = bits, .abits = 16, .group = k & 1 ? 32 : 0, .sym = k & 2, .rate = 1};
            if (bits > 1 || !s.sym)
                check(&s, k & 4);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_search)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
