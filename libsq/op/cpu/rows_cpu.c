/* Norms, element-wise operations and losses: threads over fixed pieces, each piece by the kernels of one thread. */
#include "cpu.h"

#include <math.h>

#include "../ref/ref.h"

/* Elements of a piece, and from how many on threads are worth waking. */
enum { PIECE = 4096, LARGE = 16 * PIECE };

/* Threads run body for the pieces [i, i + c) of n; `work` is the number of elements touched. */
#define PIECES(n, step, work, body)                                             \
    do {                                                                        \
        const int64_t n_ = (n), step_ = (step);                                 \
        const int threads_ = (work) >= LARGE ? sq_cpu_threads() : 1;            \
        _Pragma("omp parallel for schedule(static) num_threads(threads_)")      \
        for (int64_t i = 0; i < n_; i += step_) {                               \
            const int64_t c = SQ_MIN(step_, n_ - i);                            \
            body;                                                               \
        }                                                                       \
    } while (0)

static int64_t rows_of_piece(int64_t n)
{
    return SQ_MAX(PIECE / SQ_MAX(n, 1), 1);
}

static void rmsnorm(struct sq_floats out, int64_t ldy, float *rrms, const float *x, int64_t ldx, const float *gain,
                    double eps, int64_t rows, int64_t n)
{
    float *y = sq_f32_of(out);
    PIECES(rows, rows_of_piece(n), rows * n, sq_vec->rmsnorm(y + i * ldy, ldy, rrms + i, x + i * ldx, ldx, gain, eps, c, n));
}

static void rmsnorm_grad(float *dx, int64_t lddx, bool add, float *dgain, const float *dy, int64_t lddy, const float *x,
                         int64_t ldx, const float *rrms, const float *gain, int64_t rows, int64_t n)
{
    if (dgain) /* first, as dx may be dy */
        PIECES(n, SQ_STRIP, rows * n, sq_vec->column_sums(dgain + i, dy + i, lddy, x + i, ldx, rrms, rows, c));
    PIECES(rows, rows_of_piece(n), rows * n,
           sq_vec->rmsnorm_dx(dx + i * lddx, lddx, add, dy + i * lddy, lddy, x + i * ldx, ldx, rrms + i, gain, c, n));
}

static void rope(struct sq_floats out, const float *x, const float *cos, const float *sin, int64_t rows, int64_t tokens,
                 int64_t heads, int64_t dim, bool inverse)
{
    float *y = sq_f32_of(out);
    PIECES(rows, rows_of_piece(heads * dim), rows * heads * dim,
           sq_vec->rope(y, x, cos, sin, i, c, tokens, heads, dim, inverse));
}

static void swiglu(struct sq_floats out, const float *gate, const float *up, int64_t n)
{
    float *y = sq_f32_of(out);
    PIECES(n, PIECE, n, sq_vec->swiglu(y + i, gate + i, up + i, c));
}

static void swiglu_grad(struct sq_floats to_gate, struct sq_floats to_up, struct sq_floats out, const float *dy,
                        const float *gate, const float *up, int64_t n)
{
    float *dgate = sq_f32_of(to_gate), *dup = sq_f32_of(to_up), *y = sq_f32_of(out);
    PIECES(n, PIECE, n,
           sq_vec->swiglu_grad(dgate + i, dup + i, y ? y + i : NULL, dy + i, gate + i, up + i, c));
}

static void add(float *y, const float *x, int64_t n)
{
    PIECES(n, PIECE, n, sq_vec->add(y + i, x + i, c));
}

static void bias(float *y, const float *b, int64_t rows, int64_t n)
{
    PIECES(rows, 1, rows * n, (void)c; sq_vec->add(y + i * n, b, n));
}

static void bias_grad(float *dbias, const float *dy, int64_t rows, int64_t n)
{
    PIECES(n, SQ_STRIP, rows * n, sq_vec->column_sums(dbias + i, dy + i, n, NULL, 0, NULL, rows, c));
}

static void adamw(float *x, float *m, float *v, const float *g, int64_t n, int64_t step, double lr)
{
    const double root2 = sqrt(1 - pow(0.999, (double)step)), rate = lr / (1 - pow(0.9, (double)step));
    PIECES(n, PIECE, n, sq_vec->adamw(x + i, m + i, v + i, g + i, c, root2, rate));
}

static void square_columns(double *sum, const float *x, int64_t rows, int64_t n, int64_t count)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < count; j++)
            sum[j] += (double)x[i * n + j] * (double)x[i * n + j];
}

/* threads share the columns, so that every sum has one order */
static void square_sums(double *sum, const float *x, int64_t rows, int64_t n)
{
    enum { LINE = 16 };
    PIECES(n, LINE, rows * n, square_columns(sum + i, x + i, rows, n, c));
}

static void nll(double *out, const float *logits, const int32_t *target, int64_t rows, int64_t vocab)
{
    PIECES(rows, 1, rows * vocab, (void)c; out[i] = sq_vec->nll(logits + i * vocab, target[i], vocab));
}

static void kl(double *out, uint8_t *same_top, const float *logits, const float *base, int64_t rows, int64_t vocab)
{
    PIECES(rows, 1, rows * vocab, (void)c;
           out[i] = sq_vec->kl(same_top + i, logits + i * vocab, base + i * vocab, vocab));
}

/* ---- experts: the reference on pieces; assign() counts tokens in their order, one thread does it ---- */

static struct sq_routing some_tokens(const struct sq_routing *r, int64_t first, int64_t n)
{
    struct sq_routing part = *r;
    part.tokens = n;
    part.prob += first * r->experts;
    part.chosen += first * r->top;
    part.slot += first * r->top;
    return part;
}

static void softmax(float *p, int64_t rows, int64_t n)
{
    PIECES(rows, rows_of_piece(n), rows * n, sq_softmax_ref(p + i * n, c, n));
}

static void choose(const struct sq_routing *r)
{
    PIECES(r->tokens, rows_of_piece(r->experts), r->tokens * r->experts * r->top,
           const struct sq_routing part = some_tokens(r, i, c); sq_choose_ref(&part));
}

static void route_grad(float *dlogit, const double *dshare, const struct sq_routing *r)
{
    PIECES(r->tokens, rows_of_piece(r->experts), r->tokens * r->experts,
           const struct sq_routing part = some_tokens(r, i, c); sq_route_grad_ref(dlogit + i * r->experts, dshare, &part));
}

static void gather(float *y, const float *x, const int64_t *pick, int64_t rows, int64_t n)
{
    PIECES(rows, rows_of_piece(n), rows * n, sq_gather_ref(y + i * n, x, pick + i, c, n));
}

static void scatter(float *y, bool add, const float *x, const float *scale, const int64_t *pick, int64_t rows,
                    int64_t top, int64_t n)
{
    PIECES(rows, rows_of_piece(n), rows * top * n, sq_scatter_ref(y + i * n, add, x, scale, pick + i * top, c, top, n));
}

static void scale_rows(float *x, const float *scale, int64_t rows, int64_t n)
{
    PIECES(rows, rows_of_piece(n), rows * n, sq_scale_rows_ref(x + i * n, scale + i, c, n));
}

static void row_dots(double *dot, const float *a, const float *b, int64_t rows, int64_t n)
{
    PIECES(rows, rows_of_piece(n), rows * n, sq_row_dots_ref(dot + i, a + i * n, b + i * n, c, n));
}

void sq_rows_fill(struct sq_ops *ops)
{
    ops->rmsnorm = rmsnorm;
    ops->rmsnorm_grad = rmsnorm_grad;
    ops->rope = rope;
    ops->swiglu = swiglu;
    ops->swiglu_grad = swiglu_grad;
    ops->add = add;
    ops->bias = bias;
    ops->bias_grad = bias_grad;
    ops->adamw = adamw;
    ops->square_sums = square_sums;
    ops->softmax = softmax;
    ops->choose = choose;
    ops->route_grad = route_grad;
    ops->gather = gather;
    ops->scatter = scatter;
    ops->scale_rows = scale_rows;
    ops->row_dots = row_dots;
    ops->nll = nll;
    ops->kl = kl;
}
