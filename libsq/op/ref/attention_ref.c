/* Sums are kept in double for a chunk of channels at a time; the weights are recomputed for every chunk. */
#include "ref.h"

#include <math.h>

enum { CHUNK = 64 };

/* Pointers and sizes of one call, so that one (query, key) pair can be looked at from anywhere. */
struct pair_args {
    const float *dout, *out, *lse, *q, *k, *v;
    int64_t tokens, heads, kv, dim;
};

/* The row of token t and head h in an array [B*T, heads*D]. */
static int64_t row(int64_t t, int64_t h, int64_t heads, int64_t dim)
{
    return (t * heads + h) * dim;
}

static double dot(const float *a, const float *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

static double score(const struct pair_args *p, int64_t b, int64_t h, int64_t i, int64_t j)
{
    const float *q = p->q + row(b * p->tokens + i, h, p->heads, p->dim);
    const float *k = p->k + row(b * p->tokens + j, h / (p->heads / p->kv), p->kv, p->dim);
    return dot(q, k, p->dim) / sqrt((double)p->dim);
}

static void attend(float *out, float *lse, const struct pair_args *p, int64_t b, int64_t h, int64_t i, int64_t c0)
{
    const int64_t n = SQ_MIN(CHUNK, p->dim - c0), g = h / (p->heads / p->kv);
    double max = -HUGE_VAL, sum = 0, acc[CHUNK] = {0};
    for (int64_t j = 0; j <= i; j++) {
        const float *v = p->v + row(b * p->tokens + j, g, p->kv, p->dim) + c0;
        const double s = score(p, b, h, i, j), top = s > max ? s : max;
        const double keep = exp(max - top), w = exp(s - top); /* what was summed is brought to the new maximum */
        sum = sum * keep + w;
        for (int64_t c = 0; c < n; c++)
            acc[c] = acc[c] * keep + w * (double)v[c];
        max = top;
    }
    for (int64_t c = 0; c < n; c++)
        out[row(b * p->tokens + i, h, p->heads, p->dim) + c0 + c] = (float)(acc[c] / sum);
    lse[(b * p->heads + h) * p->tokens + i] = (float)(max + log(sum));
}

void sq_attention_ref(float *out, float *lse, const float *q, const float *k, const float *v, int64_t batch,
                      int64_t tokens, int64_t heads, int64_t kv, int64_t dim)
{
    const struct pair_args p = {.q = q, .k = k, .v = v, .tokens = tokens, .heads = heads, .kv = kv, .dim = dim};
    for (int64_t b = 0; b < batch; b++)
        for (int64_t h = 0; h < heads; h++)
            for (int64_t i = 0; i < tokens; i++)
                for (int64_t c = 0; c < dim; c += CHUNK)
                    attend(out, lse, &p, b, h, i, c);
}

/* The probability of key j for query i, and the gradient of its scaled score. */
static double weight(double *ds, const struct pair_args *p, int64_t b, int64_t h, int64_t i, int64_t j)
{
    const int64_t t = row(b * p->tokens + i, h, p->heads, p->dim);
    const float *v = p->v + row(b * p->tokens + j, h / (p->heads / p->kv), p->kv, p->dim);
    const double w = exp(score(p, b, h, i, j) - (double)p->lse[(b * p->heads + h) * p->tokens + i]);
    const double dw = dot(p->dout + t, v, p->dim), mean = dot(p->dout + t, p->out + t, p->dim);
    *ds = w * (dw - mean) / sqrt((double)p->dim);
    return w;
}

static void query_grad(float *dq, const struct pair_args *p, int64_t b, int64_t h, int64_t i, int64_t c0)
{
    const int64_t n = SQ_MIN(CHUNK, p->dim - c0), g = h / (p->heads / p->kv);
    double acc[CHUNK] = {0}, ds;
    for (int64_t j = 0; j <= i; j++) {
        weight(&ds, p, b, h, i, j);
        for (int64_t c = 0; c < n; c++)
            acc[c] += ds * (double)p->k[row(b * p->tokens + j, g, p->kv, p->dim) + c0 + c];
    }
    for (int64_t c = 0; c < n; c++)
        dq[row(b * p->tokens + i, h, p->heads, p->dim) + c0 + c] = (float)acc[c];
}

static void key_grad(float *dk, float *dv, const struct pair_args *p, int64_t b, int64_t g, int64_t j, int64_t c0)
{
    const int64_t n = SQ_MIN(CHUNK, p->dim - c0), group = p->heads / p->kv;
    const int64_t at = row(b * p->tokens + j, g, p->kv, p->dim) + c0;
    double acck[CHUNK] = {0}, accv[CHUNK] = {0}, ds;
    for (int64_t h = g * group; h < (g + 1) * group; h++)
        for (int64_t i = j; i < p->tokens; i++) {
            const int64_t from = row(b * p->tokens + i, h, p->heads, p->dim) + c0;
            const double w = weight(&ds, p, b, h, i, j);
            for (int64_t c = 0; c < n; c++) {
                acck[c] += ds * (double)p->q[from + c];
                accv[c] += w * (double)p->dout[from + c];
            }
        }
    for (int64_t c = 0; c < n; c++) {
        dk[at + c] = (float)acck[c];
        dv[at + c] = (float)accv[c];
    }
}

void sq_attention_grad_ref(float *dq, float *dk, float *dv, const float *dout, const float *out, const float *lse,
                           const float *q, const float *k, const float *v, int64_t batch, int64_t tokens,
                           int64_t heads, int64_t kv, int64_t dim)
{
    const struct pair_args p = {dout, out, lse, q, k, v, tokens, heads, kv, dim};
    for (int64_t b = 0; b < batch; b++)
        for (int64_t i = 0; i < tokens; i++)
            for (int64_t c = 0; c < dim; c += CHUNK) {
                for (int64_t h = 0; h < heads; h++)
                    query_grad(dq, &p, b, h, i, c);
                for (int64_t g = 0; g < kv; g++)
                    key_grad(dk, dv, &p, b, g, i, c);
            }
}
