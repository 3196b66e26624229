/* Gradients of the reference against central differences: its sources compiled once more, with double for float. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "sq/rng.h"
#include "sq/tensor.h"

#ifdef __clang__
#pragma clang diagnostic ignored "-Wkeyword-macro"
#endif
#define float double
#define sq_gemm_ref gemm64
#define sq_rmsnorm_ref rmsnorm64
#define sq_rmsnorm_grad_ref rmsnorm_grad64
#define sq_rope_ref rope64
#define sq_swiglu_ref swiglu64
#define sq_swiglu_grad_ref swiglu_grad64
#define sq_attention_ref attention64
#define sq_attention_grad_ref attention_grad64
#define sq_add_ref add64
#define sq_bias_ref bias64
#define sq_bias_grad_ref bias_grad64
#define sq_adamw_ref adamw64
#define sq_softmax_ref softmax64
#define sq_choose_ref choose64
#define sq_assign_ref assign64
#define sq_route_grad_ref route_grad64
#define sq_gather_ref gather64
#define sq_scatter_ref scatter64
#define sq_scale_rows_ref scale_rows64
#define sq_row_dots_ref row_dots64
#include "../../libsq/op/ref/attention_ref.c"
#include "../../libsq/op/ref/elem_ref.c"
#include "../../libsq/op/ref/experts_ref.c"
#include "../../libsq/op/ref/norm_ref.c"
#undef float

/* Error of a central difference with step h = 1e-4: h^2 f'''/6, about 2e-9 for the functions here (f''' of order 1),
 * and 1e-16 / h = 1e-12 of rounding. NMSE is the square: 1e-14 leaves room for a factor of 50. */
#define STEP 1e-4
#define LIMIT 1e-14

enum { MAX = 4096 };

static struct sq_rng rng;

static void fill(double *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = sq_rng_normal(&rng);
}

static double dot64(const double *a, const double *b, int64_t n)
{
    double s = 0;
    for (int64_t i = 0; i < n; i++)
        s += a[i] * b[i];
    return s;
}

/* The scalar whose gradient is taken: sum of w * output. */
typedef double loss_fn(const void *arg);

static void expect_gradient(const char *what, const double *grad, double *x, int64_t n, loss_fn *loss, const void *arg)
{
    double err = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        const double keep = x[i];
        x[i] = keep + STEP;
        const double up = loss(arg);
        x[i] = keep - STEP;
        const double down = loss(arg);
        x[i] = keep;
        const double d = (up - down) / (2 * STEP) - grad[i];
        err += d * d;
        norm += grad[i] * grad[i];
    }
    if (!(err <= LIMIT * norm) || !(norm > 0))
        fail_msg("%s: nmse %g", what, err / norm);
}

struct norm_case {
    int64_t rows, n;
    double x[MAX], gain[MAX], w[MAX], y[MAX], rrms[MAX];
};

static double norm_loss(const void *arg)
{
    struct norm_case *c = (struct norm_case *)(uintptr_t)arg;
    rmsnorm64(c->y, c->n, c->rrms, c->x, c->n, c->gain, 1e-5, c->rows, c->n);
    return dot64(c->y, c->w, c->rows * c->n);
}

static void rmsnorm_gradient(void **state)
{
    (void)state;
    static struct norm_case c;
    static double dx[MAX], twice[MAX], dgain[MAX];
    const int64_t sizes[][2] = {{1, 1}, {1, 7}, {3, 16}, {5, 33}};
    for (int64_t s = 0; s < SQ_COUNT(sizes); s++) {
        const int64_t rows = sizes[s][0], n = sizes[s][1];
        c.rows = rows;
        c.n = n;
        fill(c.x, rows * n);
        fill(c.gain, n);
        fill(c.w, rows * n);
        norm_loss(&c);
        memset(dgain, 0, sizeof dgain);
        rmsnorm_grad64(dx, n, false, dgain, c.w, n, c.x, n, c.rrms, c.gain, rows, n);
        memcpy(twice, dx, sizeof dx);
        rmsnorm_grad64(twice, n, true, c.y, c.w, n, c.x, n, c.rrms, c.gain, rows, n);
        for (int64_t i = 0; i < rows * n; i++)
            assert_true(fabs(twice[i] - 2 * dx[i]) <= 1e-12 * fabs(dx[i]));
        if (n > 1) /* one channel: the output is gain times a sign, up to eps */
            expect_gradient("rmsnorm x", dx, c.x, rows * n, norm_loss, &c);
        expect_gradient("rmsnorm gain", dgain, c.gain, n, norm_loss, &c);
    }
}

struct rope_case {
    int64_t rows, tokens, heads, dim;
    double x[MAX], cos[MAX], sin[MAX], w[MAX];
};

static double rope_loss(const void *arg)
{
    const struct rope_case *c = arg;
    double y[MAX];
    rope64(y, c->x, c->cos, c->sin, c->rows, c->tokens, c->heads, c->dim, false);
    return dot64(y, c->w, c->rows * c->heads * c->dim);
}

static void rope_gradient_is_its_inverse(void **state)
{
    (void)state;
    static struct rope_case c = {.rows = 6, .tokens = 3, .heads = 2, .dim = 10};
    static double dx[MAX];
    const int64_t n = c.rows * c.heads * c.dim;
    fill(c.x, n);
    fill(c.w, n);
    for (int64_t i = 0; i < c.tokens * c.dim / 2; i++) {
        const double angle = sq_rng_uniform(&rng) * 7;
        c.cos[i] = cos(angle);
        c.sin[i] = sin(angle);
    }
    rope64(dx, c.w, c.cos, c.sin, c.rows, c.tokens, c.heads, c.dim, true);
    expect_gradient("rope", dx, c.x, n, rope_loss, &c);
    rope64(dx, c.x, c.cos, c.sin, c.rows, c.tokens, c.heads, c.dim, false);
    rope64(dx, dx, c.cos, c.sin, c.rows, c.tokens, c.heads, c.dim, true);
    for (int64_t i = 0; i < n; i++)
        assert_true(fabs(dx[i] - c.x[i]) < 1e-14 * 10);
}

struct swiglu_case {
    int64_t n;
    double gate[MAX], up[MAX], w[MAX];
};

static double swiglu_loss(const void *arg)
{
    const struct swiglu_case *c = arg;
    double y[MAX];
    swiglu64(y, c->gate, c->up, c->n);
    return dot64(y, c->w, c->n);
}

static void swiglu_gradient(void **state)
{
    (void)state;
    static struct swiglu_case c = {.n = 100};
    static double dgate[MAX], dup[MAX];
    fill(c.gate, c.n);
    fill(c.up, c.n);
    fill(c.w, c.n);
    c.gate[0] = 0;
    c.gate[1] = -30;
    c.gate[2] = 30;
    swiglu_grad64(dgate, dup, NULL, c.w, c.gate, c.up, c.n);
    expect_gradient("swiglu gate", dgate, c.gate, c.n, swiglu_loss, &c);
    expect_gradient("swiglu up", dup, c.up, c.n, swiglu_loss, &c);
}

struct attention_case {
    int64_t batch, tokens, heads, kv, dim;
    double q[MAX], k[MAX], v[MAX], w[MAX], out[MAX], lse[MAX];
};

static double attention_loss(const void *arg)
{
    struct attention_case *c = (struct attention_case *)(uintptr_t)arg;
    attention64(c->out, c->lse, c->q, c->k, c->v, c->batch, c->tokens, c->heads, c->kv, c->dim);
    return dot64(c->out, c->w, c->batch * c->tokens * c->heads * c->dim);
}

static void attention_gradient(void **state)
{
    (void)state;
    static struct attention_case c;
    static double dq[MAX], dk[MAX], dv[MAX];
    const int64_t sizes[][5] = {{1, 2, 1, 1, 2}, {2, 5, 4, 2, 6}, {1, 9, 3, 1, 4}, {1, 3, 1, 1, 70}};
    for (int64_t s = 0; s < SQ_COUNT(sizes); s++) {
        const int64_t *z = sizes[s];
        c.batch = z[0], c.tokens = z[1], c.heads = z[2], c.kv = z[3], c.dim = z[4];
        const int64_t nq = z[0] * z[1] * z[2] * z[4], nk = z[0] * z[1] * z[3] * z[4];
        fill(c.q, nq);
        fill(c.k, nk);
        fill(c.v, nk);
        fill(c.w, nq);
        attention_loss(&c);
        attention_grad64(dq, dk, dv, c.w, c.out, c.lse, c.q, c.k, c.v, z[0], z[1], z[2], z[3], z[4]);
        expect_gradient("attention q", dq, c.q, nq, attention_loss, &c);
        expect_gradient("attention k", dk, c.k, nk, attention_loss, &c);
        expect_gradient("attention v", dv, c.v, nk, attention_loss, &c);
    }
}

static void bias_gradient(void **state)
{
    (void)state;
    double dy[12], dbias[3] = {1, 2, 3};
    fill(dy, 12);
    bias_grad64(dbias, dy, 4, 3);
    for (int i = 0; i < 3; i++)
        assert_true(fabs(dbias[i] - (i + 1 + dy[i] + dy[3 + i] + dy[6 + i] + dy[9 + i])) < 1e-14);
}

struct routing_case {
    struct sq_routing r;
    double x[MAX], prob[MAX], share[MAX], w[MAX];
    int32_t chosen[MAX];
    int64_t slot[MAX], token[MAX], begin[MAX];
};

static double routing_loss(const void *arg)
{
    struct routing_case *c = (struct routing_case *)(uintptr_t)arg;
    memcpy(c->prob, c->x, sizeof c->prob);
    softmax64(c->prob, c->r.tokens, c->r.experts);
    choose64(&c->r);
    assign64(&c->r);
    return dot64(c->share, c->w, c->r.tokens * c->r.top);
}

/* No step of the differences changes a choice: the experts of a token are far enough apart. */
static void routing_gradient(void **state)
{
    (void)state;
    static struct routing_case c;
    static double dlogit[MAX];
    for (int renorm = 0; renorm < 2; renorm++)
        for (int64_t top = 2; top < 8; top += 5) { /* 7: all of them */
            c.r = (struct sq_routing){9, 7, top, renorm, c.prob, c.chosen, c.slot, c.token, c.begin, c.share};
            fill(c.x, 63);
            fill(c.w, 9 * top);
            routing_loss(&c);
            route_grad64(dlogit, c.w, &c.r);
            expect_gradient("router", dlogit, c.x, 63, routing_loss, &c);
        }
}

/* With a constant gradient g every bias-corrected step is lr * sign(g) (eps aside), whatever the step number. */
static void adamw_steps_have_the_length_of_the_rate(void **state)
{
    (void)state;
    double x[3] = {1, -2, 5}, m[3] = {0}, v[3] = {0};
    const double g[3] = {0.3, -40, 1e-3}, x0[3] = {1, -2, 5};
    for (int64_t step = 1; step <= 20; step++)
        adamw64(x, m, v, g, 3, step, 0.01);
    for (int i = 0; i < 3; i++)
        assert_true(fabs(x0[i] - x[i] - 20 * 0.01 * (g[i] > 0 ? 1 : -1)) < 1e-5);
}

static void a_wrong_gradient_is_noticed(void **state)
{
    (void)state;
    static struct swiglu_case c = {.n = 10};
    static double dgate[MAX], dup[MAX];
    fill(c.gate, c.n);
    fill(c.up, c.n);
    fill(c.w, c.n);
    swiglu_grad64(dgate, dup, NULL, c.w, c.gate, c.up, c.n);
    dgate[3] *= 1 + 1e-5;
    double err = 0, norm = 0;
    for (int i = 0; i < c.n; i++) {
        const double keep = c.gate[i];
        c.gate[i] = keep + STEP;
        const double up = swiglu_loss(&c);
        c.gate[i] = keep - STEP;
        const double d = (up - swiglu_loss(&c)) / (2 * STEP) - dgate[i];
        c.gate[i] = keep;
        err += d * d;
        norm += dgate[i] * dgate[i];
    }
    assert_true(err > LIMIT * norm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rmsnorm_gradient),  cmocka_unit_test(rope_gradient_is_its_inverse),
        cmocka_unit_test(swiglu_gradient),   cmocka_unit_test(attention_gradient),
        cmocka_unit_test(bias_gradient),     cmocka_unit_test(adamw_steps_have_the_length_of_the_rate),
        cmocka_unit_test(routing_gradient),  cmocka_unit_test(a_wrong_gradient_is_noticed),
    };
    rng = sq_rng_init(11, SQ_RNG_TEST, 0, 0, 0, 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
