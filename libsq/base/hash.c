#include "sq/hash.h"

#include <stdio.h>
#include <xxhash.h>

int sq_hash_init(struct sq_hash *h)
{
    XXH3_state_t *s = XXH3_createState();
    h->state = s;
    if (!s || XXH3_64bits_reset(s) != XXH_OK)
        return sq_fail(SQ_E_NOMEM, "no memory for a hash");
    return 0;
}

void sq_hash_release(struct sq_hash *h)
{
    XXH3_freeState(h->state);
    h->state = NULL;
}

void sq_hash_reset(struct sq_hash *h)
{
    (void)XXH3_64bits_reset(h->state); /* fails for NULL only */
}

void sq_hash_copy(struct sq_hash *dst, const struct sq_hash *src)
{
    XXH3_copyState(dst->state, src->state);
}

void sq_hash_add(struct sq_hash *h, const void *data, size_t n)
{
    if (n)
        XXH3_64bits_update(h->state, data, n);
}

uint64_t sq_hash_value(const struct sq_hash *h)
{
    return XXH3_64bits_digest(h->state);
}

uint64_t sq_hash_of(const void *data, size_t n)
{
    return XXH3_64bits(n ? data : "", n);
}

void sq_hash_text(char out[SQ_HASH_TEXT], uint64_t value)
{
    snprintf(out, SQ_HASH_TEXT, "%016" PRIx64, value);
}
