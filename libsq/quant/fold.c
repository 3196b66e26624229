/* A linear becomes W~ = W * cols * rows + B A / r, in the order of operations of docs/method.md 3 (columns, then
 * rows, then LoRA on top), then rounded: a strip of rows at a time, which stays in the second cache level, so
 * that memory is read and written once. W~ is never stored: the backward folds its strips again. */
#include "fold.h"

#include <omp.h>
#include <string.h>

/* ---- where scales belong ---------------------------------------------------------------------- */

static int64_t kv_channel(const struct sq_config *c, int64_t i)
{
    return i / c->head_dim / (c->heads / c->kv_heads) * c->head_dim + i % c->head_dim;
}

static int64_t pair(const struct sq_config *c, int64_t channel)
{
    const int64_t half = c->head_dim / 2;
    return channel / c->head_dim * half + channel % half;
}

int64_t fold_map_at(const struct sq_config *c, enum fold_map map, int64_t i)
{
    switch (map) {
    case FOLD_HEADS: return kv_channel(c, i);
    case FOLD_PAIRS: return pair(c, i);
    case FOLD_QUERY: return pair(c, kv_channel(c, i));
    case FOLD_HEAD: return i % (c->head_dim / 2);
    case FOLD_ROWS: return i % c->hidden;
    default: return i;
    }
}

/* q, k, v, o, gate, up, down */
static const struct side COLUMN_SIDE[] = {
    {.place = SQ_AT_QKV}, {.place = SQ_AT_QKV}, {.place = SQ_AT_QKV}, {.place = SQ_AT_OUT, .map = FOLD_HEADS},
    {.place = SQ_AT_FC1}, {.place = SQ_AT_FC1}, {.place = SQ_AT_FC2},
};
static const struct side ROW_SIDE[] = {
    {.place = SQ_AT_QK, .map = FOLD_QUERY, .inverse = true},
    {.place = SQ_AT_QK, .map = FOLD_PAIRS},
    {.place = SQ_AT_OUT, .inverse = true},
    {.place = SQ_PLACES},
    {.place = SQ_PLACES},
    {.place = SQ_AT_FC2, .inverse = true},
    {.place = SQ_PLACES},
};
static const struct side GAIN_SIDE[SQ_GAINS] = {
    [SQ_NORM1] = {.place = SQ_AT_QKV, .inverse = true},
    [SQ_NORM2] = {.place = SQ_AT_FC1, .inverse = true},
    [SQ_QNORM] = {.place = SQ_AT_QK, .map = FOLD_HEAD, .inverse = true},
    [SQ_KNORM] = {.place = SQ_AT_QK, .map = FOLD_HEAD},
};

/* Query and key scales lie in the gains of their norms where the model has these. */
static struct side side_of(const struct sq_params *p, const struct sq_config *c, const struct side *s, bool gain)
{
    if (s->place == SQ_PLACES || (s->place == SQ_AT_QK && c->qk_norm != gain))
        return (struct side){.place = SQ_PLACES};
    struct side out = *s;
    out.alpha = p->alpha[s->place];
    return out;
}

static struct side of_linear(const struct sq_params *p, const struct sq_config *c, const struct side *table,
                             int64_t k)
{
    const int64_t expert = k < SQ_GATE ? 0 : (k - SQ_GATE) / 3;
    struct side s = side_of(p, c, &table[k - 3 * expert], false);
    s.first = s.place == SQ_AT_FC2 ? expert * c->ffn : 0;
    return s;
}

struct side fold_col_side(const struct sq_params *p, const struct sq_config *c, int64_t linear)
{
    return of_linear(p, c, COLUMN_SIDE, linear);
}

struct side fold_row_side(const struct sq_params *p, const struct sq_config *c, int64_t linear)
{
    return of_linear(p, c, ROW_SIDE, linear);
}

struct side fold_gain_side(const struct sq_params *p, const struct sq_config *c, enum sq_gain_id gain)
{
    return side_of(p, c, &GAIN_SIDE[gain], true);
}

/* Experts read what NORM2's gain divided: so does the router. */
struct side fold_router_side(const struct sq_params *p)
{
    return (struct side){.place = SQ_AT_FC1, .map = FOLD_ROWS, .alpha = p->alpha[SQ_AT_FC1]};
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

/* n factors: where the scales lie, or in space */
static const float *factors(float *space, const struct side *s, const struct sq_config *c, int64_t n)
{
    if (!s->alpha)
        return NULL;
    const float *x = s->alpha->x + s->first;
    if (s->map == FOLD_SAME && !s->inverse)
        return x;
    for (int64_t i = 0; i < n; i++) {
        const float a = x[fold_map_at(c, s->map, i)];
        space[i] = s->inverse ? 1.0f / a : a;
    }
    return space;
}

struct sides fold_sides(const struct sq_params *p, const struct sq_config *c, int64_t k)
{
    const struct side col = fold_col_side(p, c, k), row = fold_row_side(p, c, k);
    int64_t nr, nc;
    sq_linear_shape(&nr, &nc, c, k);
    float *const space = p->scales ? p->scales + p->cols_max : NULL;
    return (struct sides){factors(p->scales, &col, c, nc), factors(space, &row, c, nr)};
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
        ops->rowquant(sq_f32(f), f, d->q, d->u ? d->u + at_g : NULL, d->lo ? d->lo + at_g : NULL, last - first, n);
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

static void scale(float *x, const struct sq_config *c, const struct side *s, int64_t n)
{
    for (int64_t i = 0; s->alpha && i < n; i++) {
        const float a = s->alpha->x[fold_map_at(c, s->map, i)];
        x[i] = s->inverse ? x[i] / a : x[i] * a;
    }
}

static void flat_gains(struct sq_block *flat, const struct sq_params *p)
{
    const struct sq_config *c = flat->cfg;
    const struct side router = fold_router_side(p);
    for (int g = 0; g < SQ_GAINS; g++) {
        const struct side s = fold_gain_side(p, c, (enum sq_gain_id)g);
        scale(flat->gain[g], c, &s, sq_gain_size(c, (enum sq_gain_id)g));
    }
    scale(flat->router, c, &router, c->experts * c->hidden);
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
    if (p->home) {
        fold_device(to, w, p, &q);
        return;
    }
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
