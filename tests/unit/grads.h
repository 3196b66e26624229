/* Whole blocks of gradients, from a backward that hands them out linear by linear and to a fold that takes them so. */
#ifndef SQ_TESTS_GRADS_H
#define SQ_TESTS_GRADS_H

#include <string.h>

#include "sq/params.h"

static inline void grads_add(void *ctx, int64_t linear, float *dw, float *dbias)
{
    struct sq_block *db = ctx;
    int64_t rows, cols;
    sq_linear_shape(&rows, &cols, db->cfg, linear);
    for (int64_t i = 0; i < rows * cols; i++)
        ((float *)db->w[linear])[i] += dw[i];
    for (int64_t i = 0; dbias && i < rows; i++)
        db->bias[linear][i] += dbias[i];
}

/* db's arrays += everything */
static inline struct sq_grads grads_to(struct sq_block *db)
{
    struct sq_grads g = {.router = db->router, .linear = grads_add, .ctx = db};
    memcpy(g.gain, db->gain, sizeof g.gain);
    return g;
}

static inline void backward(float *dx, struct sq_block *db, const float *dy, const float *x, const struct sq_block *b,
                            const struct sq_run *r, int64_t batch, struct sq_trace *t)
{
    const struct sq_grads g = grads_to(db);
    sq_block_backward(dx, &g, dy, x, b, r, batch, t);
}

static inline void fold_grad(struct sq_params *p, struct sq_block *db, const struct sq_block *w,
                             const struct sq_scheme *s, const struct sq_ops *ops)
{
    sq_fold_grad_begin(p);
    for (int64_t k = db->nlinear - 1; k >= 0; k--)
        sq_fold_grad_linear(p, k, db->w[k], db->bias[k], w, s, ops);
    sq_fold_grad_end(p, db->gain, db->router, w);
}

#endif
