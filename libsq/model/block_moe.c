/* Mixture of experts (docs/method.md 2): softmax of the router, the `top` largest probabilities of a token (the lower
 * expert where two are equal), divided by their sum where the model says so.
 *
 * Tokens are gathered by expert, so that each expert's linears are products over its own rows. The router sees
 * the input before rounding and its product is never rounded to bf16: a different choice of experts is no small
 * error. The gradient of a routing weight needs no expert output: with g = W_down' dy, it is <g, input of down>. */
#include <string.h>

#include "trace.h"

/* ---- routing --------------------------------------------------------------------------------- */

void sq_moe_dispatch(struct sq_trace *t, const struct sq_ops *ops, int64_t n)
{
    t->routing.tokens = n;
    ops->choose(&t->routing);
    ops->assign(&t->routing);
}

/* How many rows an expert has is data, and the host queues the products: here, once a layer's forward, it waits for the
 * device; the backward has the sizes from it. Where that fails no expert has rows; the failure stays with the device. */
static void learn_sizes(struct sq_trace *t, const struct sq_ops *ops)
{
    const size_t bytes = (size_t)(t->cfg->experts + 1) * sizeof *t->first;
    if (ops->get(t->first, t->routing.begin, bytes) < 0)
        memset(t->first, 0, bytes);
}

static void route(struct sq_trace *t, const float *h, const struct sq_block *b, const struct sq_run *r, int64_t n)
{
    const int64_t E = b->cfg->experts, C = b->cfg->hidden;
    r->ops->gemm(t->routing.prob, E, sq_mat(h, C, false), sq_mat(b->router, C, true), n, E, C, false, false);
    r->ops->softmax(t->routing.prob, n, E);
    sq_moe_dispatch(t, r->ops, n);
    learn_sizes(t, r->ops);
}

/* Gradient of the routing weights t->dshare -> of the router and of its input: dh += */
static void route_grad(float *dh, const struct sq_grads *g, const float *h, const struct sq_block *b,
                       const struct sq_run *r, int64_t n, const struct sq_trace *t)
{
    const int64_t E = b->cfg->experts, C = b->cfg->hidden;
    r->ops->route_grad(t->dlogit, t->dshare, &t->routing);
    if (g->router)
        r->ops->gemm(g->router, C, sq_mat(t->dlogit, E, true), sq_mat(h, C, false), E, C, n, true, false);
    r->ops->gemm(dh, C, sq_mat(t->dlogit, E, false), sq_mat(b->router, C, false), n, C, E, true, false);
}

/* ---- experts --------------------------------------------------------------------------------- */

void sq_moe_forward(float *y, const struct sq_block *b, const struct sq_run *r, int64_t n, struct sq_trace *t,
                    struct sq_input_stats *stats)
{
    const struct sq_config *cfg = b->cfg;
    const struct sq_ops *ops = r->ops;
    const struct sq_routing *to = &t->routing;
    const int64_t C = cfg->hidden, F = cfg->ffn, S = n * cfg->top;
    ops->rmsnorm(sq_f32(t->z), C, t->rrms2, t->mid, C, b->gain[SQ_NORM2], cfg->eps, n, C);
    route(t, t->z, b, r, n);
    if (sq_rounds(r))
        ops->rowquant(sq_f32(t->z), t->z, &r->act, NULL, NULL, n, C);
    if (stats)
        ops->square_sums(stats->fc1, t->z, n, C);
    ops->gather(t->in, t->z, to->token, S, C);
    const struct sq_operand in = sq_operand_in(t, sq_f32(t->in), S, C);
    for (int64_t e = 0; e < cfg->experts; e++) {
        const int64_t s = t->first[e], count = t->first[e + 1] - s;
        sq_linear_forward(t->gate + s * F, NULL, sq_operand_rows(in, s), b, r, SQ_GATE + 3 * e, count);
        sq_linear_forward(t->up + s * F, NULL, sq_operand_rows(in, s), b, r, SQ_UP + 3 * e, count);
    }
    ops->swiglu(sq_f32(t->mul), t->gate, t->up, S * F);
    if (sq_rounds(r))
        ops->rowquant(sq_f32(t->mul), t->mul, &r->act, NULL, NULL, S, F);
    const struct sq_operand mul = sq_operand_in(t, sq_f32(t->mul), S, F);
    for (int64_t e = 0; e < cfg->experts; e++) {
        const int64_t s = t->first[e], count = t->first[e + 1] - s;
        if (stats)
            ops->square_sums(stats->fc2 + e * F, t->mul + s * F, count, F);
        sq_linear_forward(t->in + s * C, NULL, sq_operand_rows(mul, s), b, r, SQ_DOWN + 3 * e, count);
    }
    ops->copy(y, t->mid, (size_t)(n * C) * sizeof *y);
    ops->scatter(y, true, t->in, to->share, to->slot, n, cfg->top, C);
}

/* At the outputs of gate and up, left in t->gate and t->up; weight gradients of down; t->dshare. */
static void down_grad(const float *dy, const struct sq_grads *g, const struct sq_block *b,
                      const struct sq_run *r, int64_t n, struct sq_trace *t)
{
    const struct sq_config *cfg = b->cfg;
    const struct sq_ops *ops = r->ops;
    const struct sq_routing *to = &t->routing;
    const int64_t C = cfg->hidden, F = cfg->ffn, S = n * cfg->top;
    ops->gather(t->in, dy, to->token, S, C);
    ops->swiglu(sq_f32(t->mul), t->gate, t->up, S * F);
    if (sq_rounds(r))
        ops->rowquant(sq_f32(t->mul), t->mul, &r->act, NULL, NULL, S, F);
    const struct sq_operand in = sq_operand_grad(t, 0, sq_f32(t->in), S, C);
    for (int64_t e = 0; e < cfg->experts; e++) {
        const int64_t s = t->first[e], count = t->first[e + 1] - s;
        sq_linear_grad_x(t->dmul + s * F, sq_operand_rows(in, s), b, r, SQ_DOWN + 3 * e, count, false);
    }
    ops->row_dots(t->dshare, t->dmul, t->mul, S, F);
    ops->scale_rows(t->dmul, to->share, S, F);
    ops->scale_rows(t->in, to->share, S, C);
    const struct sq_operand mul = sq_operand_in(t, sq_f32(t->mul), S, F), shared = sq_operand_grad(t, 0, sq_f32(t->in), S, C);
    for (int64_t e = 0; e < cfg->experts; e++) {
        const int64_t s = t->first[e], count = t->first[e + 1] - s;
        sq_linear_grad_w(g, sq_operand_rows(shared, s), sq_operand_rows(mul, s), b, r, SQ_DOWN + 3 * e, count, t);
    }
    if (sq_rounds(r)) {
        ops->swiglu(sq_f32(t->mul), t->gate, t->up, S * F);
        ops->rowquant_grad(t->dmul, NULL, NULL, t->dmul, t->mul, &r->act, NULL, NULL, S, F);
    }
    ops->swiglu_grad(sq_f32(t->gate), sq_f32(t->up), sq_f32(NULL), t->dmul, t->gate, t->up, S * F);
}

void sq_moe_backward(float *dmid, const struct sq_grads *g, const struct sq_block *b, const struct sq_run *r, int64_t n,
                     struct sq_trace *t)
{
    const struct sq_config *cfg = b->cfg;
    const struct sq_ops *ops = r->ops;
    const struct sq_routing *to = &t->routing;
    const int64_t C = cfg->hidden, F = cfg->ffn, S = n * cfg->top;
    down_grad(dmid, g, b, r, n, t);

    ops->rmsnorm(sq_f32(t->z), C, t->rrms2, t->mid, C, b->gain[SQ_NORM2], cfg->eps, n, C);
    if (sq_rounds(r))
        ops->rowquant(sq_f32(t->zq), t->z, &r->act, NULL, NULL, n, C);
    ops->gather(t->in, sq_rounds(r) ? t->zq : t->z, to->token, S, C);
    const struct sq_operand in = sq_operand_in(t, sq_f32(t->in), S, C), dgate = sq_operand_grad(t, 0, sq_f32(t->gate), S, F),
                            dup = sq_operand_grad(t, S * F, sq_f32(t->up), S, F);
    for (int64_t e = 0; e < cfg->experts; e++) {
        const int64_t s = t->first[e], count = t->first[e + 1] - s;
        const struct sq_operand x = sq_operand_rows(in, s), dg = sq_operand_rows(dgate, s), du = sq_operand_rows(dup, s);
        sq_linear_grad_w(g, dg, x, b, r, SQ_GATE + 3 * e, count, t);
        sq_linear_grad_w(g, du, x, b, r, SQ_UP + 3 * e, count, t);
        sq_linear_grad_x(t->in + s * C, dg, b, r, SQ_GATE + 3 * e, count, false);
        sq_linear_grad_x(t->in + s * C, du, b, r, SQ_UP + 3 * e, count, true);
    }
    ops->scatter(t->zq, false, t->in, NULL, to->slot, n, cfg->top, C);
    if (sq_rounds(r))
        ops->rowquant_grad(t->zq, NULL, NULL, t->zq, t->z, &r->act, NULL, NULL, n, C);
    route_grad(t->zq, g, t->z, b, r, n, t);
    ops->rmsnorm_grad(dmid, C, true, g->gain[SQ_NORM2], t->zq, C, t->mid, C, t->rrms2, b->gain[SQ_NORM2], n, C);
}
