#include "sq/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "map.h"
#include "sq/json.h"

enum { HEADER_MAX = 100 * 1000 * 1000, TENSORS_MAX = 1 << 18 };

struct sq_safetensors {
    struct sq_map map;
    struct sq_tensor *tensor; /* views, by name */
    int64_t n;
};

static const struct {
    const char *name;
    enum sq_dtype dtype;
} dtypes[] = {
    {"F32", SQ_F32}, {"F16", SQ_F16}, {"BF16", SQ_BF16}, {"F64", SQ_F64},
    {"U8", SQ_U8},   {"I8", SQ_I8},   {"I32", SQ_I32},   {"I64", SQ_I64},
};

static int read_dtype(enum sq_dtype *out, const json_t *obj)
{
    const char *name = NULL;
    const int rc = sq_json_str(&name, obj, "dtype");
    if (rc < 0)
        return rc;
    for (int i = 0; i < SQ_COUNT(dtypes); i++)
        if (strcmp(name, dtypes[i].name) == 0) {
            *out = dtypes[i].dtype;
            return 0;
        }
    return sq_fail(SQ_E_UNSUP, "dtype '%.40s' is not supported", name);
}

static int read_ints(int64_t *out, int *n, int max, const json_t *obj, const char *key)
{
    json_t *list = NULL, *v;
    size_t i;
    const int rc = sq_json_array(&list, obj, key);
    if (rc < 0)
        return rc;
    if (json_array_size(list) > (size_t)max)
        return sq_fail(SQ_E_FORMAT, "'%s' has %zu numbers, more than %d", key, json_array_size(list),
                       max);
    json_array_foreach(list, i, v) {
        if (!json_is_integer(v) || json_integer_value(v) < 0)
            return sq_fail(SQ_E_FORMAT, "'%s' has something else than whole numbers", key);
        out[i] = json_integer_value(v);
    }
    *n = (int)json_array_size(list);
    return 0;
}

/* data holds the bytes behind the header */
static int read_tensor(struct sq_tensor *t, const char *name, const json_t *obj, const uint8_t *data,
                       size_t size)
{
    enum sq_dtype dtype = SQ_F32;
    int64_t dim[SQ_MAX_DIMS], at[2];
    int ndim = 0, two = 0, rc = 0;

    SQ_TRY(read_dtype(&dtype, obj));
    SQ_TRY(read_ints(dim, &ndim, SQ_MAX_DIMS, obj, "shape"));
    SQ_TRY(read_ints(at, &two, 2, obj, "data_offsets"));
    if (two != 2 || at[0] > at[1])
        return sq_fail(SQ_E_FORMAT, "'data_offsets' is not a begin and an end");
    if ((uint64_t)at[1] > size)
        return sq_fail(SQ_E_FORMAT,
                       "it ends at byte %" PRId64 " of %zu: the file is cut or the header lies", at[1],
                       size);
    SQ_TRY(sq_tensor_shape(t, name, dtype, ndim, dim));
    if (sq_tensor_bytes(t) != (size_t)(at[1] - at[0]))
        return sq_fail(SQ_E_FORMAT, "shape and dtype need %zu bytes, the header gives it %" PRId64,
                       sq_tensor_bytes(t), at[1] - at[0]);
    t->data = data + at[0];
out:
    return rc;
}

static int by_place(const void *a, const void *b)
{
    const struct sq_tensor *x = a, *y = b;
    if (x->data != y->data)
        return x->data < y->data ? -1 : 1;
    const size_t m = sq_tensor_bytes(x), n = sq_tensor_bytes(y); /* empty ones first */
    return m < n ? -1 : m > n;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct sq_tensor *)a)->name, ((const struct sq_tensor *)b)->name);
}

static int is_named(const void *name, const void *t)
{
    return strcmp(name, ((const struct sq_tensor *)t)->name);
}

static int check_layout(struct sq_safetensors *s, const uint8_t *data, size_t size)
{
    size_t at = 0;
    if (s->n) /* qsort's pointer may not be null */
        qsort(s->tensor, (size_t)s->n, sizeof *s->tensor, by_place);
    for (int64_t i = 0; i < s->n; i++) {
        const struct sq_tensor *t = &s->tensor[i];
        const size_t begin = (size_t)((const uint8_t *)t->data - data);
        if (begin < at)
            return sq_fail(SQ_E_FORMAT, "tensor '%s' overlaps tensor '%s'", t->name,
                           s->tensor[i - 1].name);
        if (begin > at)
            return sq_fail(SQ_E_FORMAT, "%zu bytes in front of tensor '%s' belong to no tensor",
                           begin - at, t->name);
        at = begin + sq_tensor_bytes(t);
    }
    if (at != size)
        return sq_fail(SQ_E_FORMAT, "%zu bytes after the last tensor belong to no tensor", size - at);
    if (s->n)
        qsort(s->tensor, (size_t)s->n, sizeof *s->tensor, by_name);
    return 0;
}

static int read_header(struct sq_safetensors *s)
{
    json_t *head = NULL, *v;
    const char *name;
    uint64_t len = 0;
    int rc = 0;

    if (s->map.size < 8)
        return sq_fail(SQ_E_FORMAT, "it has %zu bytes, too few for a header", s->map.size);
    for (int i = 7; i >= 0; i--)
        len = len << 8 | s->map.data[i];
    if (len > s->map.size - 8)
        return sq_fail(SQ_E_FORMAT, "its header of %" PRIu64 " bytes does not fit into the file's %zu",
                       len, s->map.size);
    if (len > HEADER_MAX)
        return sq_fail(SQ_E_FORMAT, "its header has %" PRIu64 " bytes, more than %d", len, HEADER_MAX);
    const uint8_t *data = s->map.data + 8 + len;
    const size_t size = s->map.size - 8 - (size_t)len;
    SQ_TRY(sq_json_parse(&head, (const char *)s->map.data + 8, (size_t)len, "header"));
    if (!json_is_object(head) || json_object_size(head) > TENSORS_MAX) {
        rc = sq_fail(SQ_E_FORMAT, "its header is not an object of at most %d tensors", TENSORS_MAX);
        goto out;
    }
    SQ_TRY(sq_alloc(&s->tensor, (int64_t)json_object_size(head)));
    json_object_foreach(head, name, v) {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        rc = json_is_object(v) ? read_tensor(&s->tensor[s->n++], name, v, data, size)
                               : sq_fail(SQ_E_FORMAT, "it is not described by an object");
        if (rc < 0) {
            rc = sq_fail_in(rc, "tensor '%.100s'", name);
            goto out;
        }
    }
    SQ_TRY(check_layout(s, data, size));
out:
    json_decref(head);
    return rc;
}

static int open_map(struct sq_safetensors **out, struct sq_map *map, const char *what)
{
    struct sq_safetensors *s = NULL;
    int rc = 0;

    SQ_TRY(sq_alloc(&s, 1));
    s->map = *map;
    map->mapped = false;
    rc = read_header(s);
    if (rc < 0)
        sq_fail_in(rc, "'%s'", what);
out:
    if (rc < 0)
        sq_safetensors_close(&s);
    *out = s;
    return rc;
}

int sq_safetensors_open(struct sq_safetensors **out, const char *path)
{
    struct sq_map map;
    int rc = sq_map_open(&map, path);
    *out = NULL;
    if (rc == 0)
        rc = open_map(out, &map, path);
    sq_map_close(&map); /* no-op when it was taken over */
    return rc;
}

int sq_safetensors_parse(struct sq_safetensors **out, const void *bytes, size_t n, const char *what)
{
    struct sq_map map = {.data = bytes, .size = n, .mapped = false};
    return open_map(out, &map, what);
}

void sq_safetensors_close(struct sq_safetensors **s)
{
    if (!*s)
        return;
    sq_map_close(&(*s)->map);
    sq_free((*s)->tensor);
    sq_free(*s);
    *s = NULL;
}

int64_t sq_safetensors_count(const struct sq_safetensors *s)
{
    return s->n;
}

const struct sq_tensor *sq_safetensors_at(const struct sq_safetensors *s, int64_t i)
{
    SQ_ASSERT(i >= 0 && i < s->n);
    return &s->tensor[i];
}

int64_t sq_safetensors_find(const struct sq_safetensors *s, const char *name)
{
    const struct sq_tensor *t =
        s->n ? bsearch(name, s->tensor, (size_t)s->n, sizeof *s->tensor, is_named) : NULL;
    return t ? t - s->tensor : -1;
}

int sq_safetensors_get(struct sq_tensor *out, const struct sq_safetensors *s, int64_t i)
{
    const struct sq_tensor *t = sq_safetensors_at(s, i);
    if ((uintptr_t)t->data % sq_dtype_size(t->dtype))
        return sq_tensor_copy(out, t);
    const int rc = sq_tensor_shape(out, t->name, t->dtype, t->ndim, t->dim);
    if (rc == 0)
        out->data = t->data;
    return rc;
}

void sq_safetensors_drop(const struct sq_safetensors *s, int64_t i)
{
    const struct sq_tensor *t = sq_safetensors_at(s, i);
    sq_map_drop(&s->map, t->data, sq_tensor_bytes(t));
}
