/* Whole blocks of gradients, from a backward that hands them out linear by linear and to a fold that takes them so. */
#ifndef SQ_TESTS_GRADS_H
#define SQ_TESTS_GRADS_H

#include <string.h>

#include "sq/params.h"

static inline void grads_add(void *ctx, int64_t linear, int64_t first, int64_t last, float *dw, float *dbias)
{
    struct sq_block *db = ctx;
    int64_t rows, cols;
    sq_linear_shape(&rows, &cols, db->cfg, linear);
    for (int64_t i = 0; i < (last - first) * cols; i++)
        ((float *)db->w[linear])[first * cols + i] += dw[i];
    for (int64_t i = first; dbias && i < last; i++)
        db->bias[linear][i] += dbias[i - first];
}

/* db's arrays += everything */
static inline struct sq_grads grads_to(struct sq_block *db)
{
    struct sq_grads g = {.input = true, .router = db->router, .linear = grads_add, .ctx = db};
    memcpy(g.gain, db->gain, sizeof g.gain);
    return g;
}

static inline void backward(float *d, struct sq_block *db, const float *x, const struct sq_block *b,
                            const struct sq_run *r, int64_t batch, struct sq_trace *t)
{
    const struct sq_grads g = grads_to(db);
    sq_block_backward(d, &g, x, b, r, batch, t);
}

/* in two strips, where it has the rows */
static inline void fold_grad_linear(struct sq_params *p, struct sq_block *db, int64_t k, const struct sq_block *w,
                                    const struct sq_scheme *s, const struct sq_ops *ops)
{
    int64_t rows, cols;
    sq_linear_shape(&rows, &cols, db->cfg, k);
    const int64_t cut = SQ_MIN(sq_grad_block(rows), rows);
    for (int64_t first = 0, last = cut; first < rows; first = last, last = rows)
        sq_fold_grad_rows(p, k, first, last, (float *)db->w[k] + first * cols, db->bias[k] ? db->bias[k] + first : NULL,
                          w, NULL, s, ops);
}

static inline void fold_grad(struct sq_params *p, struct sq_block *db, const struct sq_block *w,
                             const struct sq_scheme *s, const struct sq_ops *ops)
{
    struct sq_grads g = grads_to(db);
    sq_fold_grad_begin(p, &g, w->cfg);
    for (int64_t k = db->nlinear - 1; k >= 0; k--)
        fold_grad_linear(p, db, k, w, s, ops);
    sq_fold_grad_end(p, &g, w);
}

#endif
