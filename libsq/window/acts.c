#include "acts.h"

#include <string.h>

#include "scratch.h"
#include "sq/json.h"
#include "sq/layer.h"

enum { PIECE = 16 << 20 }; /* bytes of the embedding held at a time */

void acts_release(struct acts *a)
{
    sq_free(a->ids);
    for (int i = 0; i < 2; i++) {
        char *x = i ? a->xq.x : a->xf.x;
        if (a->spill)
            scratch_unmap(x, acts_bytes(a));
        else
            sq_free(x);
    }
    *a = (struct acts){0};
}

void acts_type(struct acts *a, const struct sq_ops *ops)
{
    a->xf.type = a->xq.type = ops->precision == SQ_BF16_PRODUCTS ? SQ_BF16 : SQ_F32;
}

int64_t acts_count(const struct acts *a)
{
    return a->samples * a->tokens * a->hidden;
}

size_t acts_bytes(const struct acts *a)
{
    return (size_t)acts_count(a) * sq_dtype_size(a->xf.type);
}

static int stream_alloc(struct sq_floats *s, const struct acts *a)
{
    char *x = NULL;
    const int rc = a->spill ? scratch_map(&x, acts_bytes(a), a->spill) : sq_alloc(&x, (int64_t)acts_bytes(a));
    s->x = x;
    return rc;
}

int acts_alloc(struct acts *a)
{
    int rc = stream_alloc(&a->xf, a);
    if (rc == 0)
        rc = stream_alloc(&a->xq, a);
    return rc < 0 ? sq_fail_in(rc, "activations of %" PRId64 " samples of %" PRId64 " tokens", a->samples,
                               a->tokens)
                  : 0;
}

static int check_ids(const struct acts *a, int64_t vocab)
{
    for (int64_t i = 0; i < a->samples * a->tokens; i++)
        if (a->ids[i] < 0 || a->ids[i] >= vocab)
            return sq_fail(SQ_E_FORMAT,
                           "token %" PRId64 " is id %" PRId32 "; the model has %" PRId64 " of them", i,
                           a->ids[i], vocab);
    return 0;
}

int acts_tokens(struct acts *a, struct sq_stream *out, struct sq_stream *in, const struct sq_record *rec,
                const struct sq_config *cfg)
{
    const char *dtype;
    int rc;
    if (a->ids)
        return sq_fail(SQ_E_FORMAT, "the stream has two tokens records");
    a->hidden = cfg->hidden;
    SQ_TRY(sq_json_int(&a->samples, rec->head, "samples", 1, INT64_C(1) << 24));
    SQ_TRY(sq_json_int(&a->tokens, rec->head, "length", 1, INT64_C(1) << 20));
    SQ_TRY(sq_json_int_opt(&a->heldout, rec->head, "heldout", 0, a->samples));
    SQ_TRY(sq_json_str(&dtype, rec->head, "dtype"));
    if (strcmp(dtype, "i32") != 0 || rec->bytes != 4 * a->samples * a->tokens)
        return sq_fail(SQ_E_FORMAT, "tokens are %s and %" PRId64 " bytes, not i32 and %" PRId64, dtype,
                       rec->bytes, 4 * a->samples * a->tokens);
    if (a->heldout == a->samples)
        return sq_fail(SQ_E_FORMAT, "all of the %" PRId64 " samples are held out", a->samples);
    if (a->tokens > cfg->max_positions && cfg->max_positions > 0)
        sq_log(SQ_WARNING, "samples of %" PRId64 " tokens are longer than the model's %" PRId64 " positions",
               a->tokens, cfg->max_positions);
    SQ_TRY(sq_alloc(&a->ids, a->samples * a->tokens));
    SQ_TRY(sq_stream_payload(in, a->ids, (size_t)rec->bytes));
    SQ_TRY(check_ids(a, cfg->vocab));
    if (out)
        SQ_TRY(sq_stream_put(out, rec->head, a->ids, (size_t)rec->bytes));
out:
    return rc < 0 ? sq_fail_in(rc, "calibration tokens") : 0;
}

/* rows [first, first + n) of the embedding to the tokens that name them; wide has room for one */
static int scatter(struct acts *a, float *wide, const char *rows, enum sq_dtype dtype, int64_t first, int64_t n)
{
    const size_t row_bytes = (size_t)a->hidden * sq_dtype_size(dtype);
    struct sq_tensor row = SQ_TENSOR_INIT;
    int rc = sq_tensor_shape(&row, SQ_EMBED_NAME, dtype, 1, &a->hidden);
    for (int64_t i = 0; rc == 0 && i < a->samples * a->tokens; i++) {
        if (a->ids[i] < first || a->ids[i] >= first + n)
            continue;
        row.data = rows + (size_t)(a->ids[i] - first) * row_bytes;
        rc = sq_tensor_to_f32(wide, &row);
        sq_floats_put(sq_floats_from(a->xf, i * a->hidden), wide, a->hidden);
    }
    return rc;
}

static int check_shape(enum sq_dtype *dtype, const struct sq_record *rec, const struct sq_config *cfg)
{
    const char *name;
    json_t *shape;
    int rc = sq_json_str(&name, rec->head, "dtype");
    if (rc == 0)
        rc = sq_dtype_parse(dtype, name);
    if (rc == 0)
        rc = sq_json_array(&shape, rec->head, "shape");
    if (rc < 0)
        return rc;
    if (json_array_size(shape) != 2 || json_integer_value(json_array_get(shape, 0)) != cfg->vocab ||
        json_integer_value(json_array_get(shape, 1)) != cfg->hidden ||
        rec->bytes != cfg->vocab * cfg->hidden * (int64_t)sq_dtype_size(*dtype))
        return sq_fail(SQ_E_FORMAT, "tensor '" SQ_EMBED_NAME "' is not [%" PRId64 ", %" PRId64 "]",
                       cfg->vocab, cfg->hidden);
    return 0;
}

int acts_embed(struct acts *a, struct sq_stream *out, struct sq_stream *in, const struct sq_record *rec,
               const struct sq_config *cfg)
{
    enum sq_dtype dtype;
    char *piece = NULL;
    float *wide = NULL;
    int rc;
    SQ_TRY(check_shape(&dtype, rec, cfg));
    SQ_TRY(acts_alloc(a));
    SQ_TRY(sq_alloc(&wide, cfg->hidden));
    const int64_t row = cfg->hidden * (int64_t)sq_dtype_size(dtype), most = SQ_MAX(1, PIECE / row);
    SQ_TRY(sq_alloc(&piece, SQ_MIN(most, cfg->vocab) * row));
    if (out)
        SQ_TRY(sq_stream_put_head(out, rec->head, rec->bytes));
    for (int64_t first = 0; first < cfg->vocab; first += most) {
        const int64_t n = SQ_MIN(most, cfg->vocab - first);
        SQ_TRY(sq_stream_payload(in, piece, (size_t)(n * row)));
        if (out)
            SQ_TRY(sq_stream_put_data(out, piece, (size_t)(n * row)));
        SQ_TRY(scatter(a, wide, piece, dtype, first, n));
    }
    memcpy(a->xq.x, a->xf.x, acts_bytes(a));
    a->embedded = true;
out:
    sq_free(wide);
    sq_free(piece);
    return rc;
}
