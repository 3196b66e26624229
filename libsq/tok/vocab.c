#include <string.h>

#include "parts.h"
#include "sq/hash.h"

/* The next power of two that leaves a table of n entries at most half full. */
static uint64_t table_size(int64_t n)
{
    uint64_t size = 16;
    while (size < 2 * (uint64_t)n)
        size *= 2;
    return size;
}

static uint64_t scatter(uint64_t key)
{
    key ^= key >> 32;
    key *= 0x9e3779b97f4a7c15u;
    return key ^ key >> 29;
}

int sq_map_init(struct sq_map *m, int64_t n)
{
    const uint64_t size = table_size(n);
    const int rc = sq_alloc(&m->slot, (int64_t)size);
    if (rc < 0)
        return rc;
    for (uint64_t i = 0; i < size; i++)
        m->slot[i].key = SQ_MAP_NONE;
    m->mask = size - 1;
    m->n = 0;
    return 0;
}

void sq_map_release(struct sq_map *m)
{
    sq_free(m->slot);
    m->slot = NULL;
}

void sq_map_put(struct sq_map *m, uint64_t key, uint64_t value)
{
    uint64_t i = scatter(key) & m->mask;
    while (m->slot[i].key != SQ_MAP_NONE && m->slot[i].key != key)
        i = (i + 1) & m->mask;
    if (m->slot[i].key == SQ_MAP_NONE) {
        m->n++;
        SQ_ASSERT((uint64_t)m->n <= m->mask);
    }
    m->slot[i].key = key;
    m->slot[i].value = value;
}

uint64_t sq_map_get(const struct sq_map *m, uint64_t key)
{
    if (!m->slot)
        return SQ_MAP_NONE;
    uint64_t i = scatter(key) & m->mask;
    while (m->slot[i].key != key) {
        if (m->slot[i].key == SQ_MAP_NONE)
            return SQ_MAP_NONE;
        i = (i + 1) & m->mask;
    }
    return m->slot[i].value;
}

int sq_vocab_init(struct sq_vocab *v, int64_t size, int64_t count, size_t bytes)
{
    int rc = 0;
    if (size > SQ_VOCAB_MAX)
        return sq_fail(SQ_E_FORMAT, "the vocabulary's largest id is %" PRId64 ", more than %d", size - 1, SQ_VOCAB_MAX - 1);
    if (bytes > INT32_MAX)
        return sq_fail(SQ_E_FORMAT, "the vocabulary's spellings have %zu bytes", bytes);
    const uint64_t slots = table_size(count);
    SQ_TRY(sq_alloc(&v->piece, size));
    SQ_TRY(sq_alloc(&v->bytes, (int64_t)bytes + 1));
    SQ_TRY(sq_alloc(&v->slot, (int64_t)slots));
    v->mask = slots - 1;
    v->size = size;
    v->room = bytes;
out:
    return rc;
}

void sq_vocab_release(struct sq_vocab *v)
{
    sq_free(v->piece);
    sq_free(v->bytes);
    sq_free(v->slot);
    memset(v, 0, sizeof(*v));
}

static uint64_t find(const struct sq_vocab *v, const char *s, size_t n)
{
    uint64_t i = sq_hash_of(s, n) & v->mask;
    for (; v->slot[i]; i = (i + 1) & v->mask) {
        const struct sq_piece *p = &v->piece[v->slot[i] - 1];
        if (p->len == n && memcmp(v->bytes + p->off, s, n) == 0)
            break;
    }
    return i;
}

int sq_vocab_put(struct sq_vocab *v, int64_t id, const char *s, size_t n)
{
    if (id < 0 || id >= v->size)
        return sq_fail(SQ_E_FORMAT, "token '%.64s' has id %" PRId64 ", not in 0 .. %" PRId64, s, id, v->size - 1);
    if (v->piece[id].present)
        return sq_fail(SQ_E_FORMAT, "token '%.64s' has id %" PRId64 ", which another token has", s, id);
    const uint64_t i = find(v, s, n);
    if (v->slot[i])
        return sq_fail(SQ_E_FORMAT, "token '%.64s' is in the vocabulary twice, as %d and %" PRId64, s, v->slot[i] - 1, id);
    SQ_ASSERT(n <= v->room - v->nbytes);
    v->slot[i] = (int32_t)id + 1;
    v->piece[id] = (struct sq_piece){.off = (uint32_t)v->nbytes, .len = (uint32_t)n, .present = 1};
    memcpy(v->bytes + v->nbytes, s, n);
    v->nbytes += n;
    return 0;
}

int32_t sq_vocab_get(const struct sq_vocab *v, const char *s, size_t n)
{
    return v->slot ? v->slot[find(v, s, n)] - 1 : -1;
}
