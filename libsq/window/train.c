/* One window: fold the parameters into the layers once per step, forward, loss, backward, AdamW. A linear's
 * gradient becomes its parameters' gradients as soon as the backward has it, so that one array serves all. */
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
    struct sq_trace *trace;     /* of the layer at hand */
    struct sq_kept **kept;      /* [layers - 1], NULL until a window needs them: the layers before the last one */
    float *gain[SQ_GAINS], *router, *gains; /* gradients of the layer at hand; gains [ngain] holds them all */
    int64_t ngain;
    float **x; /* [layers + 1] -> [batch,T,C]: inputs of the layers and the output, which becomes its gradient */
    float *cos, *sin;
    struct sq_params none;
};

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

/* Products that round their operands lose nothing when a folded layer is rounded before, and little when what they made is
 * rounded while it waits for the backward. */
static enum sq_dtype product_type(const struct sq_ops *ops)
{
    return ops->precision == SQ_BF16_PRODUCTS ? SQ_BF16 : SQ_F32;
}

static bool has_codes(const struct sq_config *c, const struct sq_ops *ops, const struct sq_scheme *s)
{
    const int64_t widest = SQ_MAX(SQ_MAX(c->hidden, c->ffn), c->heads * c->head_dim);
    return s && ops->fast_codes && sq_scheme_codes(s, widest);
}

int64_t sq_trainer_bytes(const struct sq_config *cfg, const struct sq_ops *ops, const struct sq_scheme *s,
                         int64_t layers, int64_t batch, int64_t tokens, bool recompute)
{
    const enum sq_dtype type = product_type(ops);
    const int64_t size = (int64_t)sq_dtype_size(type);
    const int64_t coded = has_codes(cfg, ops, s) ? sq_coded_linears(cfg) : 0;
    int64_t weights = 8 * cfg->hidden, rows, cols;
    for (int64_t i = 0; i < sq_config_linears(cfg); i++) {
        sq_linear_shape(&rows, &cols, cfg, i);
        weights += (size + (i < coded)) * rows * cols + (sq_linear_has_bias(cfg, i) ? 4 * rows : 0);
    }
    const int64_t acts = batch * tokens * cfg->hidden;
    return layers * weights + 4 * ((layers + 1) * acts + tokens * cfg->head_dim) +
           sq_trace_bytes(cfg, batch, tokens) +
           (recompute ? 0 : layers - 1) * sq_kept_bytes(cfg, batch, tokens, type);
}

static int alloc_all(struct sq_trainer *t)
{
    const int64_t n = t->batch * t->row;
    const struct sq_scheme none = {.wbits = 16, .abits = 16, .rate = 1.0};
    const struct sq_params_spec spec = {.rank = 1, .clip_start = 4.0};
    int rc;
    SQ_TRY(sq_alloc(&t->folded, t->layers));
    SQ_TRY(sq_alloc(&t->kept, t->layers));
    SQ_TRY(sq_trace_new(&t->trace, &t->cfg, t->batch, t->tokens));
    SQ_TRY(sq_alloc(&t->x, t->layers + 1));
    t->ngain = lay_out_gains(t, NULL);
    SQ_TRY(sq_alloc(&t->gains, t->ngain));
    lay_out_gains(t, t->gains);
    for (int64_t i = 0; i <= t->layers; i++)
        SQ_TRY(sq_alloc(&t->x[i], n));
    for (int64_t i = 0; i < t->layers; i++) {
        SQ_TRY(sq_block_new(&t->folded[i], &t->cfg, product_type(t->ops)));
        if (t->codes)
            SQ_TRY(sq_block_codes(&t->folded[i]));
    }
    SQ_TRY(sq_alloc(&t->cos, t->tokens * t->cfg.head_dim / 2));
    SQ_TRY(sq_alloc(&t->sin, t->tokens * t->cfg.head_dim / 2));
    SQ_TRY(sq_params_new(&t->none, &t->cfg, &none, &spec, 0));
    sq_rope_table(t->cos, t->sin, &t->cfg, t->tokens);
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
    rc = alloc_all(t);
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
    }
    for (int64_t i = 0; t->x && i <= t->layers; i++)
        sq_free(t->x[i]);
    void *const part[] = {t->folded, t->gains, t->kept, t->x, t->cos, t->sin, t};
    for (int i = 0; i < SQ_COUNT(part); i++)
        sq_free(part[i]);
    *out = NULL;
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
    sq_params_project(p);
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
        sq_floats_get(t->x[0], sq_floats_from(x, i * t->row), batch * t->row);
        rc = through(t, t->x[0], batch, block, n, run, stats);
        sq_floats_put(sq_floats_from(y, i * t->row), t->x[0], batch * t->row);
    }
    return rc;
}

int sq_trainer_float(struct sq_trainer *t, struct sq_floats x, int64_t samples, const struct sq_block *w,
                     struct sq_input_stats *stats)
{
    const struct sq_run run = run_of(t, NULL);
    return forward(t, x, x, samples, w, 1, &run, stats);
}

int sq_trainer_rounded(struct sq_trainer *t, struct sq_floats x, int64_t samples, const struct sq_member *m,
                       const struct sq_scheme *s)
{
    const struct sq_run run = run_of(t, s);
    fold(t, 0, m, s, false);
    return forward(t, x, x, samples, t->folded, 1, &run, NULL);
}

int sq_window_forward(struct sq_floats y, struct sq_trainer *t, const struct sq_window_job *job)
{
    const struct sq_run run = run_of(t, &job->scheme);
    for (int64_t k = 0; k < job->n; k++)
        fold(t, k, &job->member[k], &job->scheme, false);
    return forward(t, y, job->xq, job->samples, t->folded, job->n, &run, NULL);
}

int sq_window_eval(struct sq_losses *out, struct sq_trainer *t, const struct sq_window_job *job, bool plain)
{
    const struct sq_run run = run_of(t, &job->scheme);
    const int64_t train = job->samples - job->heldout;
    double sum[2] = {0.0, 0.0};
    for (int64_t k = 0; k < job->n; k++)
        fold(t, k, &job->member[k], &job->scheme, plain);
    for (int64_t i = 0, batch; i < job->samples; i += batch) {
        const int64_t end = i < train ? train : job->samples;
        batch = SQ_MIN(t->batch, end - i);
        sq_floats_get(t->x[0], sq_floats_from(job->xq, i * t->row), batch * t->row);
        const int rc = through(t, t->x[0], batch, t->folded, job->n, &run, NULL);
        if (rc < 0)
            return rc;
        sum[i >= train] += sq_loss_grad(NULL, t->x[0], sq_floats_from(job->target, i * t->row),
                                        job->weight + i * t->tokens, batch * t->tokens, t->cfg.hidden, 0.0);
    }
    out->train = sum[0] / (double)SQ_MAX(train * t->tokens, 1);
    out->heldout = sum[1] / (double)SQ_MAX(job->heldout * t->tokens, 1);
    return 0;
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
    sq_fold_grad_rows(m->p, linear, first, last, dw, dbias, m->w, &r->job->scheme, r->t->ops);
    (void)sq_work_begin(before);
}

/* A layer but the last one leaves the trace to the next: what its backward needs comes back, or is made again, rounded
 * alike. */
static void bring_back(struct sq_trainer *t, const struct sq_window_job *job, int64_t k, const struct sq_run *run,
                       int64_t n)
{
    if (k == job->n - 1)
        return;
    if (!job->recompute) {
        sq_trace_restore(t->trace, t->kept[k], n * t->tokens);
        return;
    }
    sq_block_forward(t->x[k + 1], t->x[k], &t->folded[k], run, n, t->trace, NULL);
    sq_trace_round(t->trace, product_type(t->ops), n * t->tokens);
}

/* d: in, the gradient at the output of layer k; out, at its input */
static void backward(float *d, struct sq_trainer *t, const struct sq_window_job *job, int64_t k,
                     const struct sq_run *run, int64_t n)
{
    struct receiver r = {.t = t, .job = job, .k = k};
    struct sq_grads g = {.input = k > 0, .router = t->router, .linear = receive, .ctx = &r};
    memcpy(g.gain, t->gain, sizeof g.gain);
    memset(t->gains, 0, (size_t)t->ngain * sizeof *t->gains);
    sq_fold_grad_begin(job->member[k].p, &g, &t->cfg);
    bring_back(t, job, k, run, n);
    sq_block_backward(d, &g, t->x[k], &t->folded[k], run, n, t->trace);
    sq_fold_grad_end(job->member[k].p, &g, job->member[k].w);
}

void train_fold(struct sq_trainer *t, const struct sq_window_job *job)
{
    for (int64_t k = 0; k < job->n && !sq_stopped(); k++)
        fold(t, k, &job->member[k], &job->scheme, false);
}

double train_part(struct sq_trainer *t, const struct sq_window_job *job, const int64_t *pick, int64_t n, int64_t batch)
{
    const struct sq_run run = run_of(t, &job->scheme);
    float *const y = t->x[job->n];
    double loss = 0.0;
    for (int64_t i = 0; i < n; i++)
        sq_floats_get(t->x[0] + i * t->row, sq_floats_from(job->xq, pick[i] * t->row), t->row);
    for (int64_t k = 0; k < job->n; k++) {
        if (sq_stopped())
            return NAN;
        sq_block_forward(t->x[k + 1], t->x[k], &t->folded[k], &run, n, t->trace, NULL);
        if (k < job->n - 1 && !job->recompute)
            sq_trace_keep(t->kept[k], t->trace, n * t->tokens);
    }
    for (int64_t i = 0; i < n; i++)
        loss += sq_loss_grad(y + i * t->row, y + i * t->row, sq_floats_from(job->target, pick[i] * t->row),
                             job->weight + pick[i] * t->tokens, t->tokens, t->cfg.hidden,
                             1.0 / (double)(batch * t->tokens));
    if (!isfinite(loss))
        return loss;
    for (int64_t k = job->n - 1; k >= 0; k--) {
        if (sq_stopped())
            return NAN;
        backward(y, t, job, k, &run, n);
    }
    return learned_finite(job) ? loss : NAN;
}

int train_init(struct sq_trainer *t, const struct sq_window_job *job)
{
    for (int64_t k = 0; k < job->n - 1 && !job->recompute; k++) {
        const int rc = t->kept[k] ? 0
                                  : sq_kept_new(&t->kept[k], &t->cfg, t->batch, t->tokens, product_type(t->ops));
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

int sq_window_grad(double *loss, struct sq_trainer *t, const struct sq_window_job *job, const int64_t *pick,
                   int64_t n)
{
    float *sum = NULL;
    int rc;
    SQ_ASSERT(n <= t->batch && job->n <= t->layers);
    SQ_TRY(train_init(t, job));
    SQ_TRY(sq_alloc(&sum, shards_floats(job)));
    SQ_TRY(batch_grad(loss, sum, t, job, 0, pick, n));
out:
    sq_free(sum);
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

int sq_window_train(struct sq_trainer *t, const struct sq_window_job *job)
{
    const int64_t steps = sq_window_steps(job);
    float *sum = NULL;
    int rc;
    SQ_ASSERT(job->n <= t->layers && job->batch <= t->batch);
    SQ_TRY(train_init(t, job));
    SQ_TRY(sq_alloc(&sum, shards_floats(job)));
    for (int64_t step = 0, at = 0; step < steps; step++) {
        const int64_t left = SQ_MIN(job->epoch - at % job->epoch, job->picks - at),
                      n = SQ_MIN(job->batch, left);
        double loss;
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
        sq_params_project(job->member[k].p);
    rc = 1;
out:
    sq_free(sum);
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
