#include "sq/params.h"

/* Mean squares of a linear's input as float weights of largest value 1; false when there are none. */
static bool weights_of(float *out, const struct sq_input_stats *stats, const struct sq_config *c, int64_t k,
                       int64_t cols)
{
    const int64_t expert = k < SQ_GATE ? 0 : (k - SQ_GATE) / 3;
    const bool down = k >= SQ_GATE && (k - SQ_GATE) % 3 == 2;
    const double *x = !stats      ? NULL
                      : k < SQ_O  ? stats->qkv
                      : k == SQ_O ? stats->out
                      : down      ? stats->fc2
                                  : stats->fc1;
    double top = 0;
    if (x && down)
        x += expert * c->ffn;
    for (int64_t j = 0; x && j < cols; j++)
        top = SQ_MAX(top, x[j]);
    for (int64_t j = 0; top > 0 && j < cols; j++)
        out[j] = (float)(x[j] / top);
    return top > 0; /* an expert without tokens: all channels count alike */
}

int sq_params_search(struct sq_params *p, const struct sq_ops *ops, const struct sq_block *w,
                     const struct sq_scheme *s, const struct sq_input_stats *stats)
{
    const struct sq_rowq q = sq_scheme_weights(s);
    float *host = NULL, *const weight = p->scales; /* workspace of the fold, where the operations are */
    int rc = 0;
    if (q.bits >= 16)
        return 0;
    SQ_TRY(sq_alloc(&host, p->cols_max));
    for (int64_t k = 0; k < p->nlinear; k++) {
        int64_t rows, cols;
        sq_linear_shape(&rows, &cols, w->cfg, k);
        if (!p->u[k] || !p->l[k])
            continue;
        const bool weighted = weights_of(host, stats, w->cfg, k, cols);
        if (weighted) {
            ops->put(weight, host, (size_t)cols * sizeof *weight);
            SQ_TRY(ops->wait());
        }
        ops->rowquant_search(p->u[k]->x, p->l[k]->x, (struct sq_floats){w->type, w->w[k]}, weighted ? weight : NULL,
                             &q, rows, cols);
    }
    rc = ops->wait();
out:
    sq_free(host);
    return rc;
}
