#include "sq/params.h"

#include <omp.h>
#include <string.h>

#include "private.h"

/* A linear becomes W~ = W * cols * rows + B A / r, in the order of operations of METHOD 3 (columns, then
 * rows, then LoRA on top), then rounded: a strip of rows at a time, which stays in the second cache level, so
 * that memory is read and written once. W~ is never stored: the backward folds its strips again.
 *
 * Backward: dW~ comes from the row quantizer a strip at a time and is used while it is hot: dB and the row
 * sums are dot products, dA and the column sums go into partial sums of a block of rows. The blocks depend on
 * the shape only (sq_grad_block) and are added in order, in double, when the last rows have come, so that the
 * result does not depend on the number of threads or on how many rows came at a time. */

/* STRIP: floats in a strip; SMALL: operations that are not worth waking other threads */
enum { STRIP = 1 << 14, CHUNK = 512, SMALL = 1 << 16 };

typedef float v4 __attribute__((vector_size(16), aligned(4), may_alias));

/* The scale vectors of a linear: NULL where there is none. */
struct sides {
    const float *cols, *rows;
};

/* A matrix of a block. */
struct weights {
    void *x;
    enum sq_dtype type;
};

struct linear {
    int64_t rank, rows, cols;
    const float *a, *b; /* NULL without LoRA */
};

static const float *values(const struct sq_param *p)
{
    return p ? p->x : NULL;
}

static const float *at(const struct sq_params *p, enum sq_place place)
{
    return values(p->alpha[place]);
}

/* q, k, v, o, gate, up or down, whatever the expert */
static int64_t kind_of(int64_t linear)
{
    return linear < SQ_GATE ? linear : SQ_GATE + (linear - SQ_GATE) % 3;
}

/* kv channel that column i of o (row i of a query head) belongs to */
static int64_t kv_channel(const struct sq_config *c, int64_t i)
{
    return i / c->head_dim / (c->heads / c->kv_heads) * c->head_dim + i % c->head_dim;
}

/* index into alpha.qk of a kv channel: one value per RoPE pair */
static int64_t pair_of(const struct sq_config *c, int64_t channel)
{
    const int64_t half = c->head_dim / 2;
    return channel / c->head_dim * half + channel % half;
}

static struct linear linear_of(const struct sq_params *p, const struct sq_config *c, int64_t k)
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

/* Fills p's workspace. */
static struct sides sides_of(const struct sq_params *p, const struct sq_config *c, int64_t k)
{
    float *cols = p->scales, *rows = p->scales ? p->scales + p->cols_max : NULL;
    struct sides s = {NULL, NULL};
    const float *out = at(p, SQ_AT_OUT), *fc2 = at(p, SQ_AT_FC2), *qk = c->qk_norm ? NULL : at(p, SQ_AT_QK);
    int64_t nr, nc;
    sq_linear_shape(&nr, &nc, c, k);
    if (fc2 && k >= SQ_GATE)
        fc2 += (k - SQ_GATE) / 3 * c->ffn;
    switch (kind_of(k)) {
    case SQ_O:
        for (int64_t j = 0; out && j < nc; j++)
            cols[j] = out[kv_channel(c, j)];
        s.cols = out ? cols : NULL;
        return s;
    case SQ_DOWN: s.cols = fc2; return s;
    case SQ_UP:
        for (int64_t i = 0; fc2 && i < nr; i++)
            rows[i] = 1.0f / fc2[i];
        s.rows = fc2 ? rows : NULL;
        s.cols = at(p, SQ_AT_FC1);
        return s;
    case SQ_GATE: s.cols = at(p, SQ_AT_FC1); return s;
    case SQ_V:
        for (int64_t i = 0; out && i < nr; i++)
            rows[i] = 1.0f / out[i];
        s.rows = out ? rows : NULL;
        break;
    case SQ_Q:
        for (int64_t i = 0; qk && i < nr; i++)
            rows[i] = 1.0f / qk[pair_of(c, kv_channel(c, i))];
        s.rows = qk ? rows : NULL;
        break;
    default:
        for (int64_t i = 0; qk && i < nr; i++)
            rows[i] = qk[pair_of(c, i)];
        s.rows = qk ? rows : NULL;
    }
    s.cols = at(p, SQ_AT_QKV);
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

static int64_t strip_rows(int64_t cols)
{
    return SQ_MAX(1, STRIP / cols);
}

/* This thread's two strips. */
static float *my_strip(float *strip, int64_t cols)
{
    return strip ? strip + omp_get_thread_num() * 2 * SQ_MAX(cols, STRIP) : NULL;
}

/* most: as many as there are strips; 0: none are needed */
static int threads_for(int most, int64_t elements)
{
    const int threads = omp_get_max_threads();
    return elements <= SMALL ? 1 : most ? SQ_MIN(threads, most) : threads;
}

/* Elements from `at` on of stored weights as f32: where they are, or widened into space. */
static const float *as_floats(float *space, const struct weights *w, int64_t at, int64_t n)
{
    if (w->type == SQ_F32)
        return (const float *)w->x + at;
    sq_bf16_widen(space, (const uint16_t *)w->x + at, n);
    return space;
}

/* rows first ... last - 1 of a linear, given from `first` on; f == w allowed */
static void flat_rows(float *f, const float *w, const struct linear *l, struct sides s, int64_t first, int64_t last)
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
    struct weights to, w;
    float *strip; /* [threads][2][strip] */
    int threads;
    struct sq_codes *code; /* NULL: not wanted */
};

static void fold_strip(const struct fold *d, float *strip, int64_t first, int64_t last, const struct sq_ops *ops)
{
    const int64_t n = d->l.cols, at = first * n, count = (last - first) * n;
    const int64_t at_g = d->q ? first * sq_rowq_groups(d->q, n) : 0;
    float *f = d->to.type == SQ_F32 ? (float *)d->to.x + at : strip;
    flat_rows(f, as_floats(f, &d->w, at, count), &d->l, d->s, first, last);
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

static void fold_linear(const struct fold *d, const struct sq_ops *ops)
{
    const int64_t n = d->l.cols, rows = d->l.rows, block = sq_grad_block(rows), step = strip_rows(n);
#pragma omp parallel for schedule(static) num_threads(threads_for(d->threads, rows * n))
    for (int64_t k = 0; k < rows; k += block) {
        const int64_t last = SQ_MIN(k + block, rows);
        for (int64_t i = k; i < last; i += step)
            fold_strip(d, my_strip(d->strip, n), i, SQ_MIN(i + step, last), ops);
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
    const float *qkv = at(p, SQ_AT_QKV), *fc1 = at(p, SQ_AT_FC1), *qk = c->qk_norm ? at(p, SQ_AT_QK) : NULL;
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
        const struct fold d = {.l = linear_of(p, to->cfg, k),
                               .s = sides_of(p, to->cfg, k),
                               .q = q.bits < 16 ? &q : NULL,
                               .u = p->nlinear ? values(p->u[k]) : NULL,
                               .lo = p->nlinear ? values(p->l[k]) : NULL,
                               .to = {to->w[k], to->type},
                               .w = {w->w[k], w->type},
                               .strip = p->strip,
                               .threads = p->threads,
                               .code = q.bits < 16 && to->code && to->code[k].q ? &to->code[k] : NULL};
        if (d.code) {
            d.code->bits = q.bits;
            d.code->cols = sq_rowq_covered(d.l.cols, q.rate);
        }
        fold_linear(&d, ops);
        for (int64_t i = 0; d.s.rows && to->bias[k] && i < d.l.rows; i++)
            to->bias[k][i] *= d.s.rows[i];
    }
}

/* ---- backward ----------------------------------------------------------------------------- */

int64_t fold_partial_size(const struct sq_params *p)
{
    return SQ_GRAD_BLOCKS * (p->rank + 1) * p->cols_max;
}

int64_t fold_strip_size(const struct sq_params *p)
{
    return p->threads * 2 * SQ_MAX(p->cols_max, STRIP);
}

/* alpha gradients, then the column and row sums of one linear */
int64_t fold_sums_size(const struct sq_params *p)
{
    int64_t n = p->cols_max + p->rows_max;
    for (int k = 0; k < SQ_PLACES; k++)
        n += p->alpha[k] ? p->alpha[k]->n : 0;
    return n;
}

static double add4(v4 x)
{
    return ((double)x[0] + (double)x[2]) + ((double)x[1] + (double)x[3]);
}

/* acc += b * g; returns g . a, summed in float over CHUNK elements at most */
static double dot_add(float *SQ_RESTRICT acc, const float *SQ_RESTRICT a, float b, const float *SQ_RESTRICT g,
                      int64_t n)
{
    double sum = 0;
    int64_t j = 0;
    while (n - j >= 8) {
        const int64_t end = j + SQ_MIN(CHUNK, (n - j) / 8 * 8);
        v4 s0 = {0}, s1 = {0};
        for (; j < end; j += 8) {
            const v4 g0 = *(const v4 *)(g + j), g1 = *(const v4 *)(g + j + 4);
            s0 += g0 * *(const v4 *)(a + j);
            s1 += g1 * *(const v4 *)(a + j + 4);
            *(v4 *)(acc + j) += b * g0;
            *(v4 *)(acc + j + 4) += b * g1;
        }
        sum += add4(s0 + s1);
    }
    for (; j < n; j++) {
        sum += (double)(g[j] * a[j]);
        acc[j] += b * g[j];
    }
    return sum;
}

/* acc += row * g * w; returns the sum of g * w * col */
static double scale_add(float *SQ_RESTRICT acc, const float *SQ_RESTRICT col, float row,
                        const float *SQ_RESTRICT g, const float *SQ_RESTRICT w, int64_t n)
{
    double sum = 0;
    int64_t j = 0;
    while (n - j >= 4) {
        const int64_t end = j + SQ_MIN(CHUNK, (n - j) / 4 * 4);
        v4 s = {0};
        for (; j < end; j += 4) {
            const v4 gw = *(const v4 *)(g + j) * *(const v4 *)(w + j);
            s += gw * *(const v4 *)(col + j);
            *(v4 *)(acc + j) += row * gw;
        }
        sum += add4(s);
    }
    for (; j < n; j++) {
        sum += (double)(g[j] * w[j] * col[j]);
        acc[j] += row * (g[j] * w[j]);
    }
    return sum;
}

/* Rows first to last - 1 of a linear's gradients: of A, B, u, l; the sums of its columns and rows are left in the
 * workspace. */
struct job {
    struct linear l;
    struct sides fold, s; /* as the forward has them; both set, or both NULL */
    struct sq_param *pa, *pb, *pu, *pl;
    int64_t first, last;
    float *g; /* dW from row first on, becomes dW~ */
    struct weights w;
    float *partial, *strip; /* [blocks][rank + 1][cols], [threads][strip of W~, of W] */
    int threads;
    double *dcols, *drows;
    int64_t blocks, step; /* of the whole linear; step rows in a block */
};

static void grad_strip(const struct job *b, float *acc, float *flat, int64_t first, int64_t last,
                       const struct sq_rowq *q, const struct sq_ops *ops)
{
    const struct linear *l = &b->l;
    const int64_t n = l->cols, rank = l->rank, at_g = first * sq_rowq_groups(q, n);
    const float *w = as_floats(flat + SQ_MAX(n, STRIP), &b->w, first * n, (last - first) * n);
    flat_rows(flat, w, l, b->fold, first, last);
    float *dw = b->g + (first - b->first) * n;
    ops->rowquant_grad(dw, b->pu ? b->pu->grad + at_g : NULL, b->pl ? b->pl->grad + at_g : NULL, dw, flat, q, b->pu ? b->pu->x + at_g : NULL, b->pl ? b->pl->x + at_g : NULL,
                       last - first, n);
    for (int64_t i = first; i < last; i++) {
        const float *g = dw + (i - first) * n;
        for (int64_t t = 0; t < rank; t++)
            b->pb->grad[i * rank + t] = (float)(dot_add(acc + t * n, l->a + t * n, l->b[i * rank + t], g, n) /
                                                (double)rank);
        if (b->s.cols)
            b->drows[i] = scale_add(acc + rank * n, b->s.cols, b->s.rows[i], g, w + (i - first) * n, n);
    }
}

static void grad_block(const struct job *b, int64_t block, const struct sq_rowq *q, const struct sq_ops *ops)
{
    const int64_t n = b->l.cols, sums = (b->l.rank + 1) * n, first = block * b->step,
                  last = SQ_MIN(b->last, first + b->step), step = strip_rows(n);
    float *acc = b->partial + block * sums, *flat = my_strip(b->strip, n);
    memset(acc, 0, (size_t)sums * sizeof *acc);
    for (int64_t i = first; i < last; i += step)
        grad_strip(b, acc, flat, i, SQ_MIN(i + step, last), q, ops);
}

/* sum of one place in all blocks, in order */
static double over_blocks(const struct job *b, int64_t row, int64_t j)
{
    double sum = 0;
    for (int64_t k = 0; k < b->blocks; k++)
        sum += (double)b->partial[(k * (b->l.rank + 1) + row) * b->l.cols + j];
    return sum;
}

static void grad_rows(const struct job *b, const struct sq_rowq *q, const struct sq_ops *ops)
{
    const int64_t end = (b->last + b->step - 1) / b->step;
    SQ_ASSERT(b->first % b->step == 0 && (b->last % b->step == 0 || b->last == b->l.rows));
#pragma omp parallel for schedule(dynamic) num_threads(threads_for(b->threads, (b->last - b->first) * b->l.cols))
    for (int64_t k = b->first / b->step; k < end; k++)
        grad_block(b, k, q, ops);
}

static void add_blocks(const struct job *b)
{
    const int64_t n = b->l.cols, rank = b->l.rank;
#pragma omp parallel for schedule(static) if (b->blocks * (rank + 1) * n > SMALL)
    for (int64_t j = 0; j < n; j++) {
        for (int64_t t = 0; t < rank; t++)
            b->pa->grad[t * n + j] = (float)(over_blocks(b, t, j) / (double)rank);
        if (b->s.cols)
            b->dcols[j] = over_blocks(b, rank, j);
    }
}

/* Both vectors when there is either: a missing one becomes ones. */
static struct sides both_sides(const struct sq_params *p, const struct sq_config *c, int64_t k)
{
    struct sides s = sides_of(p, c, k);
    float *cols = p->scales, *rows = p->scales + p->cols_max;
    if (s.rows && !s.cols)
        for (int64_t j = 0; j < p->cols_max; j++)
            cols[j] = 1;
    if (s.cols && !s.rows)
        for (int64_t i = 0; i < p->rows_max; i++)
            rows[i] = 1;
    if (!s.cols && !s.rows)
        return s;
    return (struct sides){s.cols ? s.cols : cols, s.rows ? s.rows : rows};
}

/* From the sums of a linear's columns and rows to the alphas. d[] are their gradients so far, NULL where
 * there is none. */
static void to_alphas(double *const d[SQ_PLACES], const struct sq_config *c, int64_t k, const struct job *b)
{
    const int64_t kind = kind_of(k), expert = k < SQ_GATE ? 0 : (k - SQ_GATE) / 3 * c->ffn;
    double *fc2 = d[SQ_AT_FC2] ? d[SQ_AT_FC2] + expert : NULL, *qk = c->qk_norm ? NULL : d[SQ_AT_QK];
    double *cols = kind < SQ_O       ? d[SQ_AT_QKV]
                   : kind == SQ_O    ? d[SQ_AT_OUT]
                   : kind == SQ_DOWN ? fc2
                                     : d[SQ_AT_FC1];
    for (int64_t j = 0; cols && j < b->l.cols; j++)
        cols[kind == SQ_O ? kv_channel(c, j) : j] += b->dcols[j];
    for (int64_t i = 0; i < b->l.rows; i++) {
        const double r = (double)b->s.rows[i], inverse = -b->drows[i] * r * r;
        if (kind == SQ_V && d[SQ_AT_OUT])
            d[SQ_AT_OUT][i] += inverse;
        else if (kind == SQ_UP && fc2)
            fc2[i] += inverse;
        else if (kind == SQ_Q && qk)
            qk[pair_of(c, kv_channel(c, i))] += inverse;
        else if (kind == SQ_K && qk)
            qk[pair_of(c, i)] += b->drows[i];
    }
}

static void gains_to_alphas(double *const d[SQ_PLACES], const struct sq_params *p, float *const dgain[SQ_GAINS],
                            const float *drouter, const struct sq_block *w)
{
    const struct sq_config *c = w->cfg;
    const int64_t half = c->head_dim / 2;
    for (int k = 0; k < 2; k++) {
        const enum sq_place place = k ? SQ_AT_FC1 : SQ_AT_QKV;
        const float *dg = dgain[k ? SQ_NORM2 : SQ_NORM1], *g = w->gain[k ? SQ_NORM2 : SQ_NORM1];
        for (int64_t j = 0; d[place] && j < c->hidden; j++) {
            const double a = (double)at(p, place)[j];
            d[place][j] -= (double)dg[j] * (double)g[j] / (a * a);
        }
    }
    for (int64_t i = 0; c->qk_norm && d[SQ_AT_QK] && i < c->head_dim; i++) {
        const double a = (double)at(p, SQ_AT_QK)[i % half];
        d[SQ_AT_QK][i % half] += (double)dgain[SQ_KNORM][i] * (double)w->gain[SQ_KNORM][i] -
                                 (double)dgain[SQ_QNORM][i] * (double)w->gain[SQ_QNORM][i] / (a * a);
    }
    for (int64_t i = 0; d[SQ_AT_FC1] && w->router && i < c->experts * c->hidden; i++)
        d[SQ_AT_FC1][i % c->hidden] += (double)drouter[i] * (double)w->router[i];
}

/* The gradients of the alphas so far, in the workspace behind a linear's sums. */
static void alpha_sums(double *d[SQ_PLACES], const struct sq_params *p)
{
    double *next = p->sums + p->cols_max + p->rows_max;
    for (int k = 0; k < SQ_PLACES; k++) {
        d[k] = p->alpha[k] ? next : NULL;
        next += p->alpha[k] ? p->alpha[k]->n : 0;
    }
}

/* Where flat_gains() puts a parameter into a gain. */
void sq_fold_grad_begin(struct sq_params *p, struct sq_grads *g, const struct sq_config *c)
{
    const bool qk = c->qk_norm && p->alpha[SQ_AT_QK];
    float **const unused[] = {p->alpha[SQ_AT_QKV] ? NULL : &g->gain[SQ_NORM1],
                              p->alpha[SQ_AT_FC1] ? NULL : &g->gain[SQ_NORM2],
                              qk ? NULL : &g->gain[SQ_QNORM],
                              qk ? NULL : &g->gain[SQ_KNORM],
                              p->alpha[SQ_AT_FC1] ? NULL : &g->router};
    for (int i = 0; i < SQ_COUNT(unused); i++)
        if (unused[i])
            *unused[i] = NULL;
    if (!p->nparam)
        return;
    SQ_ASSERT(p->moments); /* sq_params_train came first */
    memset(p->sums, 0, (size_t)fold_sums_size(p) * sizeof *p->sums);
}

void sq_fold_grad_rows(struct sq_params *p, int64_t k, int64_t first, int64_t last, float *dw, const float *dbias,
                       const struct sq_block *w, const struct sq_scheme *s, const struct sq_ops *ops)
{
    if (!p->nparam)
        return;
    const struct sq_config *c = w->cfg;
    const struct sq_rowq q = sq_scheme_weights(s);
    double *d[SQ_PLACES];
    struct job b = {.l = linear_of(p, c, k),
                    .fold = sides_of(p, c, k),
                    .s = both_sides(p, c, k),
                    .pa = p->a[k],
                    .pb = p->b[k],
                    .pu = p->u[k],
                    .pl = p->l[k],
                    .first = first,
                    .last = last,
                    .g = dw,
                    .w = {w->w[k], w->type},
                    .partial = p->partial,
                    .strip = p->strip,
                    .threads = p->threads,
                    .dcols = p->sums,
                    .drows = p->sums + p->cols_max};
    b.step = sq_grad_block(b.l.rows);
    b.blocks = (b.l.rows + b.step - 1) / b.step;
    grad_rows(&b, &q, ops);
    for (int64_t i = first; dbias && b.s.cols && i < last; i++)
        b.drows[i] += (double)dbias[i - first] * (double)w->bias[k][i];
    if (last < b.l.rows)
        return;
    add_blocks(&b);
    if (!b.s.cols)
        return;
    alpha_sums(d, p);
    to_alphas(d, c, k, &b);
}

void sq_fold_grad_end(struct sq_params *p, const struct sq_grads *g, const struct sq_block *w)
{
    double *d[SQ_PLACES];
    if (!p->nparam)
        return;
    alpha_sums(d, p);
    gains_to_alphas(d, p, g->gain, g->router, w);
    for (int k = 0; k < SQ_PLACES; k++)
        for (int64_t i = 0; d[k] && i < p->alpha[k]->n; i++)
            p->alpha[k]->grad[i] = (float)d[k][i];
}
