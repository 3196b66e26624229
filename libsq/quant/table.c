/* Tables outside of the layers, embedding and head: rounded while they pass, and read back. */
#include "sq/merge.h"

#include <stdio.h>
#include <string.h>

#include "private.h"

enum {
    SLICE = 1 << 20,
    COLS_MAX = 1 << 20
}; /* values in memory at a time; sq_config allows no longer rows */

/* ---- rounding ----------------------------------------------------------------------------- */

struct rounder {
    struct sq_stream *out, *in;
    struct sq_tensor shape;
    const struct sq_scheme *s;
    struct sq_rowq q;
    enum sq_dtype type;
    const char *role;
    char base[SQ_NAME_MAX];
    int64_t rows, cols, groups, step; /* step rows in a slice */
    int64_t room;                     /* rows that scale and zero hold: they grow with what really comes */
    void *raw;
    float *z, *scale;
    uint8_t *codes, *zero;
};

static bool strip(char *name, const char *end)
{
    const size_t n = strlen(name), k = strlen(end);
    if (n <= k || strcmp(name + n - k, end) != 0)
        return false;
    name[n - k] = '\0';
    return true;
}

static int open_table(struct rounder *r, const struct sq_record *rec)
{
    int rc;
    SQ_TRY(sq_record_tensor(&r->shape, rec));
    snprintf(r->base, sizeof r->base, "%s", r->shape.name);
    strip(r->base, ".weight");
    if (r->shape.ndim != 2 || r->shape.dim[0] < 1 || r->shape.dim[1] < 1 || r->shape.dim[1] > COLS_MAX)
        SQ_TRY(sq_fail(SQ_E_FORMAT, "tensor '%s' is no table of rows", r->shape.name));
    if (r->q.group && r->shape.dim[1] % r->q.group)
        SQ_TRY(sq_fail(SQ_E_UNSUP, "tensor '%s' has rows of %" PRId64 ", not a multiple of group %" PRId64,
                       r->shape.name, r->shape.dim[1], r->q.group));
    r->role = json_string_value(json_object_get(rec->head, "role"));
    r->rows = r->shape.dim[0];
    r->cols = r->shape.dim[1];
    r->groups = sq_rowq_groups(&r->q, r->cols);
    r->step = SQ_MIN(r->rows, SQ_MAX(1, SLICE / r->cols));
    SQ_TRY(sq_alloc_bytes(&r->raw, r->step * r->cols, sq_dtype_size(r->shape.dtype)));
    SQ_TRY(sq_alloc(&r->z, r->step * r->cols));
    SQ_TRY(sq_alloc(&r->codes, r->step * r->cols));
out:
    return rc;
}

static int make_room(struct rounder *r, int64_t rows)
{
    float *scale = NULL;
    uint8_t *zero = NULL;
    int rc;
    if (rows <= r->room)
        return 0;
    const int64_t room = SQ_MIN(r->rows, SQ_MAX(rows, 2 * r->room)), used = r->room * r->groups;
    SQ_TRY(sq_alloc(&scale, room * r->groups));
    SQ_TRY(sq_alloc(&zero, room * r->groups));
    if (used) {
        memcpy(scale, r->scale, (size_t)used * sizeof *scale);
        memcpy(zero, r->zero, (size_t)used);
    }
    sq_free(r->scale);
    sq_free(r->zero);
    r->scale = scale;
    r->zero = zero;
    r->room = room;
    return 0;
out:
    sq_free(scale);
    return rc;
}

static int put_head(struct rounder *r, const char *part, enum sq_dtype dtype, int64_t cols)
{
    char name[SQ_NAME_MAX + 8];
    json_t *scheme = NULL, *head = NULL;
    int rc;
    snprintf(name, sizeof name, "%s.%s", r->base, part);
    SQ_TRY(sq_scheme_to_json(&scheme, r->s));
    head = json_pack("{s:s, s:s, s:s, s:s, s:[I, I], s:O, s:I}", "record", "tensor", "name", name, "role",
                     r->role ? r->role : part, "dtype", sq_dtype_name(dtype), "shape", (json_int_t)r->rows,
                     (json_int_t)cols, "scheme", scheme, "bytes", (json_int_t)0);
    if (!head)
        SQ_TRY(sq_fail(SQ_E_NOMEM, "no memory for a header"));
    rc = sq_stream_put_head(r->out, head, r->rows * cols * (int64_t)sq_dtype_size(dtype));
out:
    json_decref(head);
    json_decref(scheme);
    return rc;
}

static int round_slice(struct rounder *r, int64_t first, int64_t n, struct sq_merge_counts *c)
{
    struct sq_tensor view = r->shape;
    int rc;
    SQ_TRY(make_room(r, first + n));
    float *scale = r->scale + first * r->groups;
    uint8_t *zero = r->zero + first * r->groups;
    view.dim[0] = n;
    view.data = r->raw;
    SQ_TRY(sq_stream_payload(r->in, r->raw, sq_tensor_bytes(&view)));
    rc = sq_tensor_to_f32(r->z, &view);
    if (rc < 0)
        SQ_TRY(sq_fail_in(rc, "in rows %" PRId64 " and later", first));
    SQ_TRY(sq_merge_grid(scale, zero, r->z, &r->q, NULL, NULL, r->type, n, r->cols));
    SQ_TRY(merge_codes(r->codes, r->z, scale, zero, &r->q, n, r->cols));
    merge_count(c, r->codes, scale, zero, r->type, &r->q, n, r->cols);
    SQ_TRY(sq_stream_put_data(r->out, r->codes, (size_t)(n * r->cols)));
out:
    return rc;
}

int sq_table_round(struct sq_stream *out, struct sq_stream *in, const struct sq_record *rec,
                   const struct sq_scheme *s, enum sq_dtype scale_type, struct sq_merge_counts *c)
{
    SQ_ASSERT(s->wbits < 16);
    struct rounder r = {
        .out = out, .in = in, .shape = SQ_TENSOR_INIT, .s = s, .q = sq_scheme_weights(s), .type = scale_type};
    int rc;
    SQ_TRY(open_table(&r, rec));
    const int64_t n = r.rows * r.groups;
    SQ_TRY(put_head(&r, "codes", SQ_U8, r.cols));
    for (int64_t i = 0; i < r.rows; i += r.step)
        SQ_TRY(round_slice(&r, i, SQ_MIN(r.step, r.rows - i), c));
    SQ_TRY(put_head(&r, "scales", scale_type, r.groups));
    for (int64_t i = 0, m; i < n; i += m) {
        m = SQ_MIN(r.step * r.cols, n - i);
        merge_pack_scales(r.z, r.scale + i, m, scale_type);
        SQ_TRY(sq_stream_put_data(out, r.z, (size_t)m * sq_dtype_size(scale_type)));
    }
    SQ_TRY(put_head(&r, "zeros", SQ_U8, r.groups));
    SQ_TRY(sq_stream_put_data(out, r.zero, (size_t)n));
out:
    sq_free(r.zero);
    sq_free(r.scale);
    sq_free(r.codes);
    sq_free(r.z);
    sq_free(r.raw);
    return rc;
}

/* ---- reading ------------------------------------------------------------------------------ */

static int take(struct sq_tensor *to, struct sq_tensor *x)
{
    if (to->data)
        return sq_fail(SQ_E_FORMAT, "tensor '%s' is there twice", x->name);
    if (x->ndim != 2 || x->dim[0] < 1 || x->dim[1] < 1)
        return sq_fail(SQ_E_FORMAT, "tensor '%s' is no table of rows", x->name);
    sq_tensor_move(to, x);
    return 1;
}

int sq_table_offer(struct sq_table *t, struct sq_tensor *x, const char *name)
{
    char base[SQ_NAME_MAX];
    if (strcmp(x->name, name) == 0)
        return take(&t->weight, x);
    snprintf(base, sizeof base, "%s", name);
    strip(base, ".weight");
    const size_t n = strlen(base);
    if (strncmp(x->name, base, n) != 0)
        return 0;
    if (strcmp(x->name + n, ".codes") == 0)
        return take(&t->codes, x);
    if (strcmp(x->name + n, ".scales") == 0)
        return take(&t->scales, x);
    return strcmp(x->name + n, ".zeros") == 0 ? take(&t->zeros, x) : 0;
}

int sq_table_ready(struct sq_table *t, const char *name)
{
    const bool any = t->codes.data || t->scales.data || t->zeros.data;
    if (t->weight.data)
        return any ? sq_fail(SQ_E_FORMAT, "'%s' comes as floats and as codes", name) : 1;
    if (!any)
        return 0;
    if (!t->codes.data || !t->scales.data || !t->zeros.data)
        return sq_fail(SQ_E_FORMAT, "'%s': codes, scales or zeros are missing", name);
    const int64_t cols = t->codes.dim[1], groups = t->scales.dim[1];
    if (t->codes.dtype != SQ_U8 || t->zeros.dtype != SQ_U8 || t->scales.dim[0] != t->codes.dim[0] ||
        t->zeros.dim[0] != t->codes.dim[0] || t->zeros.dim[1] != groups || groups > cols)
        return sq_fail(SQ_E_FORMAT, "'%s': codes, scales and zeros do not fit together", name);
    /* The scales alone do not tell the size of a short last group; rounders of tables use groups that divide.
     */
    if (cols % groups)
        return sq_fail(SQ_E_UNSUP, "'%s': %" PRId64 " groups in rows of %" PRId64, name, groups, cols);
    t->group = groups == 1 ? 0 : cols / groups;
    return 1;
}

int64_t sq_table_rows(const struct sq_table *t)
{
    return t->weight.data ? t->weight.dim[0] : t->codes.data ? t->codes.dim[0] : 0;
}

int64_t sq_table_cols(const struct sq_table *t)
{
    return t->weight.data ? t->weight.dim[1] : t->codes.data ? t->codes.dim[1] : 0;
}

static struct sq_tensor rows_of(const struct sq_tensor *t, int64_t first, int64_t n)
{
    struct sq_tensor view = *t;
    view.owned = NULL;
    view.data = (const uint8_t *)t->data + (size_t)(first * t->dim[1]) * sq_dtype_size(t->dtype);
    view.dim[0] = n;
    return view;
}

int sq_table_read(float *out, const struct sq_table *t, int64_t first, int64_t n)
{
    float *scale = NULL;
    int rc;
    if (first < 0 || n < 0 || first > sq_table_rows(t) - n)
        return sq_fail(SQ_E_ARG, "rows %" PRId64 " to %" PRId64 " of %" PRId64, first, first + n,
                       sq_table_rows(t));
    if (t->weight.data) {
        const struct sq_tensor view = rows_of(&t->weight, first, n);
        return sq_tensor_to_f32(out, &view);
    }
    const struct sq_rowq q = {.bits = 8, .group = t->group, .rate = 1};
    const struct sq_tensor codes = rows_of(&t->codes, first, n), scales = rows_of(&t->scales, first, n),
                           zeros = rows_of(&t->zeros, first, n);
    SQ_TRY(sq_alloc(&scale, n * t->scales.dim[1]));
    SQ_TRY(sq_tensor_to_f32(scale, &scales));
    sq_rowquant_dequant(out, codes.data, scale, zeros.data, &q, n, t->codes.dim[1]);
out:
    sq_free(scale);
    return rc;
}

void sq_table_release(struct sq_table *t)
{
    sq_tensor_release(&t->zeros);
    sq_tensor_release(&t->scales);
    sq_tensor_release(&t->codes);
    sq_tensor_release(&t->weight);
    *t = (struct sq_table)SQ_TABLE_INIT;
}
