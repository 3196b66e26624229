/* The forward of a decoder layer (METHOD 2). An input shared by several linears is normalised and rounded once. */
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
    if (sq_rounds(r))
        ops->rowquant(t->z, t->z, &r->act, NULL, NULL, n, C);
    if (stats)
        sq_stats_add(stats->qkv, t->z, n, C);
    sq_linear_forward(cfg->qk_norm ? t->qraw : t->q, t->z, b, r, SQ_Q, n, false);
    sq_linear_forward(cfg->qk_norm ? t->kraw : t->k, t->z, b, r, SQ_K, n, false);
    sq_linear_forward(t->v, t->z, b, r, SQ_V, n, false);
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
    if (sq_rounds(r))
        ops->rowquant(t->z, t->z, &r->act, NULL, NULL, n, C);
    if (stats)
        sq_stats_add(stats->fc1, t->z, n, C);
    sq_linear_forward(t->gate, t->z, b, r, SQ_GATE, n, false);
    sq_linear_forward(t->up, t->z, b, r, SQ_UP, n, false);
    ops->swiglu(t->z, t->gate, t->up, n * F);
    if (sq_rounds(r))
        ops->rowquant(t->z, t->z, &r->act, NULL, NULL, n, F);
    if (stats)
        sq_stats_add(stats->fc2, t->z, n, F);
    memcpy(y, t->mid, (size_t)(n * C) * sizeof(float));
    sq_linear_forward(y, t->z, b, r, SQ_DOWN, n, true);
}

void sq_block_forward(float *y, const float *x, const struct sq_block *b, const struct sq_run *r, int64_t batch,
                      struct sq_trace *t, struct sq_input_stats *stats)
{
    const struct sq_config *cfg = b->cfg;
    const int64_t n = batch * r->tokens, C = cfg->hidden, Q = cfg->heads * cfg->head_dim;
    SQ_ASSERT(n <= t->rows);
    project(x, b, r, batch, t, stats);
    attend(cfg, r, batch, t);
    const float *o = t->out;
    if (sq_rounds(r)) {
        r->ops->rowquant(t->z, o, &r->act, NULL, NULL, n, Q);
        o = t->z;
    }
    if (stats)
        sq_stats_add(stats->out, o, n, Q);
    memcpy(t->mid, x, (size_t)(n * C) * sizeof(float));
    sq_linear_forward(t->mid, o, b, r, SQ_O, n, true);
    if (cfg->experts > 0)
        sq_moe_forward(y, b, r, n, t, stats);
    else
        mlp(y, b, r, n, t, stats);
    if (stats)
        stats->tokens += n;
}
