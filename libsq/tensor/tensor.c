#include "sq/tensor.h"

#include <math.h>
#include <string.h>

int64_t sq_tensor_count(const struct sq_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->ndim; i++)
        n *= t->dim[i];
    return n;
}

size_t sq_tensor_bytes(const struct sq_tensor *t)
{
    return (size_t)sq_tensor_count(t) * sq_dtype_size(t->dtype);
}

int64_t sq_tensor_cols(const struct sq_tensor *t)
{
    return t->ndim ? t->dim[t->ndim - 1] : 1;
}

int64_t sq_tensor_rows(const struct sq_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i + 1 < t->ndim; i++)
        n *= t->dim[i];
    return n;
}

int sq_tensor_shape(struct sq_tensor *t, const char *name, enum sq_dtype dtype, int ndim, const int64_t *dim)
{
    const size_t len = strlen(name);
    size_t bytes = sq_dtype_size(dtype);
    char copy[SQ_NAME_MAX];

    if (len >= SQ_NAME_MAX)
        return sq_fail(SQ_E_FORMAT, "tensor name '%.60s...' is longer than %d bytes", name, SQ_NAME_MAX - 1);
    if (ndim < 0 || ndim > SQ_MAX_DIMS)
        return sq_fail(SQ_E_FORMAT, "tensor '%s' has %d dimensions, more than %d", name, ndim, SQ_MAX_DIMS);
    for (int i = 0; i < ndim; i++)
        if (dim[i] < 0 || __builtin_mul_overflow(bytes, (size_t)dim[i], &bytes) || bytes > INT64_MAX / 2)
            return sq_fail(SQ_E_FORMAT, "tensor '%s': dimension %d is %" PRId64 ", the size overflows", name, i, dim[i]);
    memcpy(copy, name, len + 1);
    sq_tensor_release(t);
    memcpy(t->name, copy, len + 1);
    t->dtype = dtype;
    t->ndim = ndim;
    for (int i = 0; i < ndim; i++)
        t->dim[i] = dim[i];
    return 0;
}

int sq_tensor_new(struct sq_tensor *t, const char *name, enum sq_dtype dtype, int ndim, const int64_t *dim)
{
    int rc = sq_tensor_shape(t, name, dtype, ndim, dim);
    if (rc == 0)
        rc = sq_alloc_bytes(&t->owned, (int64_t)sq_tensor_bytes(t), 1);
    if (rc < 0)
        return sq_fail_in(rc, "tensor '%.*s'", SQ_NAME_MAX - 1, name);
    t->data = t->owned;
    return 0;
}

void sq_tensor_release(struct sq_tensor *t)
{
    sq_free(t->owned);
    *t = (struct sq_tensor)SQ_TENSOR_INIT;
}

void sq_tensor_move(struct sq_tensor *dst, struct sq_tensor *src)
{
    if (dst == src)
        return;
    sq_tensor_release(dst);
    *dst = *src;
    *src = (struct sq_tensor)SQ_TENSOR_INIT;
}

int sq_tensor_copy(struct sq_tensor *dst, const struct sq_tensor *src)
{
    const int rc = sq_tensor_new(dst, src->name, src->dtype, src->ndim, src->dim);
    if (rc == 0 && dst->owned)
        memcpy(dst->owned, src->data, sq_tensor_bytes(src));
    return rc;
}

double sq_tensor_at(const struct sq_tensor *t, int64_t i)
{
    switch (t->dtype) {
    case SQ_F32: return (double)((const float *)t->data)[i];
    case SQ_F16: return (double)sq_f16_to_f32(((const uint16_t *)t->data)[i]);
    case SQ_BF16: return (double)sq_bf16_to_f32(((const uint16_t *)t->data)[i]);
    case SQ_F64: return ((const double *)t->data)[i];
    case SQ_U8: return ((const uint8_t *)t->data)[i];
    case SQ_I8: return ((const int8_t *)t->data)[i];
    case SQ_I32: return ((const int32_t *)t->data)[i];
    default: return (double)((const int64_t *)t->data)[i];
    }
}

int sq_tensor_to_f32(float *out, const struct sq_tensor *t)
{
    const int64_t n = sq_tensor_count(t);
    const float *f = t->data;
    const double *d = t->data;
    const uint16_t *h = t->data;

    switch (t->dtype) {
    case SQ_F32:
        if (n)
            memcpy(out, f, (size_t)n * sizeof *out);
        break;
    case SQ_F64:
        for (int64_t i = 0; i < n; i++)
            out[i] = (float)d[i];
        break;
    case SQ_F16:
        for (int64_t i = 0; i < n; i++)
            out[i] = sq_f16_to_f32(h[i]);
        break;
    case SQ_BF16:
        for (int64_t i = 0; i < n; i++)
            out[i] = sq_bf16_to_f32(h[i]);
        break;
    default:
        return sq_fail(SQ_E_FORMAT, "tensor '%s' is %s, not a float type", t->name, sq_dtype_name(t->dtype));
    }
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(out[i]))
            return sq_fail(SQ_E_VALUE, "tensor '%s': element %" PRId64 " is NaN or Inf", t->name, i);
    return 0;
}
