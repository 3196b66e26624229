#include "sq/params.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "sq/rng.h"
#include "private.h"

static const float ALPHA_MIN = 1e-2f;

const char *const params_place_name[SQ_PLACES] = {"alpha.qkv", "alpha.fc1", "alpha.out", "alpha.fc2",
                                                  "alpha.qk"};

int params_place_shape(int64_t dim[2], const struct sq_config *cfg, enum sq_place at)
{
    switch (at) {
    case SQ_AT_OUT: dim[0] = cfg->kv_heads * cfg->head_dim; return 1;
    case SQ_AT_FC2:
        dim[0] = cfg->experts ? cfg->experts : cfg->ffn;
        dim[1] = cfg->ffn;
        return cfg->experts ? 2 : 1;
    case SQ_AT_QK:
        dim[0] = cfg->qk_norm ? cfg->head_dim / 2 : cfg->kv_heads;
        dim[1] = cfg->head_dim / 2;
        return cfg->qk_norm ? 1 : 2;
    default: dim[0] = cfg->hidden; return 1;
    }
}

/* A parameter of the table: no array yet. */
struct sq_param *params_declare(struct sq_params *p, enum sq_param_kind kind, const char *prefix,
                                const char *name, int ndim, int64_t d0, int64_t d1)
{
    struct sq_param *a = &p->param[p->nparam++];
    *a = (struct sq_param){.kind = kind, .ndim = ndim, .dim = {d0, ndim > 1 ? d1 : 1}};
    a->n = a->dim[0] * a->dim[1];
    snprintf(a->name, sizeof a->name, "%s%s%s", prefix, *prefix ? "." : "", name);
    return a;
}

/* The largest table: every place, and A, B, u, l of every linear. */
int params_tables(struct sq_params *p, const struct sq_config *cfg)
{
    int rc;
    *p = (struct sq_params){.nlinear = sq_config_linears(cfg)};
    SQ_TRY(sq_alloc(&p->param, SQ_PLACES + 4 * p->nlinear));
    SQ_TRY(sq_alloc(&p->a, 4 * p->nlinear));
    p->b = p->a + p->nlinear;
    p->u = p->b + p->nlinear;
    p->l = p->u + p->nlinear;
out:
    if (rc < 0)
        sq_params_release(p);
    return rc;
}

/* What the caller wants of each kind, as a table row decides it. */
static void declare_all(struct sq_params *p, const struct sq_config *cfg, const struct sq_scheme *s,
                        const struct sq_params_spec *spec)
{
    const struct sq_rowq q = sq_scheme_weights(s);
    for (int at = 0; spec->scaling && at < SQ_PLACES; at++) {
        int64_t dim[2] = {1, 1};
        const int ndim = params_place_shape(dim, cfg, (enum sq_place)at);
        p->alpha[at] = params_declare(p, SQ_P_ALPHA, "", params_place_name[at], ndim, dim[0], dim[1]);
    }
    for (int64_t i = 0; i < p->nlinear; i++) {
        char name[SQ_LINEAR_NAME];
        int64_t rows, cols;
        sq_linear_name(name, cfg, i);
        sq_linear_shape(&rows, &cols, cfg, i);
        if (spec->lora) {
            p->a[i] = params_declare(p, SQ_P_LORA, name, "lora_A", 2, spec->rank, cols);
            p->b[i] = params_declare(p, SQ_P_LORA, name, "lora_B", 2, rows, spec->rank);
        }
        if (spec->clip && s->wbits < 16) {
            p->u[i] = params_declare(p, SQ_P_CLIP, name, "u", 2, rows, sq_rowq_groups(&q, cols));
            p->l[i] = params_declare(p, SQ_P_CLIP, name, "l", 2, rows, sq_rowq_groups(&q, cols));
        }
    }
}

/* An array begins at a multiple of 4 floats, as a device's loads do; what lies between is zero and has no gradient. */
static int64_t room_of(const struct sq_param *p)
{
    return (p->n + 3) / 4 * 4;
}

int64_t sq_params_floats(const struct sq_params *p)
{
    int64_t n = 0;
    for (int64_t i = 0; i < p->nparam; i++)
        n += room_of(&p->param[i]);
    return n;
}

/* Arrays of everything declared, and the fold's vectors of scales. */
int params_allocate(struct sq_params *p, const struct sq_config *cfg)
{
    int rc = 0;
    SQ_TRY(sq_alloc(&p->values, sq_params_floats(p)));
    float *x = p->values;
    for (int64_t i = 0; i < p->nparam; i++) {
        p->param[i].x = x;
        x += room_of(&p->param[i]);
    }
    for (int64_t i = 0; i < p->nlinear; i++) {
        int64_t rows, cols;
        sq_linear_shape(&rows, &cols, cfg, i);
        p->rows_max = SQ_MAX(p->rows_max, rows);
        p->cols_max = SQ_MAX(p->cols_max, cols);
    }
    SQ_TRY(sq_alloc(&p->scales, p->rows_max + p->cols_max + 1));
    p->share = p->scales + p->rows_max + p->cols_max;
    *p->share = 1 / (float)SQ_MAX(p->rank, 1);
    p->threads = omp_get_max_threads();
    SQ_TRY(sq_alloc(&p->strip, fold_strip_size(p)));
out:
    return rc;
}

static void start_values(struct sq_params *p, const struct sq_params_spec *spec, int64_t layer)
{
    for (int64_t i = 0; i < p->nparam; i++) {
        struct sq_param *a = &p->param[i];
        for (int64_t j = 0; a->kind != SQ_P_LORA && j < a->n; j++)
            a->x[j] = a->kind == SQ_P_ALPHA ? 1.0f : (float)spec->clip_start;
    }
    for (int64_t i = 0; i < p->nlinear && spec->lora; i++) {
        struct sq_rng r = sq_rng_init((uint64_t)spec->seed, SQ_RNG_LORA, (uint64_t)layer, (uint64_t)i, 0, 0);
        const double bound = 1 / sqrt((double)p->a[i]->dim[1]);
        for (int64_t j = 0; j < p->a[i]->n; j++)
            p->a[i]->x[j] = (float)((2 * sq_rng_uniform(&r) - 1) * bound);
    }
}

int sq_params_new(struct sq_params *p, const struct sq_config *cfg, const struct sq_scheme *s,
                  const struct sq_params_spec *spec, int64_t layer)
{
    *p = (struct sq_params){.nparam = 0};
    if (spec->lora && (spec->rank < 1 || spec->rank > PARAMS_RANK_MAX))
        return sq_fail(SQ_E_ARG, "rank %" PRId64 " of LoRA is not in 1..%d", spec->rank, PARAMS_RANK_MAX);
    int rc;
    SQ_TRY(params_tables(p, cfg));
    p->rank = spec->lora ? spec->rank : 0;
    declare_all(p, cfg, s, spec);
    SQ_TRY(params_allocate(p, cfg));
    start_values(p, spec, layer);
out:
    if (rc < 0)
        sq_params_release(p);
    return rc;
}

void sq_params_release(struct sq_params *p)
{
    if (p->home)
        params_device_release(p);
    sq_free(p->sums);
    sq_free(p->partial);
    sq_free(p->strip);
    sq_free(p->scales);
    sq_free(p->moments);
    sq_free(p->values);
    sq_free(p->a);
    sq_free(p->param);
    *p = (struct sq_params){.nparam = 0};
}

int sq_params_train(struct sq_params *p)
{
    const int64_t n = sq_params_floats(p);
    int rc = 0;
    if (p->home)
        return params_device_train(p);
    if (p->moments) {
        memset(p->moments, 0, (size_t)(3 * n) * sizeof *p->moments);
        return 0;
    }
    if (!p->partial)
        SQ_TRY(sq_alloc(&p->partial, fold_partial_size(p)));
    if (!p->sums)
        SQ_TRY(sq_alloc(&p->sums, fold_sums_size(p)));
    SQ_TRY(sq_alloc(&p->moments, 3 * n));
    float *x = p->moments;
    for (int64_t i = 0; i < p->nparam; i++, x += 3 * p->param[i - 1].n) {
        p->param[i].grad = x;
        p->param[i].m = x + p->param[i].n;
        p->param[i].v = x + 2 * p->param[i].n;
    }
out:
    return rc;
}

int64_t sq_params_bytes(const struct sq_params *p)
{
    const int64_t floats = 4 * sq_params_floats(p) + p->rows_max + p->cols_max + 1 + fold_strip_size(p) +
                           fold_partial_size(p);
    return floats * (int64_t)sizeof(float) + fold_sums_size(p) * (int64_t)sizeof(double);
}

void sq_params_project(struct sq_params *p, const struct sq_ops *ops)
{
    for (int at = 0; at < SQ_PLACES; at++) {
        const struct sq_param *a = p->alpha[at];
        if (a)
            ops->project(a->x, ALPHA_MIN, a->n);
    }
}
