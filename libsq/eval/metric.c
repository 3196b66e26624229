/* Figures over windows: each window is one observation. Rows of one window follow each other, so that a sum has one
 * order whatever the chunk is. */
#include "sq/eval.h"

#include <math.h>
#include <string.h>

/* floats of logits at a time: 32 MiB */
enum { CHUNK = 8 << 20 };

static int64_t chunk_rows(int64_t vocab)
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

int sq_states_logits(float *logits, const struct sq_states *s, int64_t first, int64_t rows)
{
    const struct sq_ops *ops = s->ops;
    const int64_t C = s->cfg.hidden, V = s->cfg.vocab;
    int64_t bad = INT64_MAX;
    ops->gemm(logits, V, sq_mat(s->x + first * C, C, false), sq_mat(s->head, C, true), rows, V, C, false,
              ops->precision == SQ_BF16_PRODUCTS);
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

static void progress(const struct sq_states *s, int64_t windows)
{
    if (s->watch && s->watch->progress)
        s->watch->progress(s->watch->user, (double)s->cfg.layers + (double)windows / (double)s->n);
}

int sq_perplexity(struct sq_metric *out, double *nll, const struct sq_states *s, const struct sq_windows *w)
{
    const int64_t T = s->length, V = s->cfg.vocab, step = SQ_MIN(chunk_rows(V), T - 1);
    float *logits = NULL;
    double *each = NULL, *window = NULL;
    int rc;
    SQ_TRY(sq_alloc(&logits, step * V));
    SQ_TRY(sq_alloc(&each, step));
    SQ_TRY(sq_alloc(&window, s->n));
    for (int64_t i = 0; i < s->n; i++) {
        double sum = 0;
        for (int64_t t = 0; t < T - 1; t += step) {
            const int64_t rows = SQ_MIN(step, T - 1 - t);
            SQ_TRY(sq_states_logits(logits, s, i * T + t, rows));
            s->ops->nll(each, logits, w->ids + i * T + t + 1, rows, V);
            for (int64_t j = 0; j < rows; j++)
                sum += each[j];
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
    sq_free(each);
    sq_free(logits);
    return rc;
}

int sq_divergence(struct sq_metric *kl, struct sq_metric *top1, const struct sq_states *s,
                  const struct sq_states *base)
{
    const int64_t T = s->length, V = s->cfg.vocab, step = SQ_MIN(chunk_rows(V), T - 1);
    float *logits = NULL, *other = NULL;
    double *each = NULL, *far = NULL, *same = NULL;
    uint8_t *top = NULL;
    int rc;
    if (base->cfg.vocab != V || base->n != s->n || base->length != T)
        return sq_fail(SQ_E_ARG, "the base model has a vocabulary of %" PRId64 ", the model one of %" PRId64,
                       base->cfg.vocab, V);
    SQ_TRY(sq_alloc(&logits, step * V));
    SQ_TRY(sq_alloc(&other, step * V));
    SQ_TRY(sq_alloc(&each, step));
    SQ_TRY(sq_alloc(&top, step));
    SQ_TRY(sq_alloc(&far, s->n));
    SQ_TRY(sq_alloc(&same, s->n));
    for (int64_t i = 0; i < s->n; i++) {
        for (int64_t t = 0; t < T - 1; t += step) {
            const int64_t rows = SQ_MIN(step, T - 1 - t);
            SQ_TRY(sq_states_logits(logits, s, i * T + t, rows));
            SQ_TRY(sq_states_logits(other, base, i * T + t, rows));
            s->ops->kl(each, top, logits, other, rows, V);
            for (int64_t j = 0; j < rows; j++) {
                far[i] += each[j];
                same[i] += top[j];
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
    sq_free(top);
    sq_free(each);
    sq_free(other);
    sq_free(logits);
    return rc;
}
