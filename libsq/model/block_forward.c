/* The forward of a decoder layer (docs/method.md 2). An input that several linears share is
 * normalised and rounded once. */
#include <string.h>

#include "sq/work.h"
#include "trace.h"

/* Where an input of linears is made, before it is rounded. */
static struct sq_floats place(const struct sq_run *r, const struct sq_trace *t, const struct sq_input_stats *stats)
{
    return sq_operand_in_room(t, t->z, sq_rounds(r) || stats);
}

/* What linears multiply for x [n,cols], which may be t->z: rounded, to codes where the block has such, and in z then the
 * channels behind them; its squares are added to sum unless that is NULL. */
static struct sq_operand input(struct sq_floats x, double *sum, const struct sq_block *b, const struct sq_run *r,
                               int64_t n, int64_t cols, struct sq_trace *t)
{
    const struct sq_ops *ops = r->ops;
    const bool rounds = sq_rounds(r);
    const struct sq_floats y = rounds ? sq_operand_in_room(t, t->z, sum || b->code) : x;
    if (rounds && b->code) {
        t->code.ld = cols;
        ops->rowquant_encode(&t->code, sq_f32_of(x), &r->act, NULL, NULL, n, cols);
        if (y.x != x.x && t->code.cols < cols)
            ops->copy(y.x, x.x, (size_t)(n * cols) * sizeof(float));
    } else if (rounds) {
        ops->rowquant(y, sq_f32_of(x), &r->act, NULL, NULL, n, cols);
    }
    if (sum)
        ops->square_sums(sum, sq_f32_of(y), n, cols);
    struct sq_operand o = sq_operand_in(t, y, n, cols);
    o.codes = rounds && b->code ? &t->code : NULL;
    return o;
}

/* q, k, v of t from the block's input: product, q/k norm, RoPE. */
static void project(const float *x, const struct sq_block *b, const struct sq_run *r, int64_t batch,
                    struct sq_trace *t, struct sq_input_stats *stats)
{
    const struct sq_config *cfg = b->cfg;
    const struct sq_ops *ops = r->ops;
    const int64_t n = batch * r->tokens, C = cfg->hidden, H = cfg->heads, KV = cfg->kv_heads, D = cfg->head_dim;
    const struct sq_floats z = place(r, t, stats);
    ops->rmsnorm(z, C, t->rrms1, x, C, b->gain[SQ_NORM1], cfg->eps, n, C);
    const struct sq_operand h = input(z, stats ? stats->qkv : NULL, b, r, n, C, t);
    sq_linear_forward(cfg->qk_norm ? t->qraw : t->q, NULL, h, b, r, SQ_Q, n);
    sq_linear_forward(cfg->qk_norm ? t->kraw : t->k, NULL, h, b, r, SQ_K, n);
    sq_linear_forward(t->v, NULL, h, b, r, SQ_V, n);
    if (cfg->qk_norm) {
        ops->rmsnorm(sq_f32(t->q), D, t->rrmsq, t->qraw, D, b->gain[SQ_QNORM], cfg->eps, n * H, D);
        ops->rmsnorm(sq_f32(t->k), D, t->rrmsk, t->kraw, D, b->gain[SQ_KNORM], cfg->eps, n * KV, D);
    }
    ops->rope(sq_f32(t->q), t->q, r->cos, r->sin, n, r->tokens, H, D, false);
    ops->rope(sq_f32(t->k), t->k, r->cos, r->sin, n, r->tokens, KV, D, false);
}

static void attend(const struct sq_config *cfg, const struct sq_run *r, int64_t batch, struct sq_trace *t)
{
    const struct sq_ops *ops = r->ops;
    const int64_t n = batch * r->tokens, H = cfg->heads, KV = cfg->kv_heads, D = cfg->head_dim;
    const float *q = t->q, *k = t->k, *v = t->v;
    if (sq_rounds(r)) {
        ops->rowquant(sq_f32(t->qq), q, &r->act, NULL, NULL, n * H, D);
        ops->rowquant(sq_f32(t->kq), k, &r->act, NULL, NULL, n * KV, D);
        ops->rowquant(sq_f32(t->vq), v, &r->act, NULL, NULL, n * KV, D);
        q = t->qq, k = t->kq, v = t->vq;
    }
    const enum sq_work before = sq_work_begin(SQ_WORK_ATTENTION);
    ops->attention(t->out, t->lse, q, k, v, batch, r->tokens, H, KV, D);
    (void)sq_work_begin(before);
}

/* y = mid + MLP(mid) */
static void mlp(float *y, const struct sq_block *b, const struct sq_run *r, int64_t n, struct sq_trace *t,
                struct sq_input_stats *stats)
{
    const struct sq_ops *ops = r->ops;
    const int64_t C = b->cfg->hidden, F = b->cfg->ffn;
    const struct sq_floats z = place(r, t, stats);
    ops->rmsnorm(z, C, t->rrms2, t->mid, C, b->gain[SQ_NORM2], b->cfg->eps, n, C);
    const struct sq_operand h = input(z, stats ? stats->fc1 : NULL, b, r, n, C, t);
    sq_linear_forward(t->gate, NULL, h, b, r, SQ_GATE, n);
    sq_linear_forward(t->up, NULL, h, b, r, SQ_UP, n);
    ops->swiglu(z, t->gate, t->up, n * F);
    sq_linear_forward(y, t->mid, input(z, stats ? stats->fc2 : NULL, b, r, n, F, t), b, r, SQ_DOWN, n);
}

void sq_block_forward(float *y, const float *x, const struct sq_block *b, const struct sq_run *r, int64_t batch,
                      struct sq_trace *t, struct sq_input_stats *stats)
{
    const struct sq_config *cfg = b->cfg;
    const int64_t n = batch * r->tokens, Q = cfg->heads * cfg->head_dim;
    SQ_ASSERT(n <= t->rows && (!stats || !b->code));
    project(x, b, r, batch, t, stats);
    attend(cfg, r, batch, t);
    sq_linear_forward(t->mid, x, input(sq_f32(t->out), stats ? stats->out : NULL, b, r, n, Q, t), b, r, SQ_O, n);
    if (cfg->experts > 0)
        sq_moe_forward(y, b, r, n, t, stats);
    else
        mlp(y, b, r, n, t, stats);
    if (stats)
        stats->tokens += n;
    sq_trace_aside(t, n);
}
