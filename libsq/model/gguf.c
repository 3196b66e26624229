/* Layout: magic, version, tensor count, key count; keys with values; tensor infos; padding; data. A
 * count is believed only after the bytes that it must need are seen to be there. */
#include "sq/gguf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "map.h"

enum {
    KEYS_MAX = 1 << 16,
    TENSORS_MAX = 1 << 18,
    KEY_MAX = 1 << 16,
    ALIGN_MAX = 1 << 20,
    LIST_MAX = 1 << 23
};

enum kind { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64, KINDS };

static const size_t kind_size[KINDS] = {
    [U8] = 1,  [I8] = 1,   [U16] = 2, [I16] = 2, [U32] = 4, [I32] = 4,
    [F32] = 4, [BOOL] = 1, [U64] = 8, [I64] = 8, [F64] = 8};

struct key {
    const char *name; /* len bytes, not terminated */
    size_t len;
    enum kind kind; /* of the elements, for an array */
    bool array;
    uint64_t n;          /* elements; 1 for no array */
    const uint8_t *data; /* of the first element; a string: u64 length, bytes */
};

struct sq_gguf {
    struct sq_map map;
    struct key *key; /* by name */
    int64_t nkey;
    struct sq_gguf_tensor *tensor; /* by name, once read */
    int64_t ntensor;
    int64_t align;
};

/* ---- a cursor that never leaves its bytes ---- */

struct cursor {
    const uint8_t *p;
    size_t left;
};

static uint64_t little(const uint8_t *p, size_t n)
{
    uint64_t x = 0;
    while (n--)
        x = x << 8 | p[n];
    return x;
}

static int cut(const char *what)
{
    return sq_fail(SQ_E_FORMAT, "the file ends within %s", what);
}

static int skip(struct cursor *c, uint64_t n, const char *what)
{
    if (n > c->left)
        return cut(what);
    c->p += n;
    c->left -= (size_t)n;
    return 0;
}

static int take(uint64_t *out, struct cursor *c, size_t n, const char *what)
{
    const uint8_t *p = c->p;
    const int rc = skip(c, n, what);
    *out = rc == 0 ? little(p, n) : 0;
    return rc;
}

static int take_str(const char **s, size_t *n, struct cursor *c, const char *what)
{
    uint64_t len = 0;
    int rc = take(&len, c, 8, what);
    *s = (const char *)c->p;
    *n = (size_t)len;
    if (rc == 0)
        rc = skip(c, len, what);
    return rc;
}

/* ---- keys ---- */

static int skip_elements(struct cursor *c, enum kind kind, uint64_t n)
{
    const char *s;
    size_t len;
    int rc = 0;
    if (kind != STRING) {
        if (n > c->left / kind_size[kind])
            return cut("a value");
        return skip(c, n * kind_size[kind], "a value");
    }
    for (uint64_t i = 0; i < n && rc == 0; i++)
        rc = take_str(&s, &len, c, "a value");
    return rc;
}

static int read_key(struct key *k, struct cursor *c)
{
    uint64_t kind = 0;
    int rc = 0;

    SQ_TRY(take_str(&k->name, &k->len, c, "a key"));
    if (k->len > KEY_MAX || memchr(k->name, 0, k->len))
        return sq_fail(SQ_E_FORMAT, "a key has %zu bytes or a NUL", k->len);
    k->n = 1;
    rc = take(&kind, c, 4, "a value");
    if (rc == 0 && kind == ARRAY) {
        k->array = true;
        rc = take(&kind, c, 4, "a value");
        if (rc == 0)
            rc = take(&k->n, c, 8, "a value");
    }
    if (rc == 0 && (kind >= KINDS || kind == ARRAY))
        rc = sq_fail(SQ_E_FORMAT, "its values are of type %" PRIu64 ", which is not supported", kind);
    k->kind = (enum kind)kind;
    k->data = c->p;
    if (rc == 0)
        rc = skip_elements(c, k->kind, k->n);
    if (rc < 0)
        sq_fail_in(rc, "key '%.*s'", (int)SQ_MIN(k->len, 100), k->name);
out:
    return rc;
}

static int compare_keys(const char *a, size_t m, const char *b, size_t n)
{
    const int c = memcmp(a, b, SQ_MIN(m, n));
    return c ? c : m < n ? -1 : m > n;
}

static int by_key(const void *a, const void *b)
{
    const struct key *x = a, *y = b;
    return compare_keys(x->name, x->len, y->name, y->len);
}

static int read_keys(struct sq_gguf *g, struct cursor *c, uint64_t n)
{
    int rc = 0;
    if (n > KEYS_MAX || n > c->left / 13) /* length, type, one byte */
        return sq_fail(SQ_E_FORMAT, "%" PRIu64 " keys cannot be in this file", n);
    SQ_TRY(sq_alloc(&g->key, (int64_t)n));
    for (; g->nkey < (int64_t)n; g->nkey++)
        SQ_TRY(read_key(&g->key[g->nkey], c));
    if (n)
        qsort(g->key, (size_t)n, sizeof *g->key, by_key);
    for (int64_t i = 1; i < g->nkey; i++)
        if (by_key(&g->key[i - 1], &g->key[i]) == 0)
            return sq_fail(SQ_E_FORMAT, "key '%.*s' is there twice", (int)SQ_MIN(g->key[i].len, 100),
                           g->key[i].name);
out:
    return rc;
}

static const struct key *find_key(const struct sq_gguf *g, const char *name)
{
    const struct key want = {.name = name, .len = strlen(name)};
    return g->nkey ? bsearch(&want, g->key, (size_t)g->nkey, sizeof *g->key, by_key) : NULL;
}

/* ---- tensors ---- */

static int read_shape(struct sq_gguf_tensor *t, struct cursor *c)
{
    uint64_t ndim = 0, ne = 0, type = 0;
    int64_t elements = 1;
    size_t bytes = 0, count = 1;
    int rc = 0;

    SQ_TRY(take(&ndim, c, 4, "a tensor info"));
    if (ndim < 1 || ndim > SQ_MAX_DIMS)
        return sq_fail(SQ_E_FORMAT, "it has %" PRIu64 " dimensions", ndim);
    t->ndim = (int)ndim;
    for (int i = 0; i < t->ndim; i++) {
        SQ_TRY(take(&ne, c, 8, "a tensor info"));
        if (ne < 1 || ne > INT64_MAX / 8 || __builtin_mul_overflow(count, (size_t)ne, &count) ||
            count > INT64_MAX / 8)
            return sq_fail(SQ_E_FORMAT, "dimension %d is %" PRIu64 ", the size overflows", i, ne);
        t->ne[i] = (int64_t)ne;
    }
    SQ_TRY(take(&type, c, 4, "a tensor info"));
    t->type = type <= INT32_MAX ? (int)type : -1;
    SQ_TRY(sq_gguf_type_size(&elements, &bytes, t->type));
    if (t->ne[0] % elements)
        return sq_fail(SQ_E_FORMAT, "%" PRId64 " columns are no whole blocks of %s", t->ne[0],
                       sq_gguf_type_name(t->type));
    SQ_TRY(sq_mul_size(&t->size, count / (size_t)elements, bytes));
out:
    return rc;
}

static int read_tensor(struct sq_gguf_tensor *t, uint64_t *offset, struct cursor *c, int64_t align)
{
    const char *name;
    size_t len;
    int rc = take_str(&name, &len, c, "a tensor info");
    if (rc < 0)
        return rc;
    if (len >= sizeof t->name || memchr(name, 0, len))
        return sq_fail(SQ_E_FORMAT, "tensor name '%.*s...' has %zu bytes or a NUL", (int)SQ_MIN(len, 60),
                       name, len);
    memcpy(t->name, name, len);
    rc = read_shape(t, c);
    if (rc == 0)
        rc = take(offset, c, 8, "a tensor info");
    if (rc == 0 && *offset % (uint64_t)align)
        rc =
            sq_fail(SQ_E_FORMAT, "its offset %" PRIu64 " is not a multiple of %" PRId64, *offset, align);
    return rc < 0 ? sq_fail_in(rc, "tensor '%s'", t->name) : 0;
}

static int by_place(const void *a, const void *b)
{
    const struct sq_gguf_tensor *x = a, *y = b;
    return x->data < y->data ? -1 : x->data > y->data;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct sq_gguf_tensor *)a)->name, ((const struct sq_gguf_tensor *)b)->name);
}

static int check_layout(struct sq_gguf *g)
{
    if (!g->ntensor)
        return 0;
    qsort(g->tensor, (size_t)g->ntensor, sizeof *g->tensor, by_place);
    for (int64_t i = 1; i < g->ntensor; i++)
        if (g->tensor[i].data < g->tensor[i - 1].data + g->tensor[i - 1].size)
            return sq_fail(SQ_E_FORMAT, "tensor '%s' overlaps tensor '%s'", g->tensor[i].name,
                           g->tensor[i - 1].name);
    qsort(g->tensor, (size_t)g->ntensor, sizeof *g->tensor, by_name);
    for (int64_t i = 1; i < g->ntensor; i++)
        if (by_name(&g->tensor[i - 1], &g->tensor[i]) == 0)
            return sq_fail(SQ_E_FORMAT, "tensor '%s' is there twice", g->tensor[i].name);
    return 0;
}

static int read_tensors(struct sq_gguf *g, struct cursor *c, uint64_t n)
{
    uint64_t *offset = NULL;
    int rc = 0;

    if (n > TENSORS_MAX || n > c->left / 32) /* name length, dimensions, one ne, type, offset */
        return sq_fail(SQ_E_FORMAT, "%" PRIu64 " tensors cannot be in this file", n);
    SQ_TRY(sq_alloc(&g->tensor, (int64_t)n));
    SQ_TRY(sq_alloc(&offset, (int64_t)n));
    for (; g->ntensor < (int64_t)n; g->ntensor++)
        SQ_TRY(read_tensor(&g->tensor[g->ntensor], &offset[g->ntensor], c, g->align));
    const size_t at = (size_t)(c->p - g->map.data), align = (size_t)g->align;
    const size_t start = (at + align - 1) / align * align,
                 size = g->map.size > start ? g->map.size - start : 0;
    for (int64_t i = 0; i < g->ntensor; i++) {
        struct sq_gguf_tensor *t = &g->tensor[i];
        if (offset[i] > size || t->size > size - offset[i]) {
            rc = sq_fail(SQ_E_FORMAT,
                         "tensor '%s' ends at byte %" PRIu64 " of %zu: the file is cut or lies", t->name,
                         offset[i] + t->size, size);
            goto out;
        }
        t->data = g->map.data + start + offset[i];
    }
    SQ_TRY(check_layout(g));
out:
    sq_free(offset);
    return rc;
}

/* ---- the file ---- */

static int read_file(struct sq_gguf *g)
{
    struct cursor c = {g->map.data, g->map.size};
    uint64_t magic = 0, version = 0, ntensor = 0, nkey = 0;
    int64_t parts = 1;
    int rc = 0;

    SQ_TRY(take(&magic, &c, 4, "its header"));
    SQ_TRY(take(&version, &c, 4, "its header"));
    if (magic != 0x46554747)
        return sq_fail(SQ_E_FORMAT, "it does not begin with 'GGUF'");
    if (version == 1 || version > 3)
        return sq_fail(SQ_E_UNSUP, "GGUF version %" PRIu64 "%s is not supported (2 and 3 are)", version,
                       version & 0xffff ? "" : " (big-endian)");
    SQ_TRY(take(&ntensor, &c, 8, "its header"));
    SQ_TRY(take(&nkey, &c, 8, "its header"));
    SQ_TRY(read_keys(g, &c, nkey));
    g->align = 32;
    if (sq_gguf_has(g, "general.alignment"))
        SQ_TRY(sq_gguf_int(&g->align, g, "general.alignment", 1, ALIGN_MAX));
    if (g->align & (g->align - 1))
        return sq_fail(SQ_E_FORMAT, "'general.alignment' %" PRId64 " is no power of two", g->align);
    if (sq_gguf_has(g, "split.count"))
        SQ_TRY(sq_gguf_int(&parts, g, "split.count", 0, INT64_MAX));
    if (parts > 1)
        return sq_fail(SQ_E_UNSUP,
                       "it is one of %" PRId64 " parts: join them first (llama-gguf-split --merge)",
                       parts);
    SQ_TRY(read_tensors(g, &c, ntensor));
out:
    return rc;
}

static int open_map(struct sq_gguf **out, struct sq_map *map, const char *what)
{
    struct sq_gguf *g = NULL;
    int rc = 0;

    SQ_TRY(sq_alloc(&g, 1));
    g->map = *map;
    map->mapped = false;
    rc = read_file(g);
    if (rc < 0)
        sq_fail_in(rc, "'%s'", what);
out:
    if (rc < 0)
        sq_gguf_close(&g);
    *out = g;
    return rc;
}

int sq_gguf_open(struct sq_gguf **out, const char *path)
{
    struct sq_map map;
    int rc = sq_map_open(&map, path);
    *out = NULL;
    if (rc == 0)
        rc = open_map(out, &map, path);
    sq_map_close(&map); /* no-op when it was taken over */
    return rc;
}

int sq_gguf_parse(struct sq_gguf **out, const void *bytes, size_t n, const char *what)
{
    struct sq_map map = {.data = bytes, .size = n, .mapped = false};
    return open_map(out, &map, what);
}

void sq_gguf_close(struct sq_gguf **g)
{
    if (!*g)
        return;
    sq_map_close(&(*g)->map);
    sq_free((*g)->key);
    sq_free((*g)->tensor);
    sq_free(*g);
    *g = NULL;
}

int64_t sq_gguf_tensors(const struct sq_gguf *g)
{
    return g->ntensor;
}

const struct sq_gguf_tensor *sq_gguf_tensor(const struct sq_gguf *g, int64_t i)
{
    SQ_ASSERT(i >= 0 && i < g->ntensor);
    return &g->tensor[i];
}

int64_t sq_gguf_find(const struct sq_gguf *g, const char *name)
{
    struct sq_gguf_tensor want;
    if (!g->ntensor || strlen(name) >= sizeof want.name)
        return -1;
    strcpy(want.name, name);
    const struct sq_gguf_tensor *t =
        bsearch(&want, g->tensor, (size_t)g->ntensor, sizeof *g->tensor, by_name);
    return t ? t - g->tensor : -1;
}

void sq_gguf_drop(const struct sq_gguf *g, int64_t i)
{
    sq_map_drop(&g->map, sq_gguf_tensor(g, i)->data, g->tensor[i].size);
}

/* ---- values ---- */

bool sq_gguf_has(const struct sq_gguf *g, const char *key)
{
    return find_key(g, key) != NULL;
}

static int bad_key(const struct sq_gguf *g, const char *key, const char *want)
{
    if (!sq_gguf_has(g, key))
        return sq_fail(SQ_E_FORMAT, "key '%s' is missing", key);
    return sq_fail(SQ_E_FORMAT, "key '%s' is not %s", key, want);
}

/* An integer of any width, signed or not, that int64_t holds. */
static bool int_of(int64_t *out, enum kind kind, const uint8_t *p)
{
    const uint64_t x = little(p, kind_size[kind]);
    switch (kind) {
    case I8: *out = (int8_t)x; return true;
    case I16: *out = (int16_t)x; return true;
    case I32: *out = (int32_t)x; return true;
    case U8:
    case U16:
    case U32:
    case I64: *out = (int64_t)x; return true;
    case U64: *out = (int64_t)x; return x <= INT64_MAX;
    default: return false;
    }
}

static bool real_of(double *out, enum kind kind, const uint8_t *p)
{
    if (kind == F32) {
        const uint32_t u = (uint32_t)little(p, 4);
        float f;
        memcpy(&f, &u, 4);
        *out = f;
    } else if (kind == F64) {
        const uint64_t u = little(p, 8);
        memcpy(out, &u, 8);
    } else {
        return false;
    }
    return isfinite(*out);
}

int sq_gguf_int(int64_t *out, const struct sq_gguf *g, const char *key, int64_t min, int64_t max)
{
    const struct key *k = find_key(g, key);
    int64_t x = 0;
    if (!k || k->array || !int_of(&x, k->kind, k->data))
        return bad_key(g, key, "an integer");
    if (x < min || x > max)
        return sq_fail(SQ_E_FORMAT, "key '%s' is %" PRId64 ", not in %" PRId64 " .. %" PRId64, key, x,
                       min, max);
    *out = x;
    return 0;
}

int sq_gguf_real(double *out, const struct sq_gguf *g, const char *key)
{
    const struct key *k = find_key(g, key);
    if (!k || k->array || !real_of(out, k->kind, k->data))
        return bad_key(g, key, "a finite number");
    return 0;
}

int sq_gguf_bool(bool *out, const struct sq_gguf *g, const char *key)
{
    const struct key *k = find_key(g, key);
    if (!k || k->array || k->kind != BOOL)
        return bad_key(g, key, "true or false");
    *out = *k->data != 0;
    return 0;
}

int sq_gguf_str(const char **out, size_t *n, const struct sq_gguf *g, const char *key)
{
    const struct key *k = find_key(g, key);
    if (!k || k->array || k->kind != STRING)
        return bad_key(g, key, "a string");
    *n = (size_t)little(k->data, 8);
    *out = (const char *)k->data + 8;
    return 0;
}

bool sq_gguf_is(const struct sq_gguf *g, const char *key, const char *text)
{
    const struct key *k = find_key(g, key);
    return k && !k->array && k->kind == STRING && little(k->data, 8) == strlen(text) &&
           memcmp(k->data + 8, text, strlen(text)) == 0;
}

/* One element as JSON, p moved behind it; NULL for what JSON cannot say. */
static json_t *element_json(enum kind kind, const uint8_t **p)
{
    const uint8_t *at = *p;
    int64_t i;
    double x;
    if (kind == STRING) {
        const size_t n = (size_t)little(at, 8);
        *p += 8 + n;
        return json_stringn((const char *)at + 8, n);
    }
    *p += kind_size[kind];
    if (kind == BOOL)
        return json_boolean(*at);
    if (int_of(&i, kind, at))
        return json_integer(i);
    return real_of(&x, kind, at) ? json_real(x) : NULL;
}

static json_t *key_json(const struct key *k)
{
    const uint8_t *p = k->data;
    if (!k->array)
        return element_json(k->kind, &p);
    json_t *list = json_array();
    for (uint64_t i = 0; i < k->n && list; i++)
        if (json_array_append_new(list, element_json(k->kind, &p)) < 0) {
            json_decref(list);
            list = NULL;
        }
    return list;
}

int sq_gguf_json(json_t **out, const struct sq_gguf *g, const char *prefix)
{
    json_t *obj = json_object();
    *out = NULL;
    for (int64_t i = 0; i < g->nkey; i++) {
        const struct key *k = &g->key[i];
        if (k->len < strlen(prefix) || memcmp(k->name, prefix, strlen(prefix)) != 0)
            continue;
        if (k->n > LIST_MAX) {
            json_decref(obj);
            return sq_fail(SQ_E_FORMAT, "key '%.*s' has %" PRIu64 " values, more than %d",
                           (int)SQ_MIN(k->len, 100), k->name, k->n, LIST_MAX);
        }
        if (json_object_setn_new(obj, k->name, k->len, key_json(k)) < 0) {
            json_decref(obj);
            return sq_fail(
                SQ_E_FORMAT,
                "key '%.*s' has a value that JSON cannot hold (text that is not UTF-8, a number "
                "that is not finite)",
                (int)SQ_MIN(k->len, 100), k->name);
        }
    }
    *out = obj;
    return 0;
}
