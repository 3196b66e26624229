#include <string.h>

#include "parts.h"

/* A trie whose edges are one hash map. Texts hold few first bytes of added tokens, so the table of first bytes
 * decides nearly every position; the rest costs the length of the longest token at worst. */

int sq_trie_init(struct sq_trie *t, int64_t bytes)
{
    int rc = 0;
    if (bytes >= INT32_MAX - 1)
        return sq_fail(SQ_E_FORMAT, "the added tokens have %" PRId64 " bytes", bytes);
    SQ_TRY(sq_map_init(&t->edge, bytes));
    SQ_TRY(sq_alloc(&t->leaf, bytes + 1));
    t->leaf[0] = -1;
    t->nodes = 1;
    t->cap = (int32_t)bytes + 1;
out:
    return rc;
}

void sq_trie_release(struct sq_trie *t)
{
    sq_map_release(&t->edge);
    sq_free(t->leaf);
    memset(t, 0, sizeof(*t));
}

void sq_trie_put(struct sq_trie *t, const char *s, size_t n, int32_t leaf)
{
    uint64_t node = 0;
    if (n == 0)
        return;
    t->first[(unsigned char)s[0]] = true;
    for (size_t i = 0; i < n; i++) {
        const uint64_t key = node << 8 | (unsigned char)s[i];
        uint64_t to = sq_map_get(&t->edge, key);
        if (to == SQ_MAP_NONE) {
            SQ_ASSERT(t->nodes < t->cap);
            to = (uint64_t)t->nodes++;
            t->leaf[to] = -1;
            sq_map_put(&t->edge, key, to);
        }
        node = to;
    }
    if (t->leaf[node] < 0)
        t->leaf[node] = leaf;
}

int32_t sq_trie_find(const struct sq_trie *t, const char *s, size_t n, size_t from, size_t *start, size_t *end)
{
    for (size_t i = from; i < n; i++) {
        if (!t->first[(unsigned char)s[i]])
            continue;
        int32_t found = -1;
        uint64_t node = 0;
        for (size_t k = i; k < n; k++) {
            node = sq_map_get(&t->edge, node << 8 | (unsigned char)s[k]);
            if (node == SQ_MAP_NONE)
                break;
            if (t->leaf[node] >= 0) {
                found = t->leaf[node];
                *start = i;
                *end = k + 1;
            }
        }
        if (found >= 0)
            return found;
    }
    return -1;
}
