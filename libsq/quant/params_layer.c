/* Learnable parameters as tensors of a layer, and back. */
#include "sq/params.h"

#include <string.h>

#include "private.h"

/* Does the layer have it? 1 and declared, 0, or an error: wrong dtype or shape. rank_dim is the dimension
 * that may have any size as long as all agree, or -1. */
static int declare_found(struct sq_param **out, struct sq_params *p, const struct sq_layer *l,
                         enum sq_param_kind kind, const char *prefix, const char *name, int ndim, int64_t d0,
                         int64_t d1, int rank_dim)
{
    struct sq_param *a = params_declare(p, kind, prefix, name, ndim, d0, d1);
    const struct sq_tensor *t = sq_layer_find(l, a->name);
    *out = NULL;
    if (!t) {
        p->nparam--;
        return 0;
    }
    if (rank_dim >= 0 && t->ndim == 2) {
        if (!p->rank && t->dim[rank_dim] >= 1 && t->dim[rank_dim] <= PARAMS_RANK_MAX)
            p->rank = t->dim[rank_dim];
        a->dim[rank_dim] = p->rank;
        a->n = a->dim[0] * a->dim[1];
    }
    if (t->dtype != SQ_F32 || t->ndim != ndim || a->n < 1 || t->dim[0] != a->dim[0] ||
        (ndim > 1 && t->dim[1] != a->dim[1]))
        return sq_fail(SQ_E_FORMAT,
                       "layer %" PRId64 ": tensor '%s' is not f32 of shape %" PRId64 " x %" PRId64, l->index,
                       a->name, a->dim[0], a->dim[1]);
    *out = a;
    return 1;
}

static int both_or_none(const struct sq_layer *l, const char *linear, const char *what, int first, int second)
{
    if (first == second)
        return 0;
    return sq_fail(SQ_E_FORMAT, "layer %" PRId64 ": '%s' has only one of %s", l->index, linear, what);
}

static int declare_linear(struct sq_params *p, const struct sq_config *cfg, const struct sq_rowq *q,
                          const struct sq_layer *l, int64_t i)
{
    char name[SQ_LINEAR_NAME];
    int64_t rows, cols;
    int rc;
    sq_linear_name(name, cfg, i);
    sq_linear_shape(&rows, &cols, cfg, i);
    const int64_t groups = sq_rowq_groups(q, cols);
    SQ_TRY(declare_found(&p->a[i], p, l, SQ_P_LORA, name, "lora_A", 2, p->rank, cols, 0));
    SQ_TRY(declare_found(&p->b[i], p, l, SQ_P_LORA, name, "lora_B", 2, rows, p->rank, 1));
    SQ_TRY(both_or_none(l, name, "lora_A and lora_B", p->a[i] != NULL, p->b[i] != NULL));
    SQ_TRY(declare_found(&p->u[i], p, l, SQ_P_CLIP, name, "u", 2, rows, groups, -1));
    SQ_TRY(declare_found(&p->l[i], p, l, SQ_P_CLIP, name, "l", 2, rows, groups, -1));
    SQ_TRY(both_or_none(l, name, "u and l", p->u[i] != NULL, p->l[i] != NULL));
out:
    return rc;
}

int sq_params_load(struct sq_params *p, const struct sq_config *cfg, const struct sq_scheme *s,
                   const struct sq_layer *l)
{
    const struct sq_rowq q = sq_scheme_weights(s);
    int rc;
    SQ_TRY(params_tables(p, cfg));
    for (int at = 0; at < SQ_PLACES; at++) {
        int64_t dim[2] = {1, 1};
        const int ndim = params_place_shape(dim, cfg, (enum sq_place)at);
        SQ_TRY(declare_found(&p->alpha[at], p, l, SQ_P_ALPHA, "", params_place_name[at], ndim, dim[0], dim[1],
                             -1));
    }
    for (int64_t i = 0; i < p->nlinear; i++)
        SQ_TRY(declare_linear(p, cfg, &q, l, i));
    SQ_TRY(params_allocate(p, cfg));
    for (int64_t i = 0; i < p->nparam; i++) {
        rc = sq_tensor_to_f32(p->param[i].x, sq_layer_find(l, p->param[i].name));
        if (rc < 0) {
            sq_fail_in(rc, "layer %" PRId64, l->index);
            goto out;
        }
    }
    rc = 0;
out:
    if (rc < 0)
        sq_params_release(p);
    return rc;
}

int sq_params_store(struct sq_layer *l, const struct sq_params *p, const struct sq_config *cfg)
{
    (void)cfg;
    struct sq_tensor t = SQ_TENSOR_INIT;
    int rc = 0;
    for (int64_t i = 0; i < p->nparam; i++) {
        const struct sq_param *a = &p->param[i];
        SQ_TRY(sq_tensor_new(&t, a->name, SQ_F32, a->ndim, a->dim));
        memcpy(t.owned, a->x, (size_t)a->n * sizeof *a->x);
        sq_layer_drop(l, a->name);
        SQ_TRY(sq_layer_add(l, &t));
    }
out:
    sq_tensor_release(&t);
    return rc;
}
