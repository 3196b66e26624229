/* The arrays of a trace, and setting them aside. */
#include "trace.h"

#include <string.h>

enum { LINE = 16 }; /* arrays start on cache lines */

struct part {
    float **at;
    int64_t count;
};

static int64_t place(float *base, int64_t at, const struct part *part, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if (base)
            *part[i].at = part[i].count ? base + at : NULL;
        at += (part[i].count + LINE - 1) / LINE * LINE;
    }
    return at;
}

/* Outputs: of products and of the attention, what may be set aside in bf16; gate and up are the last ones. Exact: set aside in f32. */
enum { OUTPUTS = 7, EXACT = 8 };

static void outputs(struct part part[OUTPUTS], struct sq_trace *t, int64_t n)
{
    const struct sq_config *c = t->cfg;
    const int64_t q = n * c->heads * c->head_dim, kv = n * c->kv_heads * c->head_dim;
    const int64_t F = (c->experts > 0 ? n * c->top : n) * c->ffn;
    const struct part all[OUTPUTS] = {
        {&t->qraw, c->qk_norm ? q : 0}, {&t->kraw, c->qk_norm ? kv : 0}, {&t->v, kv}, {&t->out, q},
        {&t->mid, n * c->hidden}, {&t->gate, F}, {&t->up, F},
    };
    memcpy(part, all, sizeof all);
}

/* Probabilities are exp(q k - lse): rounded q and k would make rows of another sum, and what all keys have in common, a large
 * bias, would no longer cancel in dq. The rest is small; what else routing needs is made again from prob. */
static void exact(struct part part[EXACT], struct sq_trace *t, int64_t n)
{
    const struct sq_config *c = t->cfg;
    const int64_t D = c->head_dim, norm = c->qk_norm ? n : 0;
    const struct part all[EXACT] = {
        {&t->q, n * c->heads * D}, {&t->k, n * c->kv_heads * D}, {&t->lse, n * c->heads}, {&t->rrms1, n}, {&t->rrms2, n}, {&t->rrmsq, norm * c->heads},
        {&t->rrmsk, norm * c->kv_heads}, {&t->routing.prob, n * c->experts},
    };
    memcpy(part, all, sizeof all);
}

static int64_t lay_out_workspace(struct sq_trace *t, float *base, int64_t at)
{
    const struct sq_config *cfg = t->cfg;
    const bool moe = cfg->experts > 0;
    const int64_t n = t->rows, C = cfg->hidden, F = cfg->ffn, E = cfg->experts, slots = moe ? n * cfg->top : 0;
    const int64_t wide = SQ_MAX(C, cfg->heads * cfg->head_dim), z = n * (moe ? wide : SQ_MAX(wide, F));
    const int64_t mlp = moe ? slots : n, heads = (cfg->heads + 2 * cfg->kv_heads) * cfg->head_dim;
    const bool narrows = t->home->narrows;
    int64_t weights = 0, widest = 0;
    /* in floats' places: bytes, integers, doubles, bf16 */
    float *xo = NULL, *dyo = NULL, *codes = NULL, *sum = NULL, *chosen = NULL, *slot = NULL, *token = NULL, *begin = NULL, *dshare = NULL;
    for (int64_t i = 0, rows, cols; i < sq_config_linears(cfg); i++) {
        sq_linear_shape(&rows, &cols, cfg, i);
        weights = SQ_MAX(weights, sq_grad_strip(t->home, rows, cols) * cols);
        widest = SQ_MAX(widest, rows);
    }
    const struct part part[] = {
        {&t->in, slots * C},   {&t->mul, slots * F}, {&t->dmul, slots * F},
        {&t->z, z},            {&t->dw, weights},
        {&t->dbias, widest},   {&t->code.zero, n},   {&t->dlogit, n * E},
        {&t->low, mlp * SQ_LOW},
        {&codes, (z + 3) / 4}, {&sum, n},            {&t->code.scale, n},
        {&chosen, slots},      {&slot, 2 * slots},   {&token, 2 * slots},
        {&begin, moe ? 2 * E + 2 : 0}, {&dshare, 2 * slots}, {&t->routing.share, slots},
        {&xo, narrows ? (SQ_MAX(z, slots * SQ_MAX(C, F)) + 1) / 2 : 0},
        {&dyo, narrows ? (SQ_MAX(n * heads, mlp * SQ_MAX(C, 2 * F)) + 1) / 2 : 0},
        {&t->zq, z}, /* behind dyo, see trace.h */
    };
    at = place(base, at, part, SQ_COUNT(part));
    t->xo = (void *)xo;
    t->dyo = (void *)dyo;
    t->code.q = (void *)codes;
    t->code.sum = (void *)sum;
    t->routing.chosen = (void *)chosen;
    t->routing.slot = (void *)slot;
    t->routing.token = (void *)token;
    t->routing.begin = (void *)begin;
    t->dshare = (void *)dshare;
    return at;
}

/* What a forward leaves, one array behind the other. */
static int64_t lay_out_left(struct sq_trace *t, float *base)
{
    struct part part[OUTPUTS], rest[EXACT];
    outputs(part, t, t->rows);
    exact(rest, t, t->rows);
    return place(base, place(base, 0, rest, EXACT), part, OUTPUTS);
}

/* Sets the pointers; with base NULL it only counts floats. What a forward leaves comes first, gate and up last of it. */
static int64_t lay_out(struct sq_trace *t, float *base)
{
    const struct sq_config *cfg = t->cfg;
    const int64_t n = t->rows, q = n * cfg->heads * cfg->head_dim, kv = n * cfg->kv_heads * cfg->head_dim;
    const struct part heads[] = {{&t->qq, q}, {&t->kq, kv}, {&t->vq, kv}, {&t->dq, q}, {&t->dk, kv}, {&t->dv, kv}};
    struct part part[OUTPUTS];
    outputs(part, t, n);
    const int64_t end = lay_out_left(t, base), gate = end - place(NULL, 0, part + OUTPUTS - 2, 2);
    return lay_out_workspace(t, base, SQ_MAX(end, place(base, gate, heads, SQ_COUNT(heads))));
}

int64_t sq_trace_bytes(const struct sq_config *cfg, const struct sq_ops *home, int64_t batch, int64_t tokens)
{
    struct sq_trace t = {.cfg = cfg, .home = home, .rows = batch * tokens};
    return lay_out(&t, NULL) * (int64_t)sizeof(float);
}

int sq_trace_new(struct sq_trace **out, const struct sq_config *cfg, const struct sq_ops *home, int64_t batch,
                 int64_t tokens)
{
    struct sq_trace *t = NULL;
    void *all = NULL;
    int rc;
    *out = NULL;
    SQ_TRY(sq_alloc(&t, 1));
    t->cfg = cfg;
    t->home = home;
    t->rows = batch * tokens;
    t->routing = (struct sq_routing){.experts = cfg->experts, .top = cfg->top, .renorm = cfg->renorm};
    SQ_TRY(sq_alloc(&t->own_first, cfg->experts + 1));
    SQ_TRY(home->alloc(&all, (size_t)lay_out(t, NULL) * sizeof(float)));
    t->all = all;
    lay_out(t, t->all);
    sq_trace_keep(t, NULL);
    *out = t;
    return 0;
out:
    sq_trace_free(&t);
    return rc;
}

void sq_trace_free(struct sq_trace **t)
{
    if (!*t)
        return;
    (*t)->home->release((*t)->all);
    sq_free((*t)->own_first);
    sq_free(*t);
    *t = NULL;
}

/* ---- aside ---------------------------------------------------------------------------------- */

struct sq_kept {
    const struct sq_ops *home;
    enum sq_dtype type;
    void *all;      /* f32: a forward's own arrays; bf16: its exact ones, then its outputs */
    int64_t *first; /* the trace's */
};

int64_t sq_kept_bytes(const struct sq_config *cfg, int64_t batch, int64_t tokens, enum sq_dtype type)
{
    struct sq_trace t = {.cfg = cfg, .rows = batch * tokens};
    struct part part[OUTPUTS];
    outputs(part, &t, t.rows);
    const int64_t all = lay_out_left(&t, NULL), narrow = place(NULL, 0, part, OUTPUTS);
    return (all - narrow) * (int64_t)sizeof(float) + narrow * (int64_t)sq_dtype_size(type);
}

int sq_kept_new(struct sq_kept **out, const struct sq_config *cfg, const struct sq_ops *home, int64_t batch,
                int64_t tokens, enum sq_dtype type)
{
    struct sq_kept *k = NULL;
    int rc;
    *out = NULL;
    SQ_TRY(sq_alloc(&k, 1));
    k->home = home;
    k->type = type;
    SQ_TRY(sq_alloc(&k->first, cfg->experts + 1));
    SQ_TRY(home->alloc(&k->all, (size_t)sq_kept_bytes(cfg, batch, tokens, type)));
    *out = k;
    return 0;
out:
    sq_kept_free(&k);
    return rc;
}

void sq_kept_free(struct sq_kept **k)
{
    if (!*k)
        return;
    (*k)->home->release((*k)->all);
    sq_free((*k)->first);
    sq_free(*k);
    *k = NULL;
}

void sq_trace_keep(struct sq_trace *t, struct sq_kept *k)
{
    t->kept = k;
    t->first = k ? k->first : t->own_first;
    lay_out_left(t, k && k->type == SQ_F32 ? k->all : t->all);
}

typedef void copy_fn(const struct sq_ops *home, struct sq_floats kept, float *x, int64_t count);

/* Between the trace and bf16, n rows: the exact ones in f32, the outputs behind them. */
static void each_kept(struct sq_trace *t, int64_t n, copy_fn *copy)
{
    struct part part[EXACT + OUTPUTS];
    struct sq_floats at = {SQ_F32, t->kept->all};
    exact(part, t, n);
    outputs(part + EXACT, t, n);
    for (int i = 0; i < EXACT + OUTPUTS; at = sq_floats_from(at, part[i++].count)) {
        at.type = i < EXACT ? SQ_F32 : SQ_BF16;
        copy(t->home, at, *part[i].at, part[i].count);
    }
}

static void put(const struct sq_ops *home, struct sq_floats kept, float *x, int64_t count)
{
    home->narrow(kept, x, count);
}

static void get(const struct sq_ops *home, struct sq_floats kept, float *x, int64_t count)
{
    home->widen(x, kept, count);
}

void sq_trace_aside(struct sq_trace *t, int64_t n)
{
    if (t->kept && t->kept->type != SQ_F32)
        each_kept(t, n, put);
}

void sq_trace_restore(struct sq_trace *t, struct sq_kept *k, int64_t n)
{
    sq_trace_keep(t, k);
    if (!k)
        return;
    if (k->type != SQ_F32)
        each_kept(t, n, get);
    if (t->cfg->experts > 0)
        sq_moe_dispatch(t, t->home, n);
}

void sq_trace_round(struct sq_trace *t, enum sq_dtype type, int64_t n)
{
    struct part part[OUTPUTS];
    outputs(part, t, n);
    for (int i = 0; i < OUTPUTS; i++)
        t->home->round(*part[i].at, type, part[i].count);
}
