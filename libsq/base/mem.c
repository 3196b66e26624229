#include "sq/fault.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Each block is preceded by one cache line that holds its size, so that use can be counted, and where it came from.
 * calloc knows which pages are zero already: memory that nobody touches is not taken. */
enum { ALIGN = 64 };

struct block {
    void *base;
    size_t bytes;
};

static _Atomic int64_t used, peak;

int sq_mul_size(size_t *out, size_t a, size_t b)
{
    if (__builtin_mul_overflow(a, b, out))
        return sq_fail(SQ_E_ARG, "size %zu x %zu overflows", a, b);
    return 0;
}

int sq_alloc_bytes(void **out, int64_t n, size_t size)
{
    size_t bytes;
    *out = NULL;
    if (n < 0)
        return sq_fail(SQ_E_ARG, "%" PRId64 " items cannot be allocated", n);
    if (n == 0)
        return 0;
    if (sq_mul_size(&bytes, (size_t)n, size) < 0 || bytes > SIZE_MAX / 2)
        return SQ_E_ARG;
    char *base = sq_fault(SQ_FAULT_ALLOC) ? NULL : calloc(1, bytes + 2 * ALIGN);
    if (!base)
        return sq_fail(SQ_E_NOMEM, "no memory for %zu bytes", bytes);
    char *p = base + (ALIGN - (uintptr_t)base % ALIGN);
    *(struct block *)(void *)(p) = (struct block){.base = base, .bytes = bytes};
    const int64_t now = atomic_fetch_add(&used, (int64_t)bytes) + (int64_t)bytes;
    int64_t old = atomic_load(&peak);
    while (now > old && !atomic_compare_exchange_weak(&peak, &old, now))
        ;
    *out = p + ALIGN;
    return 0;
}

void sq_free(void *p)
{
    if (!p)
        return;
    const struct block *block = (void *)((char *)p - ALIGN);
    atomic_fetch_sub(&used, (int64_t)block->bytes);
    free(block->base);
}

int sq_strdup(char **out, const char *s)
{
    const size_t n = strlen(s) + 1;
    const int rc = sq_alloc(out, (int64_t)n);
    if (rc == 0)
        memcpy(*out, s, n);
    return rc;
}

int64_t sq_mem_used(void)
{
    return atomic_load(&used);
}

int64_t sq_mem_peak(void)
{
    return atomic_load(&peak);
}
