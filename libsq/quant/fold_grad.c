/* dW~ comes from the row quantizer a strip at a time and is used while it is hot: dB and the row sums are dot products, dA and the
 * column sums go into partial sums of a block of rows. The blocks depend on the shape only (sq_grad_block) and are added in
 * order, in double, when the last rows have come, so that the result does not depend on the number of threads or on how
 * many rows came at a time. Where channels are left out of dW (sq_fold_grad_columns), products make their part of dA and dB. */
#include "fold.h"

#include <string.h>

typedef float v4 __attribute__((vector_size(16), aligned(4), may_alias));

int64_t fold_partial_size(const struct sq_params *p)
{
    return SQ_GRAD_BLOCKS * (p->rank + 1) * p->cols_max;
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
    struct sq_floats w;
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
    const float *w = fold_floats(flat + SQ_MAX(n, STRIP), b->w, first * n, (last - first) * n);
    fold_rows(flat, w, l, b->fold, first, last);
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
                  last = SQ_MIN(b->last, first + b->step), step = fold_strip_rows(n);
    float *acc = b->partial + block * sums, *flat = fold_strip(b->strip, n);
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
#pragma omp parallel for schedule(dynamic) num_threads(fold_threads(b->threads, (b->last - b->first) * b->l.cols))
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
    struct sides s = fold_sides(p, c, k);
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

/* What came at use i of a side's scales, to their gradients. */
static void add_scale(double *const d[SQ_PLACES], const struct side *s, const struct sq_config *c, int64_t i, double sum)
{
    const int64_t at = s->first + fold_map_at(c, s->map, i);
    const double a = (double)s->alpha->x[at];
    d[s->place][at] += s->inverse ? -sum / (a * a) : sum;
}

static void to_alpha(double *const d[SQ_PLACES], const struct side *s, const struct sq_config *c, const double *sum,
                     int64_t n)
{
    for (int64_t i = 0; s->alpha && i < n; i++)
        add_scale(d, s, c, i, sum[i]);
}

/* Gradients dx of x, which has a side's scales. */
static void flat_to_alpha(double *const d[SQ_PLACES], const struct side *s, const struct sq_config *c, const float *dx,
                          const float *x, int64_t n)
{
    for (int64_t i = 0; s->alpha && i < n; i++)
        add_scale(d, s, c, i, (double)dx[i] * (double)x[i]);
}

static void gains_to_alphas(double *const d[SQ_PLACES], const struct sq_params *p, float *const dgain[SQ_GAINS],
                            const float *drouter, const struct sq_block *w)
{
    const struct sq_config *c = w->cfg;
    const struct side router = fold_router_side(p);
    for (int g = 0; g < SQ_GAINS; g++) {
        const struct side s = fold_gain_side(p, c, (enum sq_gain_id)g);
        flat_to_alpha(d, &s, c, dgain[g], w->gain[g], sq_gain_size(c, (enum sq_gain_id)g));
    }
    flat_to_alpha(d, &router, c, drouter, w->router, c->experts * c->hidden);
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
    if (p->home) {
        p->home->clear(p->moments, (size_t)sq_params_floats(p) * sizeof *p->moments);
        return;
    }
    memset(p->sums, 0, (size_t)fold_sums_size(p) * sizeof *p->sums);
}

void sq_fold_grad_rows(struct sq_params *p, int64_t k, int64_t first, int64_t last, float *dw, const float *dbias,
                       const struct sq_block *w, const struct sq_block *flat, const struct sq_scheme *s,
                       const struct sq_ops *ops)
{
    if (!p->nparam)
        return;
    const struct sq_config *c = w->cfg;
    const struct sq_rowq q = sq_scheme_weights(s);
    if (p->home) {
        fold_grad_device(p, k, first, last, dw, dbias, w, flat, &q);
        return;
    }
    double *d[SQ_PLACES];
    struct job b = {.l = fold_linear_of(p, c, k),
                    .fold = fold_sides(p, c, k),
                    .s = both_sides(p, c, k),
                    .pa = p->a[k],
                    .pb = p->b[k],
                    .pu = p->u[k],
                    .pl = p->l[k],
                    .first = first,
                    .last = last,
                    .g = dw,
                    .w = {w->type, w->w[k]},
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
    const struct side cols = fold_col_side(p, c, k), rows = fold_row_side(p, c, k);
    alpha_sums(d, p);
    to_alpha(d, &cols, c, b.dcols, b.l.cols);
    to_alpha(d, &rows, c, b.drows, b.l.rows);
}

int64_t sq_fold_grad_columns(const struct sq_params *p, int64_t k, const struct sq_block *w, const struct sq_scheme *s)
{
    const struct sq_rowq q = sq_scheme_weights(s);
    int64_t rows, cols;
    sq_linear_shape(&rows, &cols, w->cfg, k);
    const int64_t groups = sq_rowq_groups(&q, cols);
    const bool scaled = p->nparam && (fold_col_side(p, w->cfg, k).alpha || fold_row_side(p, w->cfg, k).alpha);
    if (q.bits >= 16 || scaled || p->rank > SQ_LOW)
        return cols;
    return q.group ? SQ_MIN(cols, sq_rowq_covered(groups, q.rate) * q.group) : sq_rowq_covered(cols, q.rate);
}

void sq_fold_grad_rest(struct sq_params *p, int64_t k, struct sq_mat dy, struct sq_mat x, int64_t n, float *space,
                       const struct sq_block *w, const struct sq_scheme *s, const struct sq_ops *ops)
{
    const struct linear l = fold_linear_of(p, w->cfg, k);
    const int64_t first = sq_fold_grad_columns(p, k, w, s), rest = l.cols - first, rank = l.rank;
    const bool rounds = ops != ops->host && ops->precision == SQ_BF16_PRODUCTS; /* f32 costs a processor nothing here */
    const struct sq_mat low = sq_mat(space, rank, false), low_t = sq_mat(space, rank, true);
    struct sq_mat dy_t = dy;
    if (!l.a)
        return;
    dy_t.transposed = true;
    ops->gemm(space, rank, x, sq_mat(l.a + first, l.cols, true), n, rank, rest, false, rounds);
    ops->scale_rows(space, p->share, 1, n * rank);
    ops->gemm(p->b[k]->grad, rank, dy_t, low, l.rows, rank, n, true, rounds);
    ops->gemm(space, rank, dy, sq_mat(l.b, rank, false), n, rank, l.rows, false, rounds);
    ops->scale_rows(space, p->share, 1, n * rank);
    ops->gemm(p->a[k]->grad + first, l.cols, low_t, x, rank, rest, n, true, rounds);
}

void sq_fold_grad_end(struct sq_params *p, const struct sq_grads *g, const struct sq_block *w)
{
    double *d[SQ_PLACES];
    if (!p->nparam)
        return;
    if (p->home) {
        fold_gains_device(p, g, w);
        return;
    }
    alpha_sums(d, p);
    gains_to_alphas(d, p, g->gain, g->router, w);
    for (int k = 0; k < SQ_PLACES; k++)
        for (int64_t i = 0; d[k] && i < p->alpha[k]->n; i++)
            p->alpha[k]->grad[i] = (float)d[k][i];
}
