/* How an operation of a device is compared with the reference. Private to op. */
#ifndef SQ_DEVICE_CHECK_H
#define SQ_DEVICE_CHECK_H

#include <math.h>

#include "sq/device.h"

/* Limits of the NMSE are multiples of U^2, U the unit roundoff of f32. The reference sums in double and rounds once:
 * U^2 / 3 of that is its own. */
#define CHECK_U2     (1.0 / (1 << 24) / (1 << 24))
#define CHECK_BITS   0.0            /* the reference's bits */
#define CHECK_FEW    (8 * CHECK_U2) /* one to three roundings of a term and of the result */
#define CHECK_DOUBLE 1e-24          /* sums in double of another order, stored as double */

/* A sum of k terms of both signs in f32, in any order: the partial sums grow like sqrt(i), so the variance of the error
 * is at most U^2 k^2 / 2 beside k of the result; some more for the terms' rounding. */
static inline double check_sum_limit(int64_t k)
{
    return CHECK_U2 * (double)(k + 8);
}

/* n results of this limit, rounded to bf16 by both sides. Values that are e = sqrt(limit) apart have the end of a rounding
 * between them in 2^8 e of the cases, as a unit is 2^-8 of a value or more, and are then a unit apart, 2^-7 at most: e 2^-6.
 * Of few values one is allowed to be, even one of four times the others. Cutting, with half of all a unit apart, has more:
 * 2^-17 at least. */
static inline double check_bf16_limit(double limit, int64_t n)
{
    const double unit = 1.0 / (1 << 14);
    return limit + sqrt(limit) / (1 << 6) + unit * 16 / (double)SQ_MAX(n, 16);
}

enum { CHECK_ARGS = 17, CHECK_DIMS = 10 };

/* A scratch is the reference's own: the device does not see it. */
enum check_role { CHECK_IN, CHECK_OUT, CHECK_SCRATCH };

/* One array of an operation. */
struct check_arg {
    enum check_role role;
    enum sq_dtype type;
    int64_t n, rows, cols, ld; /* n elements, of which rows of cols, ld apart, are about normal before a run */
    double limit;              /* of an output: of its NMSE */
    void *init, *want, *got, *first;
    char *device; /* with guards on both sides */
};

struct check_call {
    const int64_t *z; /* the shape */
    struct check_arg arg[CHECK_ARGS];
    int nargs;
};

struct check_op {
    const char *name, *dims; /* dims: names of z */
    void (*args)(struct check_call *c);
    void (*values)(void *const *p, const int64_t *z); /* NULL, or changes what the arrays hold before a run */
    void (*ref)(void *const *p, const int64_t *z);
    void (*dev)(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z);
    const int64_t (*shape)[CHECK_DIMS];
    int64_t shapes;
    int64_t large[CHECK_DIMS];
    double (*flops)(const int64_t *z); /* NULL: bound by bytes */
};

/* Large shapes are a layer of Llama-2-7B with 3 samples of 2048 tokens, or a part of it. */
struct check_table {
    const struct check_op *op;
    int64_t n;
};
extern const struct check_table check_layer, check_weights, check_step, check_experts;

/* For the rows of a table: argument k, the reference. */
#define F(k)      ((float *)p[k])
#define CF(k)     ((const float *)p[k])
#define D(k)      ((double *)p[k])
#define SHAPES(x) .shape = x, .shapes = SQ_COUNT(x)

static inline const struct sq_ops *check_reference(void)
{
    const struct sq_ops *ops;
    SQ_ASSERT(sq_ops_get(&ops, SQ_BACKEND_REF, SQ_F32_PRODUCTS) == 0);
    return ops;
}

/* Arguments in the order of p. Floats of an input are about normal, integers 0, an output is untouched (NaN) unless
 * `filled`. */
void check_in(struct check_call *c, enum sq_dtype type, int64_t n);
void check_out(struct check_call *c, enum sq_dtype type, int64_t n, double limit);
void check_filled(struct check_call *c, enum sq_dtype type, int64_t n, double limit);
void check_scratch(struct check_call *c, int64_t n); /* f32 */
/* rows of n values, ld apart; what is between stays untouched */
void check_in_rows(struct check_call *c, int64_t rows, int64_t n, int64_t ld);
void check_filled_rows(struct check_call *c, int64_t rows, int64_t n, int64_t ld, double limit);

#endif
