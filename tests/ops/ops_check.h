/* Compare an operation of the CPU backend with the reference: every level, 1, 2 and 4 threads, guarded buffers. */
#ifndef OPS_CHECK_H
#define OPS_CHECK_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <omp.h>

#include "levels.h"
#include "sq/op.h"
#include "sq/rng.h"
#include "sq/tensor.h"

/* Unit roundoff of f32; limits are multiples of its square. */
#define U (1.0 / (1 << 24))

enum { GUARD = 16, BUFS = 12 };

/* One argument of an operation: `cur` is what it sees, `init` what it is before each run; nothing may be written
 * outside of cur[0..n). Elements that the reference leaves alone must be left alone. */
struct buf {
    int64_t n;
    double limit; /* of the NMSE; 0: an input, which must not change */
    float *init, *cur, *want;
};

static struct sq_rng check_rng;

static float untouched(void)
{
    const uint32_t bits = 0x7fc5a5a5; /* a NaN, so that reading it shows */
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static void buf_new(struct buf *b, int64_t n, double limit)
{
    *b = (struct buf){.n = n, .limit = limit};
    b->init = malloc((size_t)n * sizeof(float) + 1);
    b->want = malloc((size_t)n * sizeof(float) + 1);
    b->cur = (float *)malloc((size_t)(n + 2 * GUARD) * sizeof(float)) + GUARD;
    for (int64_t i = 0; i < n; i++)
        b->init[i] = untouched();
}

static inline void buf_normal(struct buf *b)
{
    for (int64_t i = 0; i < b->n; i++)
        b->init[i] = (float)sq_rng_normal(&check_rng);
}

/* rows of n values, ld apart; what is between stays NaN */
static inline void buf_normal_rows(struct buf *b, int64_t rows, int64_t n, int64_t ld)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < n; j++)
            b->init[i * ld + j] = (float)sq_rng_normal(&check_rng);
}

static inline int64_t rows_size(int64_t rows, int64_t n, int64_t ld)
{
    return rows > 0 ? (rows - 1) * ld + n : 0;
}

static void buf_reset(struct buf *b)
{
    for (int64_t i = 0; i < GUARD; i++)
        b->cur[-1 - i] = b->cur[b->n + i] = untouched();
    memcpy(b->cur, b->init, (size_t)b->n * sizeof(float));
}

static bool same_bits(const float *a, const float *b, int64_t n)
{
    return memcmp(a, b, (size_t)n * sizeof(float)) == 0;
}

static void buf_guarded(const struct buf *b, const char *what, int which)
{
    const float nan = untouched();
    for (int64_t i = 0; i < GUARD; i++)
        if (!same_bits(&b->cur[-1 - i], &nan, 1) || !same_bits(&b->cur[b->n + i], &nan, 1))
            fail_msg("%s: wrote outside of argument %d", what, which);
    if (b->limit == 0 && !same_bits(b->cur, b->init, b->n))
        fail_msg("%s: changed input %d", what, which);
}

static void buf_free(struct buf *b)
{
    free(b->init);
    free(b->want);
    free(b->cur - GUARD);
}

/* NMSE against want; elements that the reference did not touch are compared bit by bit. */
static double buf_error(const struct buf *b, const char *what, int which)
{
    const float nan = untouched();
    double err = 0, norm = 0;
    for (int64_t i = 0; i < b->n; i++) {
        if (same_bits(&b->want[i], &nan, 1)) {
            if (!same_bits(&b->cur[i], &nan, 1))
                fail_msg("%s: wrote to a gap of argument %d at %lld", what, which, (long long)i);
            continue;
        }
        const double d = (double)b->cur[i] - (double)b->want[i];
        err += d * d;
        norm += (double)b->want[i] * (double)b->want[i];
    }
    return err == 0 ? 0 : err / norm;
}

typedef void run_fn(const struct sq_ops *ops, struct buf *b, const int64_t *z);

static const struct sq_ops *reference_ops(void)
{
    const struct sq_ops *ops;
    assert_int_equal(sq_ops_get(&ops, SQ_BACKEND_REF, SQ_F32_PRODUCTS), 0);
    return ops;
}

/* The CPU table at a level; -1: the reference. */
static const struct sq_ops *level_ops(int level)
{
    static struct sq_ops ops;
    if (level < 0)
        return reference_ops();
    level_set(level);
    ops = *reference_ops();
    sq_cpu_fill(&ops);
    return &ops;
}

static void run_guarded(const char *what, const struct sq_ops *ops, struct buf *b, int nb, run_fn *run,
                        const int64_t *z)
{
    for (int i = 0; i < nb; i++)
        buf_reset(&b[i]);
    run(ops, b, z);
    for (int i = 0; i < nb; i++)
        buf_guarded(&b[i], what, i);
}

static void check_level(const char *op, const struct sq_ops *ops, struct buf *b, int nb, run_fn *run, const int64_t *z)
{
    char what[240];
    float *one[BUFS];
    snprintf(what, sizeof what, "%s %lld %lld %lld %lld %lld on %.63s", op, (long long)z[0], (long long)z[1],
             (long long)z[2], (long long)z[3], (long long)z[4], ops->isa);
    omp_set_num_threads(1);
    run_guarded(what, ops, b, nb, run, z);
    for (int i = 0; i < nb; i++) {
        const double error = buf_error(&b[i], what, i);
        if (getenv("OPS_VERBOSE") && b[i].limit > 0)
            printf("%s: argument %d: nmse %.2g of %.2g\n", what, i, error, b[i].limit);
        if (b[i].limit > 0 && !(error <= b[i].limit))
            fail_msg("%s: argument %d: nmse %g, limit %g", what, i, error, b[i].limit);
        one[i] = malloc((size_t)b[i].n * sizeof(float) + 1);
        memcpy(one[i], b[i].cur, (size_t)b[i].n * sizeof(float));
    }
    for (int threads = 2; threads <= 4; threads *= 2) {
        omp_set_num_threads(threads);
        run_guarded(what, ops, b, nb, run, z);
        for (int i = 0; i < nb; i++)
            if (!same_bits(one[i], b[i].cur, b[i].n))
                fail_msg("%s: argument %d differs between 1 and %d threads", what, i, threads);
    }
    for (int i = 0; i < nb; i++)
        free(one[i]);
}

/* z has 5 or more numbers, the first of which are printed. Frees the buffers. */
static void check_op(const char *op, struct buf *b, int nb, run_fn *run, const int64_t *z)
{
    run_guarded(op, reference_ops(), b, nb, run, z);
    for (int i = 0; i < nb; i++)
        memcpy(b[i].want, b[i].cur, (size_t)b[i].n * sizeof(float));
    EACH_LEVEL(level)
        check_level(op, level_ops(level), b, nb, run, z);
    for (int i = 0; i < nb; i++)
        buf_free(&b[i]);
}

#endif
