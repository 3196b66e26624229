#include "sq/merge.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "private.h"

/* The smallest normal f16: below it the spacing of scales would be coarser than f16's 11 bits promise. */
#define F16_SMALLEST 6.103515625e-05f

enum { SMALL = 1 << 17 }; /* values that are not worth waking other threads */

/* Scales are rounded to the type that files store before zero points and codes are computed, so that the
 * artifact holds what was measured. Because of SQ_SCALE_MIN, rows of zeros get a scale, zero point and codes
 * like others: exactly 0. */
static float stored_scale(float s, enum sq_dtype type)
{
    return type == SQ_F16 ? fmaxf(sq_f16_to_f32(sq_f32_to_f16(s)), F16_SMALLEST) : s;
}

static void grid_of_group(float *scale, uint8_t *zero, const float *z, int64_t n, const struct sq_rowq *p,
                          const float *u, const float *l, enum sq_dtype type)
{
    float max = z[0], min = z[0], zp;
    for (int64_t j = 1; j < n; j++) {
        max = SQ_MAX(max, z[j]);
        min = SQ_MIN(min, z[j]);
    }
    const float hi = (u ? sq_rowquant_factor(*u) : 1.0f) * max,
                lo = (l ? sq_rowquant_factor(*l) : 1.0f) * min;
    sq_rowquant_grid_of(scale, &zp, hi, lo, p);
    *scale = stored_scale(*scale, type);
    if (p->sym) {
        *zero = (uint8_t)(1 << (p->bits - 1));
        return;
    }
    /* docs/method.md 1 on the stored scale; the clamp to a code is for rows whose scale hit SQ_SCALE_MAX */
    zp = rintf(-SQ_MIN(lo, 0.0f) / *scale);
    *zero = (uint8_t)SQ_MIN(SQ_MAX(zp, 0.0f), (float)((1 << p->bits) - 1));
}

int sq_merge_grid(float *scale, uint8_t *zero, const float *z, const struct sq_rowq *p, const float *u,
                  const float *l, enum sq_dtype type, int64_t rows, int64_t cols)
{
    const int64_t groups = sq_rowq_groups(p, cols);
    for (int64_t i = 0; i < rows * cols; i++)
        if (!isfinite(z[i]))
            return sq_fail(SQ_E_VALUE, "value %" PRId64 " of row %" PRId64 " is %s", i % cols, i / cols,
                           isnan(z[i]) ? "NaN" : "infinite");
#pragma omp parallel for schedule(static) if (rows * cols > SMALL)
    for (int64_t i = 0; i < rows * groups; i++) {
        const int64_t first = p->group ? i % groups * p->group : 0;
        grid_of_group(scale + i, zero + i, z + i / groups * cols + first,
                      p->group ? SQ_MIN(p->group, cols - first) : cols, p, u ? u + i : NULL, l ? l + i : NULL,
                      type);
    }
    return 0;
}

static int new_tensor(struct sq_tensor *t, const char *base, const char *part, enum sq_dtype dtype,
                      int64_t rows, int64_t cols)
{
    char name[SQ_NAME_MAX];
    const int64_t dim[2] = {rows, cols};
    snprintf(name, sizeof name, "%s%s", base, part);
    return sq_tensor_new(t, name, dtype, 2, dim);
}

void merge_pack_scales(void *out, const float *scale, int64_t n, enum sq_dtype type)
{
    if (type == SQ_F32) {
        memcpy(out, scale, (size_t)n * sizeof *scale);
        return;
    }
    uint16_t *h = out;
    for (int64_t i = 0; i < n; i++)
        h[i] = sq_f32_to_f16(scale[i]); /* exact: it was rounded already */
}

/* Codes on the stored grid. */
int merge_codes(uint8_t *q, const float *z, const float *scale, const uint8_t *zero, const struct sq_rowq *p,
                int64_t rows, int64_t cols)
{
    const int64_t n = rows * sq_rowq_groups(p, cols);
    float *zp = NULL;
    const int rc = sq_alloc(&zp, n);
    if (rc < 0)
        return rc;
    for (int64_t i = 0; i < n; i++)
        zp[i] = p->sym ? 0 : (float)zero[i];
    sq_rowquant_codes(q, z, scale, zp, p, rows, cols);
    sq_free(zp);
    return 0;
}

/* What is needed to put the merged layer together. */
struct merge {
    struct sq_layer *from, to;
    const struct sq_config *cfg;
    struct sq_rowq q;
    enum sq_dtype type;
    struct sq_params p;
    struct sq_block b; /* absorbed */
};

static int add_floats(struct merge *m, const char *name, const float *x, int ndim, int64_t rows, int64_t cols)
{
    struct sq_tensor t = SQ_TENSOR_INIT;
    const int64_t two[2] = {rows, cols}, n = rows * cols;
    int rc;
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return sq_fail(SQ_E_VALUE, "'%s': element %" PRId64 " is %s once everything is absorbed", name, i,
                           isnan(x[i]) ? "NaN" : "infinite");
    SQ_TRY(sq_tensor_new(&t, name, SQ_F32, ndim, ndim == 2 ? two : &n));
    memcpy(t.owned, x, (size_t)n * sizeof *x);
    SQ_TRY(sq_layer_add(&m->to, &t));
out:
    sq_tensor_release(&t);
    return rc;
}

static int add_codes(struct merge *m, const char *linear, int64_t k, int64_t rows, int64_t cols)
{
    struct sq_tensor codes = SQ_TENSOR_INIT, scales = SQ_TENSOR_INIT, zeros = SQ_TENSOR_INIT;
    const int64_t groups = sq_rowq_groups(&m->q, cols);
    const struct sq_param *u = m->p.u[k], *l = m->p.l[k];
    float *scale = NULL;
    int rc;

    SQ_TRY(new_tensor(&codes, linear, ".codes", SQ_U8, rows, cols));
    SQ_TRY(new_tensor(&scales, linear, ".scales", m->type, rows, groups));
    SQ_TRY(new_tensor(&zeros, linear, ".zeros", SQ_U8, rows, groups));
    SQ_TRY(sq_alloc(&scale, rows * groups));
    rc = sq_merge_grid(scale, zeros.owned, m->b.w[k], &m->q, u ? u->x : NULL, l ? l->x : NULL, m->type, rows,
                       cols);
    if (rc < 0)
        SQ_TRY(sq_fail_in(rc, "'%s', once everything is absorbed", linear));
    SQ_TRY(merge_codes(codes.owned, m->b.w[k], scale, zeros.owned, &m->q, rows, cols));
    merge_pack_scales(scales.owned, scale, rows * groups, m->type);
    SQ_TRY(sq_layer_add(&m->to, &codes));
    SQ_TRY(sq_layer_add(&m->to, &scales));
    SQ_TRY(sq_layer_add(&m->to, &zeros));
out:
    sq_free(scale);
    sq_tensor_release(&zeros);
    sq_tensor_release(&scales);
    sq_tensor_release(&codes);
    return rc;
}

static int add_linear(struct merge *m, int64_t k)
{
    char linear[SQ_LINEAR_NAME], name[SQ_NAME_MAX];
    int64_t rows, cols;
    int rc;
    sq_linear_name(linear, m->cfg, k);
    sq_linear_shape(&rows, &cols, m->cfg, k);
    snprintf(name, sizeof name, "%s.weight", linear);
    sq_layer_drop(m->from, name);
    if (m->q.bits >= 16)
        SQ_TRY(add_floats(m, name, m->b.w[k], 2, rows, cols));
    else
        SQ_TRY(add_codes(m, linear, k, rows, cols));
    if (m->b.bias[k]) {
        snprintf(name, sizeof name, "%s.bias", linear);
        sq_layer_drop(m->from, name);
        SQ_TRY(add_floats(m, name, m->b.bias[k], 1, 1, rows));
    }
out:
    return rc;
}

static int add_rest(struct merge *m)
{
    int rc = 0;
    if (m->b.router) {
        sq_layer_drop(m->from, "mlp.gate.weight");
        SQ_TRY(add_floats(m, "mlp.gate.weight", m->b.router, 2, m->cfg->experts, m->cfg->hidden));
    }
    for (int64_t i = 0; i < m->p.nparam; i++)
        sq_layer_drop(m->from, m->p.param[i].name);
    /* tensors of a kind that this version does not know stay; statistics are of the model that was */
    for (int64_t i = 0; i < m->from->ntensor; i++)
        if (strcmp(sq_layer_role(m->from->tensor[i].name), "stats") != 0)
            SQ_TRY(sq_layer_add(&m->to, &m->from->tensor[i]));
out:
    return rc;
}

/* The layer record's scheme, at the full rate: a merged layer is rounded everywhere. */
static int full_scheme(json_t **out, struct sq_scheme *s, const struct sq_layer *l)
{
    int rc;
    *out = NULL;
    if (!l->scheme)
        return sq_fail(SQ_E_ARG, "the layer has no scheme: no stage before said how to round it");
    SQ_TRY(sq_scheme_from_json(s, l->scheme));
    s->rate = 1;
    *out = json_copy(l->scheme); /* with members of later versions */
    if (!*out || json_object_set_new(*out, "rate", json_real(1)) < 0)
        rc = sq_fail(SQ_E_NOMEM, "no memory for a scheme");
out:
    return rc;
}

static int merge_layer(struct merge *m, const struct sq_ops *ops)
{
    struct sq_scheme s;
    int rc;
    if (m->type != SQ_F16 && m->type != SQ_F32)
        SQ_TRY(sq_fail(SQ_E_ARG, "scales are stored as f16 or f32"));
    SQ_TRY(sq_layer_check(m->from, m->cfg));
    SQ_TRY(full_scheme(&m->to.scheme, &s, m->from));
    m->to.index = m->from->index;
    m->to.state = SQ_MERGED;
    m->q = sq_scheme_weights(&s);
    SQ_TRY(sq_params_load(&m->p, m->cfg, &s, m->from));
    SQ_TRY(sq_block_load(&m->b, m->cfg, m->from));
    sq_params_project(&m->p, ops);
    sq_fold(&m->b, &m->b, &m->p, NULL, ops);
    for (int g = 0; g < SQ_GAINS; g++) {
        const char *name = sq_gain_name((enum sq_gain_id)g);
        const int64_t n = sq_gain_size(m->cfg, (enum sq_gain_id)g);
        if (!n)
            continue;
        sq_layer_drop(m->from, name);
        SQ_TRY(add_floats(m, name, m->b.gain[g], 1, 1, n));
    }
    for (int64_t k = 0; k < m->b.nlinear; k++)
        SQ_TRY(add_linear(m, k));
    SQ_TRY(add_rest(m));
out:
    return rc;
}

int sq_layer_merge(struct sq_layer *l, const struct sq_config *cfg, enum sq_dtype scale_type,
                   const struct sq_ops *ops)
{
    struct merge m = {.from = l, .to = SQ_LAYER_INIT, .cfg = cfg, .type = scale_type};
    const int64_t index = l->index;
    int rc = merge_layer(&m, ops);
    sq_block_release(&m.b);
    sq_params_release(&m.p);
    if (rc < 0) {
        char where[32];
        snprintf(where, sizeof where, "layer %" PRId64, index);
        sq_layer_release(&m.to);
        return strncmp(sq_errmsg(), where, strlen(where)) ? sq_fail_in(rc, "%s", where) : rc;
    }
    sq_layer_release(l);
    *l = m.to;
    return 0;
}

/* ---- counts ------------------------------------------------------------------------------- */

void merge_count(struct sq_merge_counts *c, const uint8_t *q, const float *scale, const uint8_t *zero,
                 enum sq_dtype type, const struct sq_rowq *p, int64_t rows, int64_t cols)
{
    const int64_t groups = sq_rowq_groups(p, cols);
    const int top = (1 << p->bits) - 1;
    c->codes += rows * cols;
    c->groups += rows * groups;
    for (int64_t i = 0; i < rows * groups; i++) {
        const int64_t first = p->group ? i % groups * p->group : 0,
                      n = p->group ? SQ_MIN(p->group, cols - first) : cols;
        int64_t zeros = 0;
        for (int64_t j = 0; j < n; j++) {
            const int code = q[i / groups * cols + first + j];
            c->low += code == 0;
            c->high += code == top;
            zeros += code == zero[i];
        }
        c->zero_groups += zeros == n;
        c->small_scales += type == SQ_F16 && scale[i] <= F16_SMALLEST;
    }
}

static int count_linear(struct sq_merge_counts *c, const struct sq_layer *l, const char *linear,
                        const struct sq_rowq *q)
{
    static const char *const part[] = {"codes", "scales", "zeros"};
    const struct sq_tensor *t[3];
    float *scale = NULL;
    int rc;
    for (int i = 0; i < 3; i++) {
        char name[SQ_NAME_MAX];
        snprintf(name, sizeof name, "%s.%s", linear, part[i]);
        t[i] = sq_layer_find(l, name);
        if (!t[i] || (i != 1 && t[i]->dtype != SQ_U8))
            return sq_fail(SQ_E_FORMAT, "layer %" PRId64 " has no u8 tensor '%s'", l->index, name);
    }
    const int64_t rows = sq_tensor_rows(t[0]), cols = sq_tensor_cols(t[0]),
                  n = rows * sq_rowq_groups(q, cols);
    if (sq_tensor_count(t[1]) != n || sq_tensor_count(t[2]) != n)
        return sq_fail(SQ_E_FORMAT, "layer %" PRId64 ": '%s' has not one scale and zero per group", l->index,
                       linear);
    SQ_TRY(sq_alloc(&scale, n));
    SQ_TRY(sq_tensor_to_f32(scale, t[1]));
    merge_count(c, t[0]->data, scale, t[2]->data, t[1]->dtype, q, rows, cols);
out:
    sq_free(scale);
    return rc;
}

int sq_merge_count(struct sq_merge_counts *c, const struct sq_layer *l, const struct sq_config *cfg)
{
    struct sq_scheme s;
    int rc = 0;
    if (l->state != SQ_MERGED || !l->scheme)
        return 0;
    SQ_TRY(sq_scheme_from_json(&s, l->scheme));
    const struct sq_rowq q = sq_scheme_weights(&s);
    for (int64_t k = 0; k < sq_config_linears(cfg) && q.bits < 16; k++) {
        char linear[SQ_LINEAR_NAME];
        SQ_TRY(count_linear(c, l, sq_linear_name(linear, cfg, k), &q));
    }
out:
    return rc;
}
