/* The forward of a decoder layer (docs/method.md 2). An input that several linears share is
 * normalised and rounded once. */
#include <string.h>

#include "sq/work.h"
#include "trace.h"

/* q, k, v of t from the block's input: product, q/k norm, RoPE. */
static void project(const float *x, const struct sq_block *b, const struct sq_run *r, int64_t batch,
                    struct sq_trace *t, struct sq_input_stats *stats)
{
    const struct sq_config *cfg = b->cfg;
    const struct sq_ops *ops = r->ops;
    const int64_t n = batch * r->tokens, C = cfg->hidden, H = cfg->heads, KV = cfg->kv_heads, D = cfg->head_dim;
    ops->rmsnorm(t->z, C, t->rrms1, x, C, b->gain[SQ_NORM1], cfg->eps, n, C);
    const struct sq_codes *codes = sq_rounds(r) ? sq_round_input(t->z, t->z, b, r, n, C, t) : NULL;
    if (stats)
        r->ops->square_sums(stats->qkv, t->z, n, C);
    const struct sq_operand h = sq_operand_in(t, t->z, n, C);
    sq_linear_forward(cfg->qk_norm ? t->qraw : t->q, NULL, h, codes, b, r, SQ_Q, n);
    sq_linear_forward(cfg->qk_norm ? t->kraw : t->k, NULL, h, codes, b, r, SQ_K, n);
    sq_linear_forward(t->v, NULL, h, codes, b, r, SQ_V, n);
    if (cfg->qk_norm) {
        ops->rmsnorm(t->q, D, t->rrmsq, t->qraw, D, b->gain[SQ_QNORM], cfg->eps, n * H, D);
        ops->rmsnorm(t->k, D, t->rrmsk, t->kraw, D, b->gain[SQ_KNORM], cfg->eps, n * KV, D);
    }
    ops->rope(t->q, r->cos, r->sin, n, r->tokens, H, D, false);
    ops->rope(t->k, r->cos, r->sin, n, r->tokens, KV, D, false);
}

static void attend(const struct sq_config *cfg, const struct sq_run *r, int64_t batch, struct sq_trace *t)
{
    const struct sq_ops *ops = r->ops;
    const int64_t n = batch * r->tokens, H = cfg->heads, KV = cfg->kv_heads, D = cfg->head_dim;
    const float *q = t->q, *k = t->k, *v = t->v;
    if (sq_rounds(r)) {
        ops->rowquant(t->qq, q, &r->act, NULL, NULL, n * H, D);
        ops->rowquant(t->kq, k, &r->act, NULL, NULL, n * KV, D);
        ops->rowquant(t->vq, v, &r->act, NULL, NULL, n * KV, D);
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
    ops->rmsnorm(t->z, C, t->rrms2, t->mid, C, b->gain[SQ_NORM2], b->cfg->eps, n, C);
    const struct sq_codes *codes = sq_rounds(r) ? sq_round_input(t->z, t->z, b, r, n, C, t) : NULL;
    if (stats)
        r->ops->square_sums(stats->fc1, t->z, n, C);
    const struct sq_operand h = sq_operand_in(t, t->z, n, C);
    sq_linear_forward(t->gate, NULL, h, codes, b, r, SQ_GATE, n);
    sq_linear_forward(t->up, NULL, h, codes, b, r, SQ_UP, n);
    ops->swiglu(t->z, t->gate, t->up, n * F);
    codes = sq_rounds(r) ? sq_round_input(t->z, t->z, b, r, n, F, t) : NULL;
    if (stats)
        r->ops->square_sums(stats->fc2, t->z, n, F);
    sq_linear_forward(y, t->mid, sq_operand_in(t, t->z, n, F), codes, b, r, SQ_DOWN, n);
}

void sq_block_forward(float *y, const float *x, const struct sq_block *b, const struct sq_run *r, int64_t batch,
                      struct sq_trace *t, struct sq_input_stats *stats)
{
    const struct sq_config *cfg = b->cfg;
    const int64_t n = batch * r->tokens, Q = cfg->heads * cfg->head_dim;
    SQ_ASSERT(n <= t->rows && (!stats || !b->code));
    project(x, b, r, batch, t, stats);
    attend(cfg, r, batch, t);
    const struct sq_codes *codes = sq_rounds(r) ? sq_round_input(t->z, t->out, b, r, n, Q, t) : NULL;
    const float *o = sq_rounds(r) ? t->z : t->out;
    if (stats)
        r->ops->square_sums(stats->out, o, n, Q);
    sq_linear_forward(t->mid, x, sq_operand_in(t, o, n, Q), codes, b, r, SQ_O, n);
    if (cfg->experts > 0)
        sq_moe_forward(y, b, r, n, t, stats);
    else
        mlp(y, b, r, n, t, stats);
    if (stats)
        stats->tokens += n;
    sq_trace_aside(t, n);
}
