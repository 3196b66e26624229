#include "bytes.h"

#include <string.h>

void bytes_add(struct bytes *b, const void *data, size_t n)
{
    if (b->rc < 0 || n == 0)
        return;
    if (n > b->cap - b->n) {
        uint8_t *p = NULL;
        const size_t cap = SQ_MAX(2 * b->cap, b->n + n + 4096);
        b->rc = sq_alloc(&p, (int64_t)cap);
        if (b->rc < 0)
            return;
        if (b->n)
            memcpy(p, b->p, b->n);
        sq_free(b->p);
        b->p = p;
        b->cap = cap;
    }
    memcpy(b->p + b->n, data, n);
    b->n += n;
}

void bytes_u32(struct bytes *b, uint32_t v)
{
    bytes_add(b, &v, sizeof v);
}

void bytes_u64(struct bytes *b, uint64_t v)
{
    bytes_add(b, &v, sizeof v);
}

void bytes_str(struct bytes *b, const char *s, size_t n)
{
    bytes_u64(b, n);
    bytes_add(b, s, n);
}

void bytes_pad(struct bytes *b, size_t align)
{
    static const uint8_t zero[64] = {0};
    SQ_ASSERT(align <= sizeof zero);
    bytes_add(b, zero, (align - b->n % align) % align);
}

void bytes_release(struct bytes *b)
{
    sq_free(b->p);
    *b = (struct bytes){0};
}

static void pair(struct bytes *b, const char *key, enum gguf_value type)
{
    bytes_str(b, key, strlen(key));
    bytes_u32(b, type);
    b->pairs++;
}

void kv_u32(struct bytes *b, const char *key, int64_t v)
{
    if (b->rc == 0 && (v < 0 || v > UINT32_MAX))
        b->rc = sq_fail(SQ_E_VALUE, "'%s' is %" PRId64 ", which gguf's 32 bits do not hold", key, v);
    pair(b, key, GGUF_U32);
    bytes_u32(b, (uint32_t)v);
}

void kv_f32(struct bytes *b, const char *key, double v)
{
    const float f = (float)v;
    pair(b, key, GGUF_F32);
    bytes_add(b, &f, sizeof f);
}

void kv_bool(struct bytes *b, const char *key, bool v)
{
    const uint8_t u = v;
    pair(b, key, GGUF_BOOL);
    bytes_add(b, &u, 1);
}

void kv_str(struct bytes *b, const char *key, const char *s, size_t n)
{
    pair(b, key, GGUF_STRING);
    bytes_str(b, s, n);
}

void kv_array(struct bytes *b, const char *key, enum gguf_value type, int64_t n)
{
    pair(b, key, GGUF_ARRAY);
    bytes_u32(b, type);
    bytes_u64(b, (uint64_t)n);
}
