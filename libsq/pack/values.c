#include "values.h"

#include <stdio.h>
#include <string.h>

#include "blocks.h"

static int expect(const struct sq_tensor *t, const char *name, enum sq_dtype dtype, int64_t rows, int64_t cols)
{
    if (!t)
        return sq_fail(SQ_E_FORMAT, "tensor '%s' is missing", name);
    if (t->ndim != 2 || t->dim[0] != rows || (cols > 0 && t->dim[1] != cols))
        return sq_fail(SQ_E_FORMAT, "tensor '%s' is not [%" PRId64 ", %" PRId64 "]", name, rows, cols);
    if (dtype == SQ_U8 ? t->dtype != SQ_U8 : t->dtype != SQ_F16 && t->dtype != SQ_F32)
        return sq_fail(SQ_E_FORMAT, "tensor '%s' is %s", name, sq_dtype_name(t->dtype));
    return 0;
}

/* The group of a table comes without a scheme: the scales say it, if it divides the columns. */
static int group_of(int64_t *group, const struct plan_entry *e, int64_t groups)
{
    if (e->kind != PLAN_LINEAR)
        *group = groups > 1 && e->cols % groups == 0 ? e->cols / groups : 0;
    const int64_t want = *group ? (e->cols + *group - 1) / *group : 1;
    return groups == want ? 0 : sq_fail(SQ_E_FORMAT, "tensor '%s': %" PRId64 " scales a row, %" PRId64 " expected",
                                        e->hf, groups, want);
}

static int open_grid(struct values *v, const struct plan_entry *e, const struct sq_layer *bag, const char *base,
                     int64_t group)
{
    char name[3][SQ_NAME_MAX + 8];
    static const char *const part[] = {"codes", "scales", "zeros"};
    const struct sq_tensor *t[3];
    int rc;

    for (int i = 0; i < 3; i++) {
        snprintf(name[i], sizeof name[i], "%s.%s", base, part[i]);
        t[i] = sq_layer_find(bag, name[i]);
    }
    SQ_TRY(expect(t[0], name[0], SQ_U8, e->rows, e->cols));
    SQ_TRY(expect(t[1], name[1], SQ_F32, e->rows, 0));
    SQ_TRY(group_of(&group, e, t[1]->dim[1]));
    SQ_TRY(expect(t[2], name[2], SQ_U8, e->rows, t[1]->dim[1]));
    SQ_TRY(sq_alloc(&v->scales, sq_tensor_count(t[1])));
    SQ_TRY(sq_tensor_to_f32(v->scales, t[1]));
    v->grid = (struct sq_grid){.name = e->hf, .codes = t[0]->data, .scales = v->scales, .zeros = t[2]->data,
                               .rows = e->rows, .cols = e->cols, .group = group};
out:
    return rc;
}

int values_open(struct values *v, const struct plan_entry *e, const struct sq_layer *bag, int64_t group)
{
    char base[SQ_NAME_MAX];
    snprintf(base, sizeof base, "%s", e->local);
    char *dot = strrchr(base, '.');

    *v = (struct values){.weight = sq_layer_find(bag, e->local), .rows = e->vector ? e->cols : e->rows,
                         .cols = e->vector ? 1 : e->cols};
    if (!v->weight && dot && strcmp(dot, ".weight") == 0 && !e->vector) {
        *dot = '\0';
        return open_grid(v, e, bag, base, group);
    }
    if (!v->weight)
        return sq_fail(SQ_E_FORMAT, "tensor '%s' is missing", e->hf);
    const struct sq_tensor *t = v->weight;
    if (t->ndim != (e->vector ? 1 : 2) || sq_tensor_rows(t) != e->rows || sq_tensor_cols(t) != e->cols)
        return sq_fail(SQ_E_FORMAT, "tensor '%s' has not the shape [%" PRId64 ", %" PRId64 "]", e->hf, e->rows, e->cols);
    return 0;
}

void values_close(struct values *v)
{
    sq_free(v->scales);
    v->scales = NULL;
}

int values_read(float *w, const struct values *v, int64_t first, int64_t n)
{
    if (v->weight) {
        struct sq_tensor run = *v->weight;
        run.owned = NULL;
        run.ndim = 1;
        run.dim[0] = n * v->cols;
        run.data = (const uint8_t *)v->weight->data + (size_t)(first * v->cols) * sq_dtype_size(run.dtype);
        return sq_tensor_to_f32(w, &run);
    }
    const struct sq_grid *g = &v->grid;
    const int64_t groups = g->group ? (g->cols + g->group - 1) / g->group : 1;
    const struct sq_rowq q = {.bits = 8, .group = g->group, .rate = 1};
    sq_rowquant_dequant(w, g->codes + first * g->cols, g->scales + first * groups, g->zeros + first * groups, &q, n,
                        g->cols);
    return 0;
}

int values_float_type(enum sq_pack_type *t, const struct values *v)
{
    static const enum sq_pack_type narrow[] = {SQ_PACK_BF16, SQ_PACK_F16};
    bool ok[] = {v->weight->dtype != SQ_F16, v->weight->dtype != SQ_BF16};
    const int64_t step = SQ_MAX(1, RUN_VALUES / v->cols);
    uint8_t *buf = NULL;
    float *w = NULL;
    int rc;

    SQ_TRY(sq_alloc(&w, SQ_MIN(step, v->rows) * v->cols));
    SQ_TRY(sq_alloc(&buf, SQ_MIN(step, v->rows) * v->cols * 2));
    for (int64_t r = 0; r < v->rows && (ok[0] || ok[1]); r += step) {
        const int64_t n = SQ_MIN(step, v->rows - r);
        SQ_TRY(values_read(w, v, r, n));
        for (int i = 0; i < 2; i++)
            ok[i] = ok[i] && pack_floats(buf, w, n * v->cols, narrow[i], SQ_PACK_EXACT);
    }
    *t = ok[0] ? SQ_PACK_BF16 : ok[1] ? SQ_PACK_F16 : SQ_PACK_F32;
out:
    sq_free(buf);
    sq_free(w);
    return rc;
}
