/* Building GGUF files in memory for tests, field by field, so that any of them can lie. */
#ifndef GGUF_BYTES_H
#define GGUF_BYTES_H

#include <stdint.h>
#include <string.h>

struct bytes {
    uint8_t v[1 << 16];
    size_t n;
};

static inline void put(struct bytes *b, const void *p, size_t n)
{
    memcpy(b->v + b->n, p, n);
    b->n += n;
}

static inline void put_int(struct bytes *b, uint64_t x, size_t n)
{
    put(b, &x, n); /* little-endian machines only, as are the files */
}

static inline void put_str(struct bytes *b, const char *s)
{
    put_int(b, strlen(s), 8);
    put(b, s, strlen(s));
}

static inline void put_head(struct bytes *b, uint64_t version, uint64_t ntensor, uint64_t nkey)
{
    b->n = 0;
    put(b, "GGUF", 4);
    put_int(b, version, 4);
    put_int(b, ntensor, 8);
    put_int(b, nkey, 8);
}

static inline void put_u32(struct bytes *b, const char *key, uint32_t x)
{
    put_str(b, key);
    put_int(b, 4, 4);
    put_int(b, x, 4);
}

static inline void put_f32(struct bytes *b, const char *key, float x)
{
    put_str(b, key);
    put_int(b, 6, 4);
    put(b, &x, 4);
}

static inline void put_text(struct bytes *b, const char *key, const char *text)
{
    put_str(b, key);
    put_int(b, 8, 4);
    put_str(b, text);
}

/* rows 0: a vector of cols */
static inline void put_tensor(struct bytes *b, const char *name, uint64_t rows, uint64_t cols,
                              uint32_t type, uint64_t offset)
{
    put_str(b, name);
    put_int(b, rows ? 2 : 1, 4);
    put_int(b, cols, 8);
    if (rows)
        put_int(b, rows, 8);
    put_int(b, type, 4);
    put_int(b, offset, 8);
}

static inline void put_pad(struct bytes *b, size_t align)
{
    while (b->n % align)
        b->v[b->n++] = 0;
}

#endif
