/* The backward of a decoder layer, by hand, in the reverse order of block_forward.c.
 *
 * Rounding of activations is straight-through (docs/method.md 1): the gradient at the rounded value goes back through
 * rowquant_grad, which needs the value before rounding. So z holds an input of linears before rounding; what is multiplied
 * is zq, or z where nothing is rounded. The gradient at the input overwrites that once the weight gradients have used it.
 * For down, where nothing is rounded, the gradient is made first, and swiglu_grad puts the input in its place. Where
 * products take bf16, what is multiplied lies in xo, and zq, or z, holds the gradient alone. */
#include "sq/work.h"
#include "trace.h"

/* Where the gradient at an input of linears is made. */
static float *gradient_room(const struct sq_trace *t, const struct sq_run *r)
{
    return sq_rounds(r) ? t->zq : t->z;
}

/* What was multiplied: z itself, or its rounded form in zq. */
static const float *rounded(float *zq, const float *z, const struct sq_run *r, int64_t rows, int64_t cols)
{
    if (!sq_rounds(r))
        return z;
    r->ops->rowquant(sq_f32(zq), z, &r->act, NULL, NULL, rows, cols);
    return zq;
}

/* Where z is made again. */
static struct sq_floats place(const struct sq_run *r, const struct sq_trace *t)
{
    return sq_operand_in_room(t, t->z, sq_rounds(r));
}

static struct sq_operand input(struct sq_floats z, const struct sq_run *r, int64_t n, int64_t cols,
                               const struct sq_trace *t)
{
    const struct sq_floats zq = sq_operand_in_room(t, t->zq, false);
    if (!sq_rounds(r))
        return sq_operand_in(t, z, n, cols);
    r->ops->rowquant(zq, sq_f32_of(z), &r->act, NULL, NULL, n, cols);
    return sq_operand_in(t, zq, n, cols);
}

/* d (at the rounded value, in place) -> at z */
static void unround(float *d, const float *z, const struct sq_run *r, int64_t rows, int64_t cols)
{
    if (sq_rounds(r))
        r->ops->rowquant_grad(d, NULL, NULL, d, z, &r->act, NULL, NULL, rows, cols);
}

/* dmid holds dy, the gradient of the residual path; adds that of the MLP */
static void mlp_grad(float *dmid, const struct sq_grads *g, const struct sq_block *b, const struct sq_run *r, int64_t n,
                     struct sq_trace *t)
{
    const struct sq_ops *ops = r->ops;
    const int64_t C = b->cfg->hidden, F = b->cfg->ffn;
    const bool rounds = sq_rounds(r);
    const struct sq_floats z = place(r, t);
    float *d = gradient_room(t, r);
    /* where nothing is rounded, dmid's operand lies behind those of gate and up, and may reach into zq */
    SQ_ASSERT(rounds || !t->dyo || t->dyo + n * (2 * F + C) <= (uint16_t *)(t->zq + n * SQ_MAX(C, F)));

    const struct sq_operand dy = sq_operand_grad(t, rounds ? 0 : 2 * n * F, sq_f32(dmid), n, C);
    if (rounds) {
        ops->swiglu(z, t->gate, t->up, n * F);
        sq_linear_grad_w(g, dy, input(z, r, n, F, t), b, r, SQ_DOWN, n, t);
    }
    sq_linear_grad_x(d, dy, b, r, SQ_DOWN, n, false);
    unround(d, t->z, r, n, F);
    const struct sq_floats to_gate = sq_operand_grad_room(t, 0, t->gate, b->bias[SQ_GATE]),
                           to_up = sq_operand_grad_room(t, n * F, t->up, b->bias[SQ_UP]);
    ops->swiglu_grad(to_gate, to_up, rounds ? sq_f32(NULL) : z, d, t->gate, t->up, n * F);
    if (!rounds)
        sq_linear_grad_w(g, dy, input(z, r, n, F, t), b, r, SQ_DOWN, n, t);

    ops->rmsnorm(z, C, t->rrms2, t->mid, C, b->gain[SQ_NORM2], b->cfg->eps, n, C);
    const struct sq_operand h = input(z, r, n, C, t), dgate = sq_operand_grad(t, 0, to_gate, n, F),
                            dup = sq_operand_grad(t, n * F, to_up, n, F);
    sq_linear_grad_w(g, dgate, h, b, r, SQ_GATE, n, t);
    sq_linear_grad_w(g, dup, h, b, r, SQ_UP, n, t);
    sq_linear_grad_x(d, dgate, b, r, SQ_GATE, n, false);
    sq_linear_grad_x(d, dup, b, r, SQ_UP, n, true);
    unround(d, t->z, r, n, C);
    ops->rmsnorm_grad(dmid, C, true, g->gain[SQ_NORM2], d, C, t->mid, C, t->rrms2, b->gain[SQ_NORM2], n, C);
}

/* dmid -> dq, dk, dv of t: at what the attention reads, before rounding */
static void attend_grad(float *dmid, const struct sq_grads *g, const struct sq_block *b, const struct sq_run *r,
                        int64_t batch, struct sq_trace *t)
{
    const struct sq_config *cfg = b->cfg;
    const struct sq_ops *ops = r->ops;
    const int64_t n = batch * r->tokens, H = cfg->heads, KV = cfg->kv_heads, D = cfg->head_dim;

    float *d = gradient_room(t, r); /* but here, where nothing is rounded, t->out was */

    const struct sq_operand dy = sq_operand_grad(t, 0, sq_f32(dmid), n, cfg->hidden);
    sq_linear_grad_w(g, dy, input(sq_f32(t->out), r, n, H * D, t), b, r, SQ_O, n, t);
    sq_linear_grad_x(d, dy, b, r, SQ_O, n, false);
    unround(d, t->out, r, n, H * D);

    const float *q = rounded(t->qq, t->q, r, n * H, D);
    const float *k = rounded(t->kq, t->k, r, n * KV, D);
    const float *v = rounded(t->vq, t->v, r, n * KV, D);
    const enum sq_work before = sq_work_begin(SQ_WORK_ATTENTION);
    ops->attention_grad(t->dq, t->dk, t->dv, d, t->out, t->lse, q, k, v, batch, r->tokens, H, KV, D);
    (void)sq_work_begin(before);
    unround(t->dq, t->q, r, n * H, D);
    unround(t->dk, t->k, r, n * KV, D);
    unround(t->dv, t->v, r, n * KV, D);
}

/* dq, dk, dv of t; d holds dmid, the gradient of the residual path: adds that of the attention, if it is wanted */
static void project_grad(float *d, const struct sq_grads *g, const float *x, const struct sq_block *b,
                         const struct sq_run *r, int64_t batch, struct sq_trace *t)
{
    const struct sq_config *cfg = b->cfg;
    const struct sq_ops *ops = r->ops;
    const int64_t n = batch * r->tokens, C = cfg->hidden, H = cfg->heads, KV = cfg->kv_heads, D = cfg->head_dim;
    const struct sq_floats z = place(r, t),
                           to_q = sq_operand_grad_room(t, 0, t->dq, cfg->qk_norm || b->bias[SQ_Q]),
                           to_k = sq_operand_grad_room(t, n * H * D, t->dk, cfg->qk_norm || b->bias[SQ_K]);
    float *dh = gradient_room(t, r);

    ops->rope(to_q, t->dq, r->cos, r->sin, n, r->tokens, H, D, true);
    ops->rope(to_k, t->dk, r->cos, r->sin, n, r->tokens, KV, D, true);
    if (cfg->qk_norm) {
        ops->rmsnorm_grad(t->dq, D, false, g->gain[SQ_QNORM], t->dq, D, t->qraw, D, t->rrmsq, b->gain[SQ_QNORM],
                          n * H, D);
        ops->rmsnorm_grad(t->dk, D, false, g->gain[SQ_KNORM], t->dk, D, t->kraw, D, t->rrmsk, b->gain[SQ_KNORM],
                          n * KV, D);
    }
    ops->rmsnorm(z, C, t->rrms1, x, C, b->gain[SQ_NORM1], cfg->eps, n, C);
    const struct sq_operand h = input(z, r, n, C, t), dq = sq_operand_grad(t, 0, to_q, n, H * D),
                            dk = sq_operand_grad(t, n * H * D, to_k, n, KV * D),
                            dv = sq_operand_grad(t, n * (H + KV) * D, sq_f32(t->dv), n, KV * D);
    sq_linear_grad_w(g, dq, h, b, r, SQ_Q, n, t);
    sq_linear_grad_w(g, dk, h, b, r, SQ_K, n, t);
    sq_linear_grad_w(g, dv, h, b, r, SQ_V, n, t);
    if (!g->input && !g->gain[SQ_NORM1])
        return;
    sq_linear_grad_x(dh, dq, b, r, SQ_Q, n, false);
    sq_linear_grad_x(dh, dk, b, r, SQ_K, n, true);
    sq_linear_grad_x(dh, dv, b, r, SQ_V, n, true);
    unround(dh, t->z, r, n, C);
    ops->rmsnorm_grad(d, C, true, g->gain[SQ_NORM1], dh, C, x, C, t->rrms1, b->gain[SQ_NORM1], n, C);
}

void sq_block_backward(float *d, const struct sq_grads *g, const float *x, const struct sq_block *b,
                       const struct sq_run *r, int64_t batch, struct sq_trace *t)
{
    const int64_t n = batch * r->tokens;
    SQ_ASSERT(n <= t->rows);
    if (b->cfg->experts > 0)
        sq_moe_backward(d, g, b, r, n, t);
    else
        mlp_grad(d, g, b, r, n, t);
    attend_grad(d, g, b, r, batch, t);
    project_grad(d, g, x, b, r, batch, t);
}
