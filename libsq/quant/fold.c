/* A linear becomes W~ = W * cols * rows + B A / r, in the order of operations of METHOD 3 (columns, then
 * rows, then LoRA on top), then rounded: a strip of rows at a time, which stays in the second cache level, so
 * that memory is read and written once. W~ is never stored: the backward folds its strips again. */
#include "fold.h"

#include <omp.h>
#include <string.h>

int64_t fold_kind(int64_t linear)
{
    return linear < SQ_GATE ? linear : SQ_GATE + (linear - SQ_GATE) % 3;
}

int64_t fold_kv_channel(const struct sq_config *c, int64_t i)
{
    return i / c->head_dim / (c->heads / c->kv_heads) * c->head_dim + i % c->head_dim;
}

int64_t fold_pair(const struct sq_config *c, int64_t channel)
{
    const int64_t half = c->head_dim / 2;
    return channel / c->head_dim * half + channel % half;
}

struct linear fold_linear_of(const struct sq_params *p, const struct sq_config *c, int64_t k)
{
    struct linear l = {.rank = 0};
    sq_linear_shape(&l.rows, &l.cols, c, k);
    if (p->nlinear && p->a[k]) {
        l.rank = p->rank;
        l.a = p->a[k]->x;
        l.b = p->b[k]->x;
    }
    return l;
}

struct sides fold_sides(const struct sq_params *p, const struct sq_config *c, int64_t k)
{
    float *cols = p->scales, *rows = p->scales ? p->scales + p->cols_max : NULL;
    struct sides s = {NULL, NULL};
    const float *out = fold_alpha(p, SQ_AT_OUT), *fc2 = fold_alpha(p, SQ_AT_FC2), *qk = c->qk_norm ? NULL : fold_alpha(p, SQ_AT_QK);
    int64_t nr, nc;
    sq_linear_shape(&nr, &nc, c, k);
    if (fc2 && k >= SQ_GATE)
        fc2 += (k - SQ_GATE) / 3 * c->ffn;
    switch (fold_kind(k)) {
    case SQ_O:
        for (int64_t j = 0; out && j < nc; j++)
            cols[j] = out[fold_kv_channel(c, j)];
        s.cols = out ? cols : NULL;
        return s;
    case SQ_DOWN: s.cols = fc2; return s;
    case SQ_UP:
        for (int64_t i = 0; fc2 && i < nr; i++)
            rows[i] = 1.0f / fc2[i];
        s.rows = fc2 ? rows : NULL;
        s.cols = fold_alpha(p, SQ_AT_FC1);
        return s;
    case SQ_GATE: s.cols = fold_alpha(p, SQ_AT_FC1); return s;
    case SQ_V:
        for (int64_t i = 0; out && i < nr; i++)
            rows[i] = 1.0f / out[i];
        s.rows = out ? rows : NULL;
        break;
    case SQ_Q:
        for (int64_t i = 0; qk && i < nr; i++)
            rows[i] = 1.0f / qk[fold_pair(c, fold_kv_channel(c, i))];
        s.rows = qk ? rows : NULL;
        break;
    default:
        for (int64_t i = 0; qk && i < nr; i++)
            rows[i] = qk[fold_pair(c, i)];
        s.rows = qk ? rows : NULL;
    }
    s.cols = fold_alpha(p, SQ_AT_QKV);
    return s;
}

/* ---- forward ------------------------------------------------------------------------------ */

static void add_lora(float *SQ_RESTRICT f, const float *SQ_RESTRICT a, const float *b, int64_t rank,
                     int64_t n)
{
    const float r = (float)rank;
    float sum[CHUNK];
    for (int64_t j0 = 0; j0 < n; j0 += CHUNK) {
        const int64_t m = SQ_MIN(CHUNK, n - j0);
        for (int64_t j = 0; j < m; j++)
            sum[j] = b[0] * a[j0 + j];
        for (int64_t t = 1; t < rank; t++)
            for (int64_t j = 0; j < m; j++)
                sum[j] += b[t] * a[t * n + j0 + j];
        for (int64_t j = 0; j < m; j++)
            f[j0 + j] += sum[j] / r;
    }
}

int64_t fold_strip_size(const struct sq_params *p)
{
    return p->threads * 2 * SQ_MAX(p->cols_max, STRIP);
}

int64_t fold_strip_rows(int64_t cols)
{
    return SQ_MAX(1, STRIP / cols);
}

float *fold_strip(float *strip, int64_t cols)
{
    return strip ? strip + omp_get_thread_num() * 2 * SQ_MAX(cols, STRIP) : NULL;
}

int fold_threads(int most, int64_t elements)
{
    const int threads = omp_get_max_threads();
    return elements <= SMALL ? 1 : most ? SQ_MIN(threads, most) : threads;
}

const float *fold_floats(float *space, struct sq_floats w, int64_t at, int64_t n)
{
    const struct sq_floats from = sq_floats_from(w, at);
    if (w.type == SQ_F32)
        return from.x;
    sq_bf16_widen(space, from.x, n);
    return space;
}

void fold_rows(float *f, const float *w, const struct linear *l, struct sides s, int64_t first, int64_t last)
{
    const int64_t n = l->cols;
    for (int64_t i = first; i < last; i++, f += n, w += n) {
        if (s.cols)
            for (int64_t j = 0; j < n; j++)
                f[j] = w[j] * s.cols[j];
        else if (f != w)
            memcpy(f, w, (size_t)n * sizeof *f);
        for (int64_t j = 0; s.rows && j < n; j++)
            f[j] *= s.rows[i];
        if (l->rank)
            add_lora(f, l->a, l->b + i * l->rank, l->rank, n);
    }
}

/* How a linear is folded; q NULL: not rounded. */
struct fold {
    struct linear l;
    struct sides s;
    const struct sq_rowq *q;
    const float *u, *lo;
    struct sq_floats to, w;
    float *strip; /* [threads][2][strip] */
    int threads;
    struct sq_codes *code; /* NULL: not wanted */
};

static void round_strip(const struct fold *d, float *strip, int64_t first, int64_t last, const struct sq_ops *ops)
{
    const int64_t n = d->l.cols, at = first * n, count = (last - first) * n;
    const int64_t at_g = d->q ? first * sq_rowq_groups(d->q, n) : 0;
    float *f = d->to.type == SQ_F32 ? (float *)d->to.x + at : strip;
    fold_rows(f, fold_floats(f, d->w, at, count), &d->l, d->s, first, last);
    if (d->code) {
        struct sq_codes rows = *d->code; /* cols and bits are those of the whole already */
        rows.q += at;
        rows.scale += first;
        rows.zero += first;
        rows.sum += first;
        ops->rowquant_encode(&rows, f, d->q, d->u ? d->u + at_g : NULL, d->lo ? d->lo + at_g : NULL, last - first, n);
    }
    if (d->q)
        ops->rowquant(f, f, d->q, d->u ? d->u + at_g : NULL, d->lo ? d->lo + at_g : NULL, last - first, n);
    if (d->to.type == SQ_BF16)
        sq_bf16_narrow((uint16_t *)d->to.x + at, f, count);
}

static void round_linear(const struct fold *d, const struct sq_ops *ops)
{
    const int64_t n = d->l.cols, rows = d->l.rows, block = sq_grad_block(rows), step = fold_strip_rows(n);
#pragma omp parallel for schedule(static) num_threads(fold_threads(d->threads, rows * n))
    for (int64_t k = 0; k < rows; k += block) {
        const int64_t last = SQ_MIN(k + block, rows);
        for (int64_t i = k; i < last; i += step)
            round_strip(d, fold_strip(d->strip, n), i, SQ_MIN(i + step, last), ops);
    }
}

static void copy(float *to, const float *from, int64_t n)
{
    if (to && to != from && n > 0)
        memcpy(to, from, (size_t)n * sizeof *to);
}

static void flat_gains(struct sq_block *flat, const struct sq_params *p)
{
    const struct sq_config *c = flat->cfg;
    const float *qkv = fold_alpha(p, SQ_AT_QKV), *fc1 = fold_alpha(p, SQ_AT_FC1), *qk = c->qk_norm ? fold_alpha(p, SQ_AT_QK) : NULL;
    for (int64_t i = 0; i < c->hidden; i++) {
        if (qkv)
            flat->gain[SQ_NORM1][i] /= qkv[i];
        if (fc1)
            flat->gain[SQ_NORM2][i] /= fc1[i];
    }
    for (int64_t i = 0; qk && i < c->head_dim; i++) {
        flat->gain[SQ_QNORM][i] /= qk[i % (c->head_dim / 2)];
        flat->gain[SQ_KNORM][i] *= qk[i % (c->head_dim / 2)];
    }
    for (int64_t i = 0; fc1 && flat->router && i < c->experts * c->hidden; i++)
        flat->router[i] *= fc1[i % c->hidden];
}

/* everything that is not a linear's weight */
static void copy_rest(struct sq_block *to, const struct sq_block *from)
{
    for (int64_t k = 0; k < to->nlinear; k++) {
        int64_t rows, cols;
        sq_linear_shape(&rows, &cols, to->cfg, k);
        copy(to->bias[k], from->bias[k], rows);
    }
    for (int g = 0; g < SQ_GAINS; g++)
        copy(to->gain[g], from->gain[g], sq_gain_size(to->cfg, (enum sq_gain_id)g));
    copy(to->router, from->router, to->cfg->experts * to->cfg->hidden);
}

void sq_fold(struct sq_block *to, const struct sq_block *w, const struct sq_params *p, const struct sq_scheme *scheme,
             const struct sq_ops *ops)
{
    const struct sq_rowq q = scheme ? sq_scheme_weights(scheme) : (struct sq_rowq){.bits = 16};
    SQ_ASSERT(to->type == SQ_F32 || p->strip);
    copy_rest(to, w);
    flat_gains(to, p);
    for (int64_t k = 0; k < to->nlinear; k++) {
        const struct fold d = {.l = fold_linear_of(p, to->cfg, k),
                               .s = fold_sides(p, to->cfg, k),
                               .q = q.bits < 16 ? &q : NULL,
                               .u = p->nlinear ? fold_values(p->u[k]) : NULL,
                               .lo = p->nlinear ? fold_values(p->l[k]) : NULL,
                               .to = {to->type, to->w[k]},
                               .w = {w->type, w->w[k]},
                               .strip = p->strip,
                               .threads = p->threads,
                               .code = q.bits < 16 && to->code && to->code[k].q ? &to->code[k] : NULL};
        if (d.code) {
            d.code->bits = q.bits;
            d.code->cols = sq_rowq_covered(d.l.cols, q.rate);
        }
        round_linear(&d, ops);
        for (int64_t i = 0; d.s.rows && to->bias[k] && i < d.l.rows; i++)
            to->bias[k][i] *= d.s.rows[i];
    }
}
