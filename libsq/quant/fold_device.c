/* The fold of a layer on a device, and its backward: the operations of one linear after the other, queued. What they
 * compute is fold.c's and fold_grad.c's; sums of scales are f32 here. */
#include "fold_device.h"

#include <string.h>

/* The factors of n uses: where the scales lie, or in space. */
static const float *factors(float *space, const struct sq_params *p, const struct side *s, int64_t n)
{
    if (!s->alpha)
        return NULL;
    if (s->map == FOLD_SAME && !s->inverse)
        return s->alpha->x + s->first;
    p->home->spread(space, NULL, s->alpha->x + s->first, p->maps->map[s->map].at, s->inverse, n);
    return space;
}

/* x[n] times or over a side's scales, in place */
static void scale(float *x, const struct sq_params *p, const struct side *s, int64_t n)
{
    if (s->alpha)
        p->home->spread(x, x, s->alpha->x + s->first, p->maps->map[s->map].at, s->inverse, n);
}

/* Gradients dy (times base, unless it is NULL) at n uses, to the scales. */
static void unscale(const struct sq_params *p, const struct side *s, const float *dy, const float *base, int64_t n)
{
    if (!s->alpha)
        return;
    const struct fold_map_table *m = &p->maps->map[s->map];
    const int64_t scales = s->map == FOLD_SAME ? n : m->scales;
    p->home->collect(s->alpha->grad + s->first, dy, base, s->alpha->x + s->first, m->first, m->from, s->inverse,
                     scales);
}

static struct sq_fold_args args_of(const struct sq_params *p, const struct sq_block *w, const struct sq_block *flat,
                                   int64_t k, const struct sq_rowq *q)
{
    const struct sq_config *c = w->cfg;
    SQ_ASSERT(!flat->ends || flat->ends_group == q->group);
    const struct linear l = fold_linear_of(p, c, k);
    const struct side cols = fold_col_side(p, c, k), rows = fold_row_side(p, c, k);
    return (struct sq_fold_args){.w = w->w[k],
                                 .w_type = w->type,
                                 .c = factors(p->scales, p, &cols, l.cols),
                                 .r = factors(p->scales + p->cols_max, p, &rows, l.rows),
                                 .a = l.a,
                                 .b = l.b,
                                 .rank = l.rank,
                                 .u = p->nlinear ? fold_values(p->u[k]) : NULL,
                                 .l = p->nlinear ? fold_values(p->l[k]) : NULL,
                                 .q = *q,
                                 .ends = flat->ends ? flat->ends[k] : NULL,
                                 .rows = l.rows,
                                 .cols = l.cols};
}

static void copy_rest(struct sq_block *to, const struct sq_block *from, const struct sq_ops *home)
{
    for (int64_t k = 0; k < to->nlinear; k++) {
        int64_t rows, cols;
        sq_linear_shape(&rows, &cols, to->cfg, k);
        if (to->bias[k])
            home->copy(to->bias[k], from->bias[k], (size_t)rows * sizeof(float));
    }
    for (int g = 0; g < SQ_GAINS; g++)
        if (to->gain[g])
            home->copy(to->gain[g], from->gain[g], (size_t)sq_gain_size(to->cfg, (enum sq_gain_id)g) * sizeof(float));
    if (to->router)
        home->copy(to->router, from->router, (size_t)(to->cfg->experts * to->cfg->hidden) * sizeof(float));
}

void fold_device(struct sq_block *to, const struct sq_block *w, const struct sq_params *p, const struct sq_rowq *q)
{
    const struct sq_config *c = w->cfg;
    const struct side router = fold_router_side(p);
    copy_rest(to, w, p->home);
    for (int g = 0; g < SQ_GAINS; g++) {
        const struct side s = fold_gain_side(p, c, (enum sq_gain_id)g);
        scale(to->gain[g], p, &s, sq_gain_size(c, (enum sq_gain_id)g));
    }
    scale(to->router, p, &router, c->experts * c->hidden);
    for (int64_t k = 0; k < to->nlinear; k++) {
        const struct side rows = fold_row_side(p, c, k);
        struct sq_fold_args a = args_of(p, w, to, k, q);
        a.to = to->w[k];
        a.to_type = to->type;
        a.code = q->bits < 16 && to->code && to->code[k].q ? &to->code[k] : NULL;
        p->home->fold(&a);
        if (to->bias[k])
            scale(to->bias[k], p, &rows, a.rows);
    }
}

/* Rows first to last - 1 of the arguments of a whole linear. */
static struct sq_fold_args strip_of(struct sq_fold_args a, int64_t first, int64_t last)
{
    const int64_t at_g = first * sq_rowq_groups(&a.q, a.cols);
    a.w = (const char *)a.w + (size_t)(first * a.cols) * sq_dtype_size(a.w_type);
    a.r = a.r ? a.r + first : NULL;
    a.b = a.b ? a.b + first * a.rank : NULL;
    a.u = a.u ? a.u + at_g : NULL;
    a.l = a.l ? a.l + at_g : NULL;
    a.ends = a.ends ? a.ends + 2 * at_g : NULL;
    a.rows = last - first;
    return a;
}

static float *grad_from(const struct sq_param *p, int64_t first)
{
    return p ? p->grad + first : NULL;
}

void fold_grad_device(struct sq_params *p, int64_t k, int64_t first, int64_t last, float *dw, const float *dbias,
                      const struct sq_block *w, const struct sq_block *flat, const struct sq_rowq *q)
{
    const struct sq_config *c = w->cfg;
    const struct side cols = fold_col_side(p, c, k), rows = fold_row_side(p, c, k);
    const struct sq_fold_args all = args_of(p, w, flat, k, q), a = strip_of(all, first, last);
    const int64_t at_g = first * sq_rowq_groups(q, all.cols);
    float *dc = cols.alpha ? p->maps->dc : NULL, *dr = rows.alpha ? p->maps->dr : NULL;
    if (dc && first == 0)
        p->home->clear(dc, (size_t)all.cols * sizeof *dc);
    p->home->fold_grad(dw, grad_from(p->u[k], at_g), grad_from(p->l[k], at_g), grad_from(p->a[k], 0),
                       grad_from(p->b[k], first * p->rank), dc, dr ? dr + first : NULL, &a);
    if (dr && dbias) { /* a bias has its row's scale, too */
        float *product = p->maps->product;
        p->home->spread(product, dbias, w->bias[k] + first, p->maps->map[FOLD_SAME].at, false, last - first);
        p->home->add(dr + first, product, last - first);
    }
    if (last < all.rows)
        return;
    unscale(p, &cols, dc, NULL, all.cols);
    unscale(p, &rows, dr, NULL, all.rows);
}

void fold_gains_device(struct sq_params *p, const struct sq_grads *g, const struct sq_block *w)
{
    const struct sq_config *c = w->cfg;
    const struct side router = fold_router_side(p);
    for (int k = 0; k < SQ_GAINS; k++) {
        const struct side s = fold_gain_side(p, c, (enum sq_gain_id)k);
        unscale(p, &s, g->gain[k], w->gain[k], sq_gain_size(c, (enum sq_gain_id)k));
    }
    if (w->router)
        unscale(p, &router, g->router, w->router, c->experts * c->hidden);
}
