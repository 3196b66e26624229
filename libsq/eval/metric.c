/* Figures over windows: each window is one observation. Rows of one window follow each other, so that a sum has one
 * order whatever the chunk is. */
#include "states.h"

#include <math.h>
#include <string.h>

/* floats of logits at a time: 32 MiB */
enum { CHUNK = 8 << 20 };

int64_t states_chunk(int64_t vocab)
{
    return SQ_MAX(1, CHUNK / vocab);
}

/* Mean of v and its standard error. */
static struct sq_metric mean(const double *v, int64_t n)
{
    double sum = 0, square = 0;
    for (int64_t i = 0; i < n; i++)
        sum += v[i];
    const double m = sum / (double)n;
    for (int64_t i = 0; i < n; i++)
        square += (v[i] - m) * (v[i] - m);
    return (struct sq_metric){.value = m, .error = n > 1 ? sqrt(square / (double)(n - 1) / (double)n) : NAN};
}

/* The host's logits: whose is not finite? */
static int check_logits(const float *logits, const struct sq_states *s, int64_t first, int64_t rows)
{
    const int64_t V = s->cfg.vocab;
    int64_t bad = INT64_MAX;
#pragma omp parallel for schedule(static) reduction(min : bad)
    for (int64_t i = 0; i < rows; i++) {
        struct sq_tensor t = {.dtype = SQ_F32, .ndim = 1, .dim = {V}, .data = logits + i * V};
        if (sq_tensor_check_finite(&t) < 0)
            bad = SQ_MIN(bad, i);
    }
    if (bad < INT64_MAX)
        return sq_fail(SQ_E_VALUE, "window %" PRId64 ": a logit of token %" PRId64 " is not finite",
                       (first + bad) / s->length, (first + bad) % s->length);
    return 0;
}

/* Counted where they lie; brought here only to name one. */
static int check_device(const float *logits, const struct sq_states *s, int64_t first, int64_t rows)
{
    const size_t bytes = (size_t)(rows * s->cfg.vocab) * sizeof *logits;
    double *const odd = s->work->odd, count;
    float *host = NULL;
    int rc;
    s->ops->clear(odd, sizeof count);
    s->ops->not_finite(odd, logits, rows * s->cfg.vocab);
    SQ_TRY(s->ops->get(&count, odd, sizeof count));
    if (count == 0)
        return 0;
    SQ_TRY(sq_alloc(&host, rows * s->cfg.vocab));
    SQ_TRY(s->ops->get(host, logits, bytes));
    rc = check_logits(host, s, first, rows);
out:
    sq_free(host);
    return rc;
}

int sq_states_logits(float *logits, const struct sq_states *s, int64_t first, int64_t rows)
{
    const struct sq_ops *ops = s->ops;
    const int64_t C = s->cfg.hidden, V = s->cfg.vocab;
    const bool device = states_on_device(s);
    const struct sq_floats host = {SQ_F32, s->x + first * C};
    float *x = device ? s->work->x : host.x;
    if (device)
        ops->from_host(x, host, rows * C);
    ops->gemm(logits, V, sq_mat(x, C, false), sq_mat(s->head, C, true), rows, V, C, false,
              ops->precision == SQ_BF16_PRODUCTS);
    return device ? check_device(logits, s, first, rows) : check_logits(logits, s, first, rows);
}

static void progress(const struct sq_states *s, int64_t windows)
{
    if (s->watch && s->watch->progress)
        s->watch->progress(s->watch->user, (double)s->cfg.layers + (double)windows / (double)s->n);
}

/* Rows of logits and what is made of them: where operations compute, and each, top on the host. */
struct rows {
    const struct sq_ops *ops;
    float *logits, *other;
    int32_t *target;
    double *value, *each;
    uint8_t *same, *top;
};

static int rows_new(struct rows *r, int64_t n, int64_t vocab)
{
    void *x = NULL;
    int rc;
    SQ_TRY(r->ops->alloc(&x, (size_t)(n * vocab) * sizeof *r->logits));
    r->logits = x;
    SQ_TRY(r->ops->alloc(&x, (size_t)n * sizeof *r->target));
    r->target = x;
    SQ_TRY(r->ops->alloc(&x, (size_t)n * sizeof *r->value));
    r->value = x;
    SQ_TRY(sq_alloc(&r->each, n));
out:
    return rc;
}

/* for two models */
static int rows_second(struct rows *r, int64_t n, int64_t vocab)
{
    void *x = NULL;
    int rc;
    SQ_TRY(r->ops->alloc(&x, (size_t)(n * vocab) * sizeof *r->other));
    r->other = x;
    SQ_TRY(r->ops->alloc(&x, (size_t)n));
    r->same = x;
    SQ_TRY(sq_alloc(&r->top, n));
out:
    return rc;
}

static void rows_release(struct rows *r)
{
    void *const there[] = {r->logits, r->other, r->target, r->value, r->same};
    for (int i = 0; i < SQ_COUNT(there); i++)
        r->ops->release(there[i]);
    sq_free(r->each);
    sq_free(r->top);
}

int sq_perplexity(struct sq_metric *out, double *nll, const struct sq_states *s, const struct sq_windows *w)
{
    const int64_t T = s->length, V = s->cfg.vocab, step = SQ_MIN(states_chunk(V), T - 1);
    struct rows r = {.ops = s->ops};
    double *window = NULL;
    int rc;
    SQ_TRY(rows_new(&r, step, V));
    SQ_TRY(sq_alloc(&window, s->n));
    for (int64_t i = 0; i < s->n; i++) {
        double sum = 0;
        for (int64_t t = 0; t < T - 1; t += step) {
            const int64_t rows = SQ_MIN(step, T - 1 - t);
            SQ_TRY(sq_states_logits(r.logits, s, i * T + t, rows));
            r.ops->put(r.target, w->ids + i * T + t + 1, (size_t)rows * sizeof *r.target);
            r.ops->nll(r.value, r.logits, r.target, rows, V);
            SQ_TRY(r.ops->get(r.each, r.value, (size_t)rows * sizeof *r.each));
            for (int64_t j = 0; j < rows; j++)
                sum += r.each[j];
        }
        window[i] = sum / (double)(T - 1);
        progress(s, i + 1);
    }
    if (nll)
        memcpy(nll, window, (size_t)s->n * sizeof *nll);
    *out = mean(window, s->n);
    /* to first order, an error e of the mean is a relative error e of its exponential */
    out->value = exp(out->value);
    out->error *= out->value;
    rc = 0;
out:
    sq_free(window);
    rows_release(&r);
    return rc;
}

int sq_divergence(struct sq_metric *kl, struct sq_metric *top1, const struct sq_states *s,
                  const struct sq_states *base)
{
    const int64_t T = s->length, V = s->cfg.vocab, step = SQ_MIN(states_chunk(V), T - 1);
    struct rows r = {.ops = s->ops};
    double *far = NULL, *same = NULL;
    int rc;
    if (base->cfg.vocab != V || base->n != s->n || base->length != T)
        return sq_fail(SQ_E_ARG, "the base model has a vocabulary of %" PRId64 ", the model one of %" PRId64,
                       base->cfg.vocab, V);
    SQ_TRY(rows_new(&r, step, V));
    SQ_TRY(rows_second(&r, step, V));
    SQ_TRY(sq_alloc(&far, s->n));
    SQ_TRY(sq_alloc(&same, s->n));
    for (int64_t i = 0; i < s->n; i++) {
        for (int64_t t = 0; t < T - 1; t += step) {
            const int64_t rows = SQ_MIN(step, T - 1 - t);
            SQ_TRY(sq_states_logits(r.logits, s, i * T + t, rows));
            SQ_TRY(sq_states_logits(r.other, base, i * T + t, rows));
            r.ops->kl(r.value, r.same, r.logits, r.other, rows, V);
            SQ_TRY(r.ops->get(r.each, r.value, (size_t)rows * sizeof *r.each));
            SQ_TRY(r.ops->get(r.top, r.same, (size_t)rows));
            for (int64_t j = 0; j < rows; j++) {
                far[i] += r.each[j];
                same[i] += r.top[j];
            }
        }
        far[i] /= (double)(T - 1);
        same[i] /= (double)(T - 1);
        progress(base, i + 1);
    }
    *kl = mean(far, s->n);
    *top1 = mean(same, s->n);
    rc = 0;
out:
    sq_free(same);
    sq_free(far);
    rows_release(&r);
    return rc;
}
