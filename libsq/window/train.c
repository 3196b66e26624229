/* One window: fold the parameters into the layers once per step, forward, loss, backward, AdamW. A linear's
 * gradient becomes its parameters' gradients as soon as the backward has it, so that one array serves all.
 *
 * All arrays lie where those of the operations do. On a device these are the original weights and the parameters of the
 * window's layers, too: train_bring() takes them there, a step only reads samples and targets and gives its loss. */
#include "sq/window.h"

#include <math.h>
#include <string.h>

#include "shards.h"
#include "sq/rng.h"
#include "sq/stop.h"
#include "sq/work.h"

struct sq_trainer {
    struct sq_config cfg;
    const struct sq_ops *ops;
    int64_t layers, batch, tokens, row; /* row: floats in one sample, T*C */
    bool codes;                         /* folded layers have them */
    struct sq_block *folded;            /* [layers] */
    struct sq_block *w;         /* on a device: [layers] the window's weights, */
    struct sq_params *p;        /* its parameters, */
    struct sq_member *member;   /* and both */
    struct sq_trace *trace;     /* of the layer at hand */
    struct sq_kept **kept;      /* [layers - 1], NULL until a window needs them: the layers before the last one */
    float *gain[SQ_GAINS], *router, *gains; /* gradients of the layer at hand; gains [ngain] holds them all */
    int64_t ngain;
    float **x; /* [layers + 1] -> [batch,T,C]: inputs of the layers and the output, which becomes its gradient */
    float *cos, *sin;
    double *sums; /* [SUMS] of losses and what else a step counts */
    struct sq_params none;
    const int64_t *next; /* samples [nnext] of the step after the one at hand */
    int64_t nnext;
};

enum { LOSS, HELDOUT, NOT_FINITE, SUMS };

static bool on_device(const struct sq_trainer *t)
{
    return t->ops != t->ops->host;
}

/* Counts with base NULL. */
static int64_t lay_out_gains(struct sq_trainer *t, float *base)
{
    int64_t at = 0;
    for (int g = 0; g < SQ_GAINS; g++) {
        const int64_t n = sq_gain_size(&t->cfg, (enum sq_gain_id)g);
        t->gain[g] = base && n ? base + at : NULL;
        at += n;
    }
    t->router = base && t->cfg.experts ? base + at : NULL;
    return at + t->cfg.experts * t->cfg.hidden;
}

/* Products that round their operands lose nothing when a folded layer is rounded before. */
static enum sq_dtype product_type(const struct sq_ops *ops)
{
    return ops->precision == SQ_BF16_PRODUCTS ? SQ_BF16 : SQ_F32;
}

/* They lose little when what they made is rounded while it waits for the backward. On a device the two passes over memory
 * cost more than half the bytes are worth. */
static enum sq_dtype kept_type(const struct sq_ops *ops)
{
    return ops == ops->host ? product_type(ops) : SQ_F32;
}

static bool has_codes(const struct sq_config *c, const struct sq_ops *ops, const struct sq_scheme *s)
{
    const int64_t widest = SQ_MAX(SQ_MAX(c->hidden, c->ffn), c->heads * c->head_dim);
    return s && ops->fast_codes && sq_scheme_codes(s, widest);
}

/* What the backward on a device takes from the fold. */
static bool has_ends(const struct sq_ops *ops, const struct sq_scheme *s)
{
    return s && ops != ops->host && s->wbits < 16;
}

const struct sq_ops *train_ops(const struct sq_trainer *t)
{
    return t->ops;
}

int64_t sq_trainer_bytes(const struct sq_config *cfg, const struct sq_ops *ops, const struct sq_scheme *s,
                         int64_t layers, int64_t batch, int64_t tokens, bool recompute)
{
    const enum sq_dtype type = product_type(ops);
    const int64_t size = (int64_t)sq_dtype_size(type);
    const int64_t coded = has_codes(cfg, ops, s) ? sq_coded_linears(cfg) : 0;
    const int64_t router = 4 * cfg->experts * cfg->hidden;
    int64_t weights = 8 * cfg->hidden + router, rows, cols;
    for (int64_t i = 0; i < sq_config_linears(cfg); i++) {
        sq_linear_shape(&rows, &cols, cfg, i);
        weights += (size + (i < coded)) * rows * cols + (sq_linear_has_bias(cfg, i) ? 4 * rows : 0);
    }
    if (has_ends(ops, s))
        weights += 4 * sq_block_ends_floats(cfg, s->group);
    const int64_t acts = batch * tokens * cfg->hidden;
    return layers * weights + router + 4 * ((layers + 1) * acts + tokens * cfg->head_dim) +
           sq_trace_bytes(cfg, ops, batch, tokens) +
           (recompute ? 0 : layers - 1) * sq_kept_bytes(cfg, batch, tokens, kept_type(ops));
}

static int alloc_floats(float **out, const struct sq_trainer *t, int64_t n)
{
    void *x = NULL;
    const int rc = t->ops->alloc(&x, (size_t)n * sizeof **out);
    *out = x;
    return rc;
}

static int alloc_rope(struct sq_trainer *t)
{
    const int64_t n = t->tokens * t->cfg.head_dim / 2;
    float *host = NULL;
    int rc;
    SQ_TRY(sq_alloc(&host, 2 * n));
    sq_rope_table(host, host + n, &t->cfg, t->tokens);
    SQ_TRY(alloc_floats(&t->cos, t, 2 * n));
    t->sin = t->cos + n;
    t->ops->put(t->cos, host, (size_t)(2 * n) * sizeof *host);
    rc = t->ops->wait();
out:
    sq_free(host);
    return rc;
}

/* For layers without parameters. */
static int alloc_none(struct sq_trainer *t)
{
    const struct sq_scheme none = {.wbits = 16, .abits = 16, .rate = 1.0};
    const struct sq_params_spec spec = {.rank = 1, .clip_start = 4.0};
    struct sq_params host;
    int rc = sq_params_new(&host, &t->cfg, &none, &spec, 0);
    if (rc < 0)
        return rc;
    if (!on_device(t)) {
        t->none = host;
        return 0;
    }
    rc = sq_params_mirror(&t->none, &host, &t->cfg, t->ops);
    sq_params_release(&host);
    return rc;
}

static int alloc_all(struct sq_trainer *t, const struct sq_scheme *s)
{
    const int64_t n = t->batch * t->row;
    void *sums = NULL;
    int rc;
    SQ_TRY(sq_alloc(&t->folded, t->layers));
    SQ_TRY(sq_alloc(&t->w, t->layers));
    SQ_TRY(sq_alloc(&t->p, t->layers));
    SQ_TRY(sq_alloc(&t->member, t->layers));
    SQ_TRY(sq_alloc(&t->kept, t->layers));
    SQ_TRY(sq_trace_new(&t->trace, &t->cfg, t->ops, t->batch, t->tokens));
    SQ_TRY(sq_alloc(&t->x, t->layers + 1));
    t->ngain = lay_out_gains(t, NULL);
    SQ_TRY(alloc_floats(&t->gains, t, t->ngain));
    lay_out_gains(t, t->gains);
    for (int64_t i = 0; i <= t->layers; i++)
        SQ_TRY(alloc_floats(&t->x[i], t, n));
    for (int64_t i = 0; i < t->layers; i++) {
        SQ_TRY(sq_block_new_at(&t->folded[i], &t->cfg, product_type(t->ops), t->ops));
        if (t->codes)
            SQ_TRY(sq_block_codes(&t->folded[i]));
        if (has_ends(t->ops, s))
            SQ_TRY(sq_block_ends(&t->folded[i], s->group));
    }
    SQ_TRY(alloc_rope(t));
    SQ_TRY(t->ops->alloc(&sums, SUMS * sizeof *t->sums));
    t->sums = sums;
    SQ_TRY(alloc_none(t));
out:
    return rc;
}

int sq_trainer_new(struct sq_trainer **out, const struct sq_config *cfg, const struct sq_ops *ops,
                   const struct sq_scheme *s, int64_t layers, int64_t batch, int64_t tokens)
{
    struct sq_trainer *t = NULL;
    int rc = sq_alloc(&t, 1);
    *out = NULL;
    if (rc < 0)
        return rc;
    t->cfg = *cfg;
    t->ops = ops;
    t->codes = has_codes(cfg, ops, s);
    t->layers = layers;
    t->batch = batch;
    t->tokens = tokens;
    t->row = tokens * cfg->hidden;
    rc = alloc_all(t, s);
    if (rc < 0)
        sq_trainer_free(&t);
    *out = t;
    return rc;
}

void sq_trainer_free(struct sq_trainer **out)
{
    struct sq_trainer *t = *out;
    if (!t)
        return;
    sq_params_release(&t->none);
    sq_trace_free(&t->trace);
    for (int64_t i = 0; i < t->layers; i++) {
        if (t->kept)
            sq_kept_free(&t->kept[i]);
        if (t->folded)
            sq_block_release(&t->folded[i]);
        if (t->w)
            sq_block_release(&t->w[i]);
        if (t->p)
            sq_params_release(&t->p[i]);
    }
    for (int64_t i = 0; t->x && i <= t->layers; i++)
        t->ops->release(t->x[i]);
    void *const there[] = {t->gains, t->cos, t->sums};
    void *const part[] = {t->folded, t->w, t->p, t->member, t->kept, t->x, t};
    for (int i = 0; i < SQ_COUNT(there); i++)
        t->ops->release(there[i]);
    for (int i = 0; i < SQ_COUNT(part); i++)
        sq_free(part[i]);
    *out = NULL;
}

/* ---- to the device, and back ---- */

static int bring_one(struct sq_trainer *t, int64_t k, const struct sq_member *m)
{
    int rc;
    SQ_TRY(sq_block_mirror(&t->w[k], m->w, &t->cfg, t->ops));
    sq_params_release(&t->p[k]);
    if (m->p)
        SQ_TRY(sq_params_mirror(&t->p[k], m->p, &t->cfg, t->ops));
    t->member[k] = (struct sq_member){.w = &t->w[k], .p = m->p ? &t->p[k] : NULL};
out:
    return rc;
}

int train_bring(const struct sq_member **here, struct sq_trainer *t, const struct sq_member *m, int64_t n)
{
    int rc = 0;
    SQ_ASSERT(n <= t->layers);
    t->ops->forget();
    *here = on_device(t) ? t->member : m;
    for (int64_t k = 0; rc == 0 && on_device(t) && k < n; k++)
        rc = bring_one(t, k, &m[k]);
    return rc;
}

/* What was learned, to the members of the job. */
static int take_back(const struct sq_trainer *t, const struct sq_window_job *job)
{
    int rc = 0;
    for (int64_t k = 0; rc == 0 && on_device(t) && k < job->n; k++)
        rc = sq_params_get(job->member[k].p, &t->p[k]);
    return rc;
}

/* ---- forward ---- */

static struct sq_run run_of(const struct sq_trainer *t, const struct sq_scheme *s)
{
    struct sq_run r = {.ops = t->ops, .cos = t->cos, .sin = t->sin, .tokens = t->tokens};
    r.act = s ? sq_scheme_acts(s) : (struct sq_rowq){.bits = 16, .rate = 1.0};
    return r;
}

static void fold(struct sq_trainer *t, int64_t slot, const struct sq_member *m, const struct sq_scheme *s,
                 bool plain)
{
    struct sq_params *p = plain || !m->p ? &t->none : m->p;
    const enum sq_work before = sq_work_begin(SQ_WORK_WEIGHTS);
    sq_params_project(p, t->ops);
    sq_fold(&t->folded[slot], m->w, p, s, t->ops);
    (void)sq_work_begin(before);
}

/* x [batch,T,C] through n layers, in place */
static int through(struct sq_trainer *t, float *x, int64_t batch, const struct sq_block *block, int64_t n,
                   const struct sq_run *run, struct sq_input_stats *stats)
{
    int rc = 0;
    for (int64_t k = 0; rc == 0 && k < n; k++) {
        sq_block_forward(x, x, &block[k], run, batch, t->trace, stats);
        rc = sq_stop_check();
    }
    return rc;
}

/* y = x through n layers, batch by batch; y may be x */
static int forward(struct sq_trainer *t, struct sq_floats y, struct sq_floats x, int64_t samples,
                   const struct sq_block *block, int64_t n, const struct sq_run *run, struct sq_input_stats *stats)
{
    int rc = 0;
    for (int64_t i = 0; rc == 0 && i < samples; i += t->batch) {
        const int64_t batch = SQ_MIN(t->batch, samples - i);
        t->ops->from_host(t->x[0], sq_floats_from(x, i * t->row), batch * t->row);
        rc = through(t, t->x[0], batch, block, n, run, stats);
        t->ops->to_host(sq_floats_from(y, i * t->row), t->x[0], batch * t->row);
    }
    const int arrived = t->ops->wait(); /* also when it was stopped: y is the caller's again */
    return rc < 0 ? rc : arrived;
}

/* The device's sums are added to the host's. */
static int add_stats(struct sq_input_stats *to, const struct sq_input_stats *there)
{
    double *sum = NULL;
    int rc;
    SQ_TRY(sq_alloc(&sum, there->count));
    SQ_TRY(there->home->get(sum, there->qkv, (size_t)there->count * sizeof *sum));
    for (int64_t i = 0; i < there->count; i++)
        to->qkv[i] += sum[i];
    to->tokens += there->tokens;
out:
    sq_free(sum);
    return rc;
}

int sq_trainer_float(struct sq_trainer *t, struct sq_floats x, int64_t samples, const struct sq_block *w,
                     struct sq_input_stats *stats)
{
    const struct sq_run run = run_of(t, NULL);
    const struct sq_member m = {.w = w}, *here;
    const bool apart = stats && on_device(t);
    struct sq_input_stats there = {0};
    int rc;
    SQ_TRY(train_bring(&here, t, &m, 1));
    if (apart)
        SQ_TRY(sq_input_stats_new(&there, &t->cfg, t->ops));
    SQ_TRY(forward(t, x, x, samples, here->w, 1, &run, apart ? &there : stats));
    if (apart)
        rc = add_stats(stats, &there);
out:
    sq_input_stats_release(&there);
    return rc;
}

int sq_trainer_rounded(struct sq_trainer *t, struct sq_floats x, int64_t samples, const struct sq_member *m,
                       const struct sq_scheme *s)
{
    const struct sq_run run = run_of(t, s);
    const struct sq_member *here;
    const int rc = train_bring(&here, t, m, 1);
    if (rc < 0)
        return rc;
    fold(t, 0, here, s, false);
    return forward(t, x, x, samples, t->folded, 1, &run, NULL);
}

int sq_trainer_search(struct sq_trainer *t, const struct sq_member *m, const struct sq_scheme *s,
                      const struct sq_input_stats *stats)
{
    const struct sq_member *here;
    int rc;
    SQ_TRY(train_bring(&here, t, m, 1));
    SQ_TRY(sq_params_search(here->p, t->ops, here->w, s, stats));
    if (on_device(t))
        rc = sq_params_get(m->p, here->p);
out:
    return rc;
}

int sq_window_forward(struct sq_floats y, struct sq_trainer *t, const struct sq_window_job *job)
{
    const struct sq_run run = run_of(t, &job->scheme);
    const struct sq_member *here;
    const int rc = train_bring(&here, t, job->member, job->n);
    for (int64_t k = 0; rc == 0 && k < job->n; k++)
        fold(t, k, &here[k], &job->scheme, false);
    return rc < 0 ? rc : forward(t, y, job->xq, job->samples, t->folded, job->n, &run, NULL);
}

int sq_window_eval(struct sq_losses *out, struct sq_trainer *t, const struct sq_window_job *job, bool plain)
{
    const struct sq_run run = run_of(t, &job->scheme);
    const int64_t train = job->samples - job->heldout;
    const struct sq_member *here;
    double sum[SUMS];
    int rc;
    SQ_TRY(train_bring(&here, t, job->member, job->n));
    for (int64_t k = 0; k < job->n; k++)
        fold(t, k, &here[k], &job->scheme, plain);
    t->ops->clear(t->sums, sizeof sum);
    for (int64_t i = 0, batch; i < job->samples; i += batch) {
        const int64_t end = i < train ? train : job->samples;
        batch = SQ_MIN(t->batch, end - i);
        t->ops->from_host(t->x[0], sq_floats_from(job->xq, i * t->row), batch * t->row);
        SQ_TRY(through(t, t->x[0], batch, t->folded, job->n, &run, NULL));
        t->ops->loss(t->sums + (i < train ? LOSS : HELDOUT), NULL, t->x[0], sq_floats_from(job->target, i * t->row),
                     job->weight + i * t->tokens, batch * t->tokens, t->cfg.hidden, 0.0);
    }
    SQ_TRY(t->ops->get(sum, t->sums, sizeof sum));
    out->train = sum[LOSS] / (double)SQ_MAX(train * t->tokens, 1);
    out->heldout = sum[HELDOUT] / (double)SQ_MAX(job->heldout * t->tokens, 1);
out:
    return rc;
}

/* ---- training ---- */

/* Who waits for the gradients of a layer's linears. */
struct receiver {
    const struct sq_trainer *t;
    const struct sq_window_job *job;
    int64_t k;
};

static void receive(void *ctx, int64_t linear, int64_t first, int64_t last, float *dw, float *dbias)
{
    const struct receiver *r = ctx;
    const struct sq_member *m = &r->job->member[r->k];
    const enum sq_work before = sq_work_begin(SQ_WORK_WEIGHTS);
    sq_fold_grad_rows(m->p, linear, first, last, dw, dbias, m->w, &r->t->folded[r->k], &r->job->scheme,
                      r->t->ops);
    (void)sq_work_begin(before);
}

static int64_t columns(void *ctx, int64_t linear)
{
    const struct receiver *r = ctx;
    const struct sq_member *m = &r->job->member[r->k];
    return sq_fold_grad_columns(m->p, linear, m->w, &r->job->scheme);
}

static void receive_rest(void *ctx, int64_t linear, struct sq_mat dy, struct sq_mat x, int64_t n, float *space)
{
    const struct receiver *r = ctx;
    const struct sq_member *m = &r->job->member[r->k];
    const enum sq_work before = sq_work_begin(SQ_WORK_WEIGHTS);
    sq_fold_grad_rest(m->p, linear, dy, x, n, space, m->w, &r->job->scheme, r->t->ops);
    (void)sq_work_begin(before);
}

/* Where layer k leaves what its backward needs; NULL: in the trace, which no other layer uses before, or nowhere. */
static struct sq_kept *kept_of(const struct sq_trainer *t, const struct sq_window_job *job, int64_t k)
{
    return k < job->n - 1 && !job->recompute ? t->kept[k] : NULL;
}

/* A layer but the last one leaves the trace to the next: what its backward needs comes back, or is made again, rounded
 * alike. */
static void bring_back(struct sq_trainer *t, const struct sq_window_job *job, int64_t k, const struct sq_run *run,
                       int64_t n)
{
    sq_trace_restore(t->trace, kept_of(t, job, k), n * t->tokens);
    if (k == job->n - 1 || !job->recompute)
        return;
    sq_block_forward(t->x[k + 1], t->x[k], &t->folded[k], run, n, t->trace, NULL);
    sq_trace_round(t->trace, kept_type(t->ops), n * t->tokens);
}

/* d: in, the gradient at the output of layer k; out, at its input */
static void backward(float *d, struct sq_trainer *t, const struct sq_window_job *job, int64_t k,
                     const struct sq_run *run, int64_t n)
{
    struct receiver r = {.t = t, .job = job, .k = k};
    struct sq_grads g = {.input = k > 0, .router = t->router, .linear = receive, .columns = columns,
                         .rest = receive_rest, .ctx = &r};
    memcpy(g.gain, t->gain, sizeof g.gain);
    t->ops->clear(t->gains, (size_t)t->ngain * sizeof *t->gains);
    sq_fold_grad_begin(job->member[k].p, &g, &t->cfg);
    bring_back(t, job, k, run, n);
    sq_block_backward(d, &g, t->x[k], &t->folded[k], run, n, t->trace);
    sq_fold_grad_end(job->member[k].p, &g, job->member[k].w);
}

int train_fold(struct sq_trainer *t, const struct sq_window_job *job)
{
    int rc = 0;
    if (t->ops->replay(SQ_PART_FOLD, 0))
        return 0;
    for (int64_t k = 0; rc == 0 && k < job->n; k++) {
        fold(t, k, &job->member[k], &job->scheme, false);
        rc = sq_stop_check();
    }
    t->ops->recorded(SQ_PART_FOLD);
    return rc;
}

/* What the gradients of one part, or of a whole batch, have of NaN and Inf joins the sums. */
static void count_odd(struct sq_trainer *t, const struct sq_window_job *job)
{
    struct learned at = {0};
    for (const struct sq_param *q; (q = learned_next(&at, job));)
        t->ops->not_finite(t->sums + NOT_FINITE, q->grad, q->n);
}

/* x[0] through the layers to x[n], n samples; what the backward needs is kept. */
static int part_forward(struct sq_trainer *t, const struct sq_window_job *job, const struct sq_run *run, int64_t n)
{
    int rc = 0;
    for (int64_t k = 0; rc == 0 && k < job->n; k++) {
        sq_trace_keep(t->trace, kept_of(t, job, k));
        sq_block_forward(t->x[k + 1], t->x[k], &t->folded[k], run, n, t->trace, NULL);
        rc = sq_stop_check();
    }
    return rc;
}

static int part_backward(struct sq_trainer *t, const struct sq_window_job *job, const struct sq_run *run, int64_t n)
{
    int rc = 0;
    for (int64_t k = job->n - 1; rc == 0 && k >= 0; k--) {
        backward(t->x[job->n], t, job, k, run, n);
        rc = sq_stop_check();
    }
    sq_trace_keep(t->trace, NULL);
    count_odd(t, job);
    return rc;
}

typedef int part_fn(struct sq_trainer *t, const struct sq_window_job *job, const struct sq_run *run, int64_t n);

static int repeat(enum sq_part part, part_fn *queue, struct sq_trainer *t, const struct sq_window_job *job,
                  const struct sq_run *run, int64_t n)
{
    int rc;
    if (t->cfg.experts > 0) /* the host learns what each expert gets before it can go on */
        return queue(t, job, run, n);
    if (t->ops->replay(part, n))
        return sq_stop_check();
    rc = queue(t, job, run, n);
    t->ops->recorded(part);
    return rc;
}

/* While the device computes, what it reads first in the next step. */
static void expect_next(struct sq_trainer *t, const struct sq_window_job *job)
{
    for (int64_t i = 0; i < t->nnext; i++)
        t->ops->expect(sq_floats_from(job->xq, t->next[i] * t->row), t->row);
    t->nnext = 0;
}

int train_part(double *loss, struct sq_trainer *t, const struct sq_window_job *job, const int64_t *pick, int64_t n,
               int64_t batch)
{
    const struct sq_run run = run_of(t, &job->scheme);
    float *const y = t->x[job->n];
    double sum[SUMS];
    int rc;
    t->ops->clear(t->sums, sizeof sum);
    for (int64_t i = 0; i < n; i++)
        t->ops->from_host(t->x[0] + i * t->row, sq_floats_from(job->xq, pick[i] * t->row), t->row);
    SQ_TRY(repeat(SQ_PART_FORWARD, part_forward, t, job, &run, n));
    for (int64_t i = 0; i < n; i++)
        t->ops->loss(t->sums + LOSS, y + i * t->row, y + i * t->row, sq_floats_from(job->target, pick[i] * t->row),
                     job->weight + pick[i] * t->tokens, t->tokens, t->cfg.hidden, 1.0 / (double)(batch * t->tokens));
    SQ_TRY(repeat(SQ_PART_BACKWARD, part_backward, t, job, &run, n));
    expect_next(t, job);
    SQ_TRY(t->ops->get(sum, t->sums, sizeof sum));
    *loss = sum[NOT_FINITE] > 0 ? NAN : sum[LOSS];
out:
    return rc;
}

int train_init(struct sq_trainer *t, const struct sq_window_job *job)
{
    for (int64_t k = 0; k < job->n - 1 && !job->recompute; k++) {
        const int rc = t->kept[k] ? 0
                                  : sq_kept_new(&t->kept[k], &t->cfg, t->ops, t->batch, t->tokens, kept_type(t->ops));
        if (rc < 0)
            return rc;
    }
    for (int64_t k = 0; k < job->n; k++) {
        const int rc = sq_params_train(job->member[k].p);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* The mean loss of a batch, and its gradients; sum is shards_grad's. */
static int batch_grad(double *loss, float *sum, struct sq_trainer *t, const struct sq_window_job *job, int64_t step,
                      const int64_t *pick, int64_t n)
{
    const int rc = shards_grad(loss, sum, t, job, step, pick, n);
    *loss /= (double)(n * t->tokens);
    return rc;
}

/* The gradients to the job's own parameters. */
static int take_gradients(const struct sq_trainer *t, const struct sq_window_job *job)
{
    int rc = 0;
    for (int64_t k = 0; on_device(t) && k < job->n; k++) {
        struct sq_params *p = job->member[k].p;
        SQ_TRY(sq_params_train(p));
        for (int64_t i = 0; i < p->nparam; i++)
            SQ_TRY(t->ops->get(p->param[i].grad, t->p[k].param[i].grad, (size_t)p->param[i].n * sizeof(float)));
    }
out:
    return rc;
}

int sq_window_grad(double *loss, struct sq_trainer *t, const struct sq_window_job *job, const int64_t *pick,
                   int64_t n)
{
    struct sq_window_job here = *job;
    float *sum = NULL;
    int rc;
    SQ_ASSERT(n <= t->batch * SQ_MAX(job->shards, 1) && job->n <= t->layers);
    SQ_TRY(train_bring(&here.member, t, job->member, job->n));
    SQ_TRY(train_init(t, &here));
    SQ_TRY(alloc_floats(&sum, t, shards_floats(job)));
    SQ_TRY(batch_grad(loss, sum, t, &here, 0, pick, n));
    rc = take_gradients(t, job);
out:
    t->ops->release(sum);
    return rc;
}

int64_t sq_window_steps(const struct sq_window_job *job)
{
    const int64_t whole = job->picks / job->epoch, rest = job->picks % job->epoch;
    return whole * ((job->epoch + job->batch - 1) / job->batch) + (rest + job->batch - 1) / job->batch;
}

/* step counts from 0; the factor falls to 0 behind the last one */
static void update(struct sq_trainer *t, const struct sq_window_job *job, int64_t step, int64_t steps)
{
    const enum sq_work before = sq_work_begin(SQ_WORK_OPTIMIZER);
    const double fall = (double)job->batch * (1.0 - (double)step / (double)steps);
    struct learned at = {0};
    for (struct sq_param *q; (q = learned_next(&at, job));)
        t->ops->adamw(q->x, q->m, q->v, q->grad, q->n, step + 1, job->lr[q->kind] * fall);
    (void)sq_work_begin(before);
}

/* of the step that begins with the at-th pick */
static int64_t samples_from(const struct sq_window_job *job, int64_t at)
{
    const int64_t left = SQ_MIN(job->epoch - at % job->epoch, job->picks - at);
    return SQ_MIN(job->batch, left);
}

/* 1: to the end; 0: a loss or a gradient was not finite. */
static int train(struct sq_trainer *t, const struct sq_window_job *job)
{
    const int64_t steps = sq_window_steps(job);
    float *sum = NULL;
    int rc;
    SQ_TRY(train_init(t, job));
    SQ_TRY(alloc_floats(&sum, t, shards_floats(job)));
    for (int64_t step = 0, at = 0; step < steps; step++) {
        const int64_t n = samples_from(job, at);
        double loss;
        t->next = job->order + at + n;
        t->nnext = samples_from(job, at + n);
        SQ_TRY(batch_grad(&loss, sum, t, job, step, job->order + at, n));
        if (!isfinite(loss)) {
            rc = sq_stop_check();
            goto out;
        }
        update(t, job, step, steps);
        at += n;
        SQ_TRY(job->step ? job->step(job->ctx, step, steps, loss) : 0);
    }
    for (int64_t k = 0; k < job->n; k++)
        sq_params_project(job->member[k].p, t->ops);
    rc = 1;
out:
    t->ops->release(sum);
    return rc;
}

int sq_window_train(struct sq_trainer *t, const struct sq_window_job *job)
{
    struct sq_window_job here = *job;
    int rc;
    SQ_ASSERT(job->n <= t->layers && job->batch <= t->batch * SQ_MAX(job->shards, 1));
    SQ_TRY(train_bring(&here.member, t, job->member, job->n));
    SQ_TRY(train(t, &here));
    const int done = rc;
    SQ_TRY(take_back(t, job));
    return done;
out:
    return rc;
}

int sq_window_order(int64_t *order, int64_t picks, int64_t samples, int64_t seed, const struct sq_window *w,
                    double rate)
{
    int64_t *epoch = NULL;
    int rc = sq_alloc(&epoch, samples);
    if (rc < 0)
        return rc;
    for (int64_t at = 0, e = 0; at < picks; at += samples, e++) {
        struct sq_rng r = sq_rng_init((uint64_t)seed, SQ_RNG_ORDER, (uint64_t)w->first, (uint64_t)w->last,
                                      (uint64_t)llround(rate * 1e9), (uint64_t)e);
        for (int64_t i = 0; i < samples; i++)
            epoch[i] = i;
        sq_rng_shuffle(&r, epoch, samples);
        memcpy(order + at, epoch, (size_t)SQ_MIN(samples, picks - at) * sizeof(*order));
    }
    sq_free(epoch);
    return 0;
}
