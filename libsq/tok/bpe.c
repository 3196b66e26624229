#include <string.h>

#include "parts.h"
#include "sq/hash.h"

/* Merging: the lowest rank first, among equal ranks the leftmost. A short word looks through its pairs for each merge;
 * a long one (hostile input, or a whole text where there is no pre-tokenizer) keeps them in a heap over a linked list,
 * n log n. Words repeat, so short results are cached. */

enum { SHORT = 40, CACHED_BYTES = 27, CACHED_IDS = 8, WORD_MAX = 64 << 20 };

struct sq_cached {
    uint64_t hash;
    uint8_t len, n; /* len 0: free */
    char word[CACHED_BYTES];
    int32_t id[CACHED_IDS];
};

int sq_bpe_init(struct sq_bpe *b, const struct sq_tok *tok, size_t text)
{
    uint64_t slots = 64;
    while (slots < text / 8 && slots < (1u << 15))
        slots *= 2;
    memset(b, 0, sizeof(*b));
    b->tok = tok;
    b->cache_mask = slots - 1;
    return sq_alloc(&b->cache, (int64_t)slots);
}

static void drop_room(struct sq_bpe *b)
{
    sq_free(b->id);
    sq_free(b->prev);
    sq_free(b->next);
    sq_free(b->heap);
    b->id = b->prev = b->next = NULL;
    b->heap = NULL;
    b->cap = 0;
}

void sq_bpe_release(struct sq_bpe *b)
{
    drop_room(b);
    sq_free(b->cache);
    sq_free(b->letters.p);
    b->cache = NULL;
    b->letters.p = NULL;
}

/* Room for n symbols: each merge adds at most two pairs to the n - 1 at the start. */
static int make_room(struct sq_bpe *b, size_t n)
{
    int rc = 0;
    if ((int64_t)n <= b->cap)
        return 0;
    if (n > WORD_MAX)
        return sq_fail(SQ_E_ARG, "a word of %zu bytes is longer than %d (this tokenizer does not cut the text there)", n,
                       WORD_MAX);
    const int64_t cap = (int64_t)SQ_MAX(n + n / 2, (size_t)256);
    drop_room(b);
    SQ_TRY(sq_alloc(&b->id, cap));
    SQ_TRY(sq_alloc(&b->prev, cap));
    SQ_TRY(sq_alloc(&b->next, cap));
    SQ_TRY(sq_alloc(&b->heap, 3 * cap));
    b->cap = cap;
out:
    return rc;
}

/* ---- symbols ---- */

/* The reference holds an unknown symbol back until the next known one, so that neighbours can become one. */
struct pending {
    bool any;
};

static void unknown(struct sq_bpe *b, struct pending *p, int64_t *n)
{
    const struct sq_tok *tok = b->tok;
    if (tok->unk < 0) {
        b->dropped++;
        return;
    }
    if (p->any && !tok->fuse_unk)
        b->id[(*n)++] = tok->unk;
    p->any = true;
}

static void known(struct sq_bpe *b, struct pending *p, int64_t *n, int32_t id)
{
    if (p->any)
        b->id[(*n)++] = b->tok->unk;
    p->any = false;
    b->id[(*n)++] = id;
}

static bool spell_bytes(struct sq_bpe *b, int64_t *n, const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (b->tok->byte_id[(unsigned char)s[i]] < 0)
            return false;
    for (size_t i = 0; i < len; i++)
        b->id[(*n)++] = b->tok->byte_id[(unsigned char)s[i]];
    return true;
}

static int64_t symbols(struct sq_bpe *b, const char *s, size_t len)
{
    const struct sq_tok *tok = b->tok;
    struct pending p = {false};
    int64_t n = 0;
    for (size_t i = 0, step; i < len; i += step) {
        int32_t id;
        if (tok->byte_level) {
            step = 1;
            id = tok->byte_id[(unsigned char)s[i]];
        } else {
            step = sq_utf8_len(s + i);
            id = step == 1 ? tok->ascii_id[(unsigned char)s[i]] : sq_vocab_get(&tok->vocab, s + i, step);
        }
        if (id >= 0)
            known(b, &p, &n, id);
        else if (!tok->byte_fallback || !spell_bytes(b, &n, s + i, step))
            unknown(b, &p, &n);
    }
    if (p.any)
        b->id[n++] = tok->unk;
    return n;
}

/* ---- merges ---- */

static uint64_t pair(const struct sq_tok *tok, int32_t left, int32_t right)
{
    return sq_map_get(&tok->merge, (uint64_t)(uint32_t)left << SQ_MAP_SHIFT | (uint32_t)right);
}

static int64_t merge_short(struct sq_bpe *b, int64_t n)
{
    uint64_t rank[SHORT]; /* of symbols i and i + 1: rank << 32 | id */
    for (int64_t i = 0; i + 1 < n; i++)
        rank[i] = pair(b->tok, b->id[i], b->id[i + 1]);
    while (n > 1) {
        int64_t best = 0;
        for (int64_t i = 1; i + 1 < n; i++)
            if (rank[i] >> SQ_MAP_SHIFT < rank[best] >> SQ_MAP_SHIFT)
                best = i;
        if (rank[best] == SQ_MAP_NONE)
            break;
        b->id[best] = (int32_t)(uint32_t)rank[best];
        n--;
        memmove(b->id + best + 1, b->id + best + 2, (size_t)(n - best - 1) * sizeof(*b->id));
        if (n > best + 1)
            memmove(rank + best, rank + best + 1, (size_t)(n - best - 1) * sizeof(*rank));
        if (best > 0)
            rank[best - 1] = pair(b->tok, b->id[best - 1], b->id[best]);
        if (best + 1 < n)
            rank[best] = pair(b->tok, b->id[best], b->id[best + 1]);
    }
    return n;
}

/* A heap with four children a node: entries are rank << 32 | position. */
static void heap_push(struct sq_bpe *b, uint64_t entry)
{
    int64_t i = b->nheap++;
    while (i > 0 && b->heap[(i - 1) / 4] > entry) {
        b->heap[i] = b->heap[(i - 1) / 4];
        i = (i - 1) / 4;
    }
    b->heap[i] = entry;
}

static void heap_sink(struct sq_bpe *b, int64_t i)
{
    const uint64_t entry = b->heap[i];
    for (;;) {
        const int64_t first = 4 * i + 1;
        if (first >= b->nheap)
            break;
        int64_t least = first;
        for (int64_t k = first + 1; k < SQ_MIN(first + 4, b->nheap); k++)
            if (b->heap[k] < b->heap[least])
                least = k;
        if (b->heap[least] >= entry)
            break;
        b->heap[i] = b->heap[least];
        i = least;
    }
    b->heap[i] = entry;
}

static uint64_t heap_pop(struct sq_bpe *b)
{
    const uint64_t top = b->heap[0];
    b->heap[0] = b->heap[--b->nheap];
    if (b->nheap > 0)
        heap_sink(b, 0);
    return top;
}

static void push_pair(struct sq_bpe *b, int64_t left, int64_t right)
{
    if (left < 0 || right < 0)
        return;
    const uint64_t m = pair(b->tok, b->id[left], b->id[right]);
    if (m != SQ_MAP_NONE)
        heap_push(b, (m >> SQ_MAP_SHIFT) << SQ_MAP_SHIFT | (uint64_t)left);
}

static int64_t merge_long(struct sq_bpe *b, int64_t n)
{
    b->nheap = 0;
    for (int64_t i = 0; i < n; i++) {
        b->prev[i] = (int32_t)i - 1;
        b->next[i] = i + 1 < n ? (int32_t)i + 1 : -1;
        if (i + 1 < n) {
            const uint64_t m = pair(b->tok, b->id[i], b->id[i + 1]);
            if (m != SQ_MAP_NONE)
                b->heap[b->nheap++] = (m >> SQ_MAP_SHIFT) << SQ_MAP_SHIFT | (uint64_t)i;
        }
    }
    for (int64_t i = (b->nheap - 2) / 4; i >= 0 && b->nheap > 1; i--)
        heap_sink(b, i);
    while (b->nheap > 0) {
        const uint64_t top = heap_pop(b);
        const int32_t left = (int32_t)(uint32_t)top;
        const int32_t right = b->id[left] < 0 ? -1 : b->next[left];
        if (right < 0)
            continue;
        /* A pair that has changed since it was pushed was pushed again with its own rank. */
        const uint64_t m = pair(b->tok, b->id[left], b->id[right]);
        if (m == SQ_MAP_NONE || m >> SQ_MAP_SHIFT != top >> SQ_MAP_SHIFT)
            continue;
        b->id[left] = (int32_t)(uint32_t)m;
        b->id[right] = -1;
        b->next[left] = b->next[right];
        if (b->next[left] >= 0)
            b->prev[b->next[left]] = left;
        push_pair(b, b->prev[left], left);
        push_pair(b, left, b->next[left]);
    }
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++)
        if (b->id[i] >= 0)
            b->id[kept++] = b->id[i];
    return kept;
}

/* ---- words ---- */

static int push_all(struct sq_ids *out, const int32_t *id, int64_t n)
{
    int rc = 0;
    for (int64_t i = 0; i < n; i++)
        SQ_TRY(sq_ids_push(out, id[i]));
out:
    return rc;
}

/* The whole word's id where the vocabulary spells it, or -1. */
static int whole(int32_t *id, struct sq_bpe *b, const char *s, size_t n)
{
    int rc = 0;
    if (!b->tok->byte_level) {
        *id = sq_vocab_get(&b->tok->vocab, s, n);
        return 0;
    }
    b->letters.n = 0;
    for (size_t i = 0; i < n; i++) {
        char letter[SQ_CHAR_MAX];
        SQ_TRY(sq_bytes_add(&b->letters, letter, sq_utf8_put(letter, sq_byte_letter((uint8_t)s[i]))));
    }
    *id = sq_vocab_get(&b->tok->vocab, b->letters.p, b->letters.n);
out:
    return rc;
}

static int word(struct sq_ids *out, struct sq_bpe *b, const char *s, size_t n)
{
    struct sq_cached *c = NULL;
    uint64_t hash = 0;
    int rc = 0;

    if (n == 0)
        return 0;
    if (n <= CACHED_BYTES) {
        hash = sq_hash_of(s, n);
        c = &b->cache[hash & b->cache_mask];
        if (c->len == n && c->hash == hash && memcmp(c->word, s, n) == 0)
            return push_all(out, c->id, c->n);
    }
    int32_t id = -1;
    if (b->tok->ignore_merges)
        SQ_TRY(whole(&id, b, s, n));
    if (id >= 0)
        return sq_ids_push(out, id);
    SQ_TRY(make_room(b, n));
    const int64_t dropped = b->dropped;
    int64_t count = symbols(b, s, n);
    count = count <= SHORT ? merge_short(b, count) : merge_long(b, count);
    if (c && count <= CACHED_IDS && dropped == b->dropped) {
        c->hash = hash;
        c->len = (uint8_t)n;
        c->n = (uint8_t)count;
        memcpy(c->word, s, n);
        if (count)
            memcpy(c->id, b->id, (size_t)count * sizeof(*b->id));
    }
    rc = push_all(out, b->id, count);
out:
    return rc;
}

static bool is_known(const struct sq_tok *tok, const char *s, size_t n)
{
    return (n == 1 ? tok->ascii_id[(unsigned char)*s] : sq_vocab_get(&tok->vocab, s, n)) >= 0;
}

/* Without a pre-tokenizer a word is a whole text. Where no merge joins two neighbours it falls into parts that cannot
 * influence one another; unknown characters stay with theirs, since they may become one token together. */
int sq_bpe_word(struct sq_ids *out, struct sq_bpe *b, const char *s, size_t n)
{
    const struct sq_map *join = &b->tok->join;
    size_t start = 0;
    uint64_t before = 0;
    bool known_before = false;
    int rc = 0;

    for (size_t at = 0, step; join->slot && n > CACHED_BYTES && at < n; at += step) {
        step = sq_utf8_len(s + at);
        const uint64_t c = sq_utf8_get(s + at);
        const bool known = is_known(b->tok, s + at, step);
        if (at > start && known && known_before && sq_map_get(join, before << SQ_MAP_SHIFT | c) == SQ_MAP_NONE) {
            SQ_TRY(word(out, b, s + start, at - start));
            start = at;
        }
        before = c;
        known_before = known;
    }
    rc = word(out, b, s + start, n - start);
out:
    return rc;
}
