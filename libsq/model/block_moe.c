/* Mixture of experts (METHOD 2): softmax of the router, the `top` largest probabilities of a token (the lower
 * expert where two are equal), divided by their sum where the model says so.
 *
 * Tokens are gathered by expert, so that each expert's linears are products over its own rows. The router sees
 * the input before rounding and its product is never rounded to bf16: a different choice of experts is no small
 * error. The gradient of a routing weight needs no expert output: with g = W_down' dy, it is <g, input of down>. */
#include <math.h>
#include <string.h>

#include "trace.h"

/* ---- routing --------------------------------------------------------------------------------- */

static void softmax(float *p, int64_t n)
{
    double max = -HUGE_VAL, sum = 0;
    for (int64_t e = 0; e < n; e++)
        max = fmax(max, (double)p[e]);
    for (int64_t e = 0; e < n; e++)
        sum += exp((double)p[e] - max);
    for (int64_t e = 0; e < n; e++)
        p[e] = (float)(exp((double)p[e] - max) / sum);
}

/* The top largest of p, in ascending order of their index. NaN never beats a number, so indices stay valid. */
static void choose(int32_t *chosen, const float *p, int64_t experts, int64_t top)
{
    for (int64_t k = 0; k < top; k++) {
        int32_t best = -1;
        for (int32_t e = 0; e < experts; e++) {
            bool taken = false;
            for (int64_t j = 0; j < k; j++)
                taken |= chosen[j] == e;
            if (!taken && (best < 0 || p[e] > p[best]))
                best = e;
        }
        chosen[k] = best;
    }
    for (int64_t k = 1; k < top; k++) /* insertion sort of a handful */
        for (int64_t j = k; j > 0 && chosen[j - 1] > chosen[j]; j--) {
            const int32_t swap = chosen[j];
            chosen[j] = chosen[j - 1];
            chosen[j - 1] = swap;
        }
}

/* Slots by expert, then by token; shares by slot. */
static void assign(struct sq_trace *t, int64_t n)
{
    const struct sq_config *cfg = t->cfg;
    const int64_t E = cfg->experts, top = cfg->top;
    memset(t->begin, 0, (size_t)(E + 1) * sizeof *t->begin);
    for (int64_t i = 0; i < n * top; i++)
        t->begin[t->chosen[i] + 1]++;
    for (int64_t e = 0; e < E; e++)
        t->begin[e + 1] += t->begin[e];
    for (int64_t i = 0; i < n * top; i++)
        t->slot[i] = t->begin[t->chosen[i]]++;
    for (int64_t e = E; e > 0; e--) /* each start has moved to its end */
        t->begin[e] = t->begin[e - 1];
    t->begin[0] = 0;
    for (int64_t i = 0; i < n; i++) {
        double sum = 0;
        for (int64_t k = 0; k < top; k++)
            sum += (double)t->prob[i * E + t->chosen[i * top + k]];
        for (int64_t k = 0; k < top; k++) {
            const int64_t s = t->slot[i * top + k];
            const float p = t->prob[i * E + t->chosen[i * top + k]];
            t->share[s] = cfg->renorm ? (float)((double)p / sum) : p;
            t->token[s] = i;
        }
    }
}

void sq_moe_dispatch(struct sq_trace *t, int64_t n)
{
    const int64_t E = t->cfg->experts, top = t->cfg->top;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++)
        choose(t->chosen + i * top, t->prob + i * E, E, top);
    assign(t, n);
}

static void route(struct sq_trace *t, const float *h, const struct sq_block *b, const struct sq_run *r, int64_t n)
{
    const int64_t E = b->cfg->experts, C = b->cfg->hidden;
    r->ops->gemm(t->prob, E, sq_mat(h, C, false), sq_mat(b->router, C, true), n, E, C, false, false);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++)
        softmax(t->prob + i * E, E);
    sq_moe_dispatch(t, n);
}

/* Gradient of the routing weights dshare [S] -> of the router and of its input: dh += */
static void route_grad(float *dh, const struct sq_grads *g, float *dlogit, const double *dshare, const float *h,
                       const struct sq_block *b, const struct sq_run *r, int64_t n, const struct sq_trace *t)
{
    const int64_t E = b->cfg->experts, C = b->cfg->hidden, top = b->cfg->top;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        const float *p = t->prob + i * E;
        const int32_t *chosen = t->chosen + i * top;
        const int64_t *slot = t->slot + i * top;
        double sum = 0, mean = 0, inner = 0;
        for (int64_t k = 0; k < top; k++) {
            sum += (double)p[chosen[k]];
            mean += dshare[slot[k]] * (double)t->share[slot[k]];
        }
        /* d/dp of p_k / sum(p) is (dshare_k - <dshare, share>) / sum, of p_k itself dshare_k */
        const double scale = b->cfg->renorm ? 1 / sum : 1, shift = b->cfg->renorm ? mean : 0;
        for (int64_t k = 0; k < top; k++)
            inner += (double)p[chosen[k]] * (dshare[slot[k]] - shift) * scale;
        for (int64_t e = 0; e < E; e++)
            dlogit[i * E + e] = (float)(-(double)p[e] * inner);
        for (int64_t k = 0; k < top; k++)
            dlogit[i * E + chosen[k]] += (float)((double)p[chosen[k]] * (dshare[slot[k]] - shift) * scale);
    }
    if (g->router)
        r->ops->gemm(g->router, C, sq_mat(dlogit, E, true), sq_mat(h, C, false), E, C, n, true, false);
    r->ops->gemm(dh, C, sq_mat(dlogit, E, false), sq_mat(b->router, C, false), n, C, E, true, false);
}

/* ---- tokens <-> slots ------------------------------------------------------------------------ */

static void gather(float *slots, const float *rows, const struct sq_trace *t, int64_t count, int64_t cols)
{
#pragma omp parallel for schedule(static)
    for (int64_t s = 0; s < count; s++)
        memcpy(slots + s * cols, rows + t->token[s] * cols, (size_t)cols * sizeof *slots);
}

/* rows (+)= sum over a token's slots, in the order of experts, each times its share if there is one */
static void scatter(float *rows, bool add, const float *slots, const float *share, const struct sq_trace *t, int64_t n,
                    int64_t top, int64_t cols)
{
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        float *row = rows + i * cols;
        if (!add)
            memset(row, 0, (size_t)cols * sizeof *row);
        for (int64_t k = 0; k < top; k++) {
            const int64_t s = t->slot[i * top + k];
            const float w = share ? share[s] : 1;
            for (int64_t c = 0; c < cols; c++)
                row[c] += w * slots[s * cols + c];
        }
    }
}

static void scale_rows(float *slots, const float *share, int64_t count, int64_t cols)
{
#pragma omp parallel for schedule(static)
    for (int64_t s = 0; s < count; s++)
        for (int64_t c = 0; c < cols; c++)
            slots[s * cols + c] *= share[s];
}

/* ---- experts --------------------------------------------------------------------------------- */

void sq_moe_forward(float *y, const struct sq_block *b, const struct sq_run *r, int64_t n, struct sq_trace *t,
                    struct sq_input_stats *stats)
{
    const struct sq_config *cfg = b->cfg;
    const struct sq_ops *ops = r->ops;
    const int64_t C = cfg->hidden, F = cfg->ffn, S = n * cfg->top;
    ops->rmsnorm(t->z, C, t->rrms2, t->mid, C, b->gain[SQ_NORM2], cfg->eps, n, C);
    route(t, t->z, b, r, n);
    if (sq_rounds(r))
        ops->rowquant(t->z, t->z, &r->act, NULL, NULL, n, C);
    if (stats)
        r->ops->square_sums(stats->fc1, t->z, n, C);
    gather(t->in, t->z, t, S, C);
    for (int64_t e = 0; e < cfg->experts; e++) {
        const int64_t s = t->begin[e], count = t->begin[e + 1] - s;
        sq_linear_forward(t->gate + s * F, NULL, t->in + s * C, NULL, b, r, SQ_GATE + 3 * e, count);
        sq_linear_forward(t->up + s * F, NULL, t->in + s * C, NULL, b, r, SQ_UP + 3 * e, count);
    }
    ops->swiglu(t->mul, t->gate, t->up, S * F);
    if (sq_rounds(r))
        ops->rowquant(t->mul, t->mul, &r->act, NULL, NULL, S, F);
    for (int64_t e = 0; e < cfg->experts; e++) {
        const int64_t s = t->begin[e], count = t->begin[e + 1] - s;
        if (stats)
            r->ops->square_sums(stats->fc2 + e * F, t->mul + s * F, count, F);
        sq_linear_forward(t->in + s * C, NULL, t->mul + s * F, NULL, b, r, SQ_DOWN + 3 * e, count);
    }
    memcpy(y, t->mid, (size_t)(n * C) * sizeof *y);
    scatter(y, true, t->in, t->share, t, n, cfg->top, C);
}

/* At the outputs of gate and up, left in t->gate and t->up; weight gradients of down; dshare [S]. */
static void down_grad(double *dshare, const float *dy, const struct sq_grads *g, const struct sq_block *b,
                      const struct sq_run *r, int64_t n, struct sq_trace *t)
{
    const struct sq_config *cfg = b->cfg;
    const struct sq_ops *ops = r->ops;
    const int64_t C = cfg->hidden, F = cfg->ffn, S = n * cfg->top;
    gather(t->in, dy, t, S, C);
    ops->swiglu(t->mul, t->gate, t->up, S * F);
    if (sq_rounds(r))
        ops->rowquant(t->mul, t->mul, &r->act, NULL, NULL, S, F);
    for (int64_t e = 0; e < cfg->experts; e++) {
        const int64_t s = t->begin[e], count = t->begin[e + 1] - s;
        sq_linear_grad_x(t->dmul + s * F, t->in + s * C, b, r, SQ_DOWN + 3 * e, count, false);
    }
#pragma omp parallel for schedule(static)
    for (int64_t s = 0; s < S; s++) {
        double sum = 0;
        for (int64_t c = 0; c < F; c++)
            sum += (double)t->dmul[s * F + c] * (double)t->mul[s * F + c];
        dshare[s] = sum;
    }
    scale_rows(t->dmul, t->share, S, F);
    scale_rows(t->in, t->share, S, C);
    for (int64_t e = 0; e < cfg->experts; e++) {
        const int64_t s = t->begin[e], count = t->begin[e + 1] - s;
        sq_linear_grad_w(g, t->in + s * C, t->mul + s * F, b, r, SQ_DOWN + 3 * e, count, t);
    }
    if (sq_rounds(r)) {
        ops->swiglu(t->mul, t->gate, t->up, S * F);
        ops->rowquant_grad(t->dmul, NULL, NULL, t->dmul, t->mul, &r->act, NULL, NULL, S, F);
    }
    ops->swiglu_grad(t->gate, t->up, t->dmul, t->gate, t->up, S * F);
}

void sq_moe_backward(float *dmid, const struct sq_grads *g, const struct sq_block *b, const struct sq_run *r, int64_t n,
                     struct sq_trace *t)
{
    const struct sq_config *cfg = b->cfg;
    const struct sq_ops *ops = r->ops;
    const int64_t C = cfg->hidden, F = cfg->ffn, S = n * cfg->top;
    down_grad(t->dshare, dmid, g, b, r, n, t);

    ops->rmsnorm(t->z, C, t->rrms2, t->mid, C, b->gain[SQ_NORM2], cfg->eps, n, C);
    if (sq_rounds(r))
        ops->rowquant(t->zq, t->z, &r->act, NULL, NULL, n, C);
    gather(t->in, sq_rounds(r) ? t->zq : t->z, t, S, C);
    for (int64_t e = 0; e < cfg->experts; e++) {
        const int64_t s = t->begin[e], count = t->begin[e + 1] - s;
        sq_linear_grad_w(g, t->gate + s * F, t->in + s * C, b, r, SQ_GATE + 3 * e, count, t);
        sq_linear_grad_w(g, t->up + s * F, t->in + s * C, b, r, SQ_UP + 3 * e, count, t);
        sq_linear_grad_x(t->in + s * C, t->gate + s * F, b, r, SQ_GATE + 3 * e, count, false);
        sq_linear_grad_x(t->in + s * C, t->up + s * F, b, r, SQ_UP + 3 * e, count, true);
    }
    scatter(t->zq, false, t->in, NULL, t, n, cfg->top, C);
    if (sq_rounds(r))
        ops->rowquant_grad(t->zq, NULL, NULL, t->zq, t->z, &r->act, NULL, NULL, n, C);
    route_grad(t->zq, g, t->dlogit, t->dshare, t->z, b, r, n, t);
    ops->rmsnorm_grad(dmid, C, true, g->gain[SQ_NORM2], t->zq, C, t->mid, C, t->rrms2, b->gain[SQ_NORM2], n, C);
}
