#include "sq/calib.h"

#include <string.h>

#include "sq/hash.h"
#include "sq/rng.h"

int sq_ids_check(const struct sq_ids *ids, int64_t vocab)
{
    for (int64_t i = 0; i < ids->n; i++)
        if (ids->v[i] < 0 || ids->v[i] >= vocab)
            return sq_fail(SQ_E_VALUE, "token %" PRId64 " has id %d, the model has ids 0 .. %" PRId64, i, ids->v[i], vocab - 1);
    return 0;
}

/* count samples that start anywhere in ids[first, first + room) and end in it */
static void draw(int32_t *to, const struct sq_ids *ids, int64_t first, int64_t room, int64_t count, const struct sq_draw *how,
                 uint64_t share)
{
    struct sq_rng rng = sq_rng_init(how->seed, SQ_RNG_CALIB, share, 0, 0, 0);
    for (int64_t i = 0; i < count; i++) {
        const int64_t start = first + (int64_t)sq_rng_below(&rng, (uint64_t)(room - how->length + 1));
        memcpy(to + i * how->length, ids->v + start, (size_t)how->length * sizeof(*to));
    }
}

int sq_samples_draw(struct sq_samples *out, const struct sq_ids *ids, const struct sq_draw *how)
{
    const int64_t heldout = how->heldout < 0 ? (how->samples + 15) / 16 : how->heldout;
    int64_t total, end = 0;
    int rc = 0;

    *out = (struct sq_samples)SQ_SAMPLES_INIT;
    if (how->samples < 1 || how->length < 1)
        return sq_fail(SQ_E_ARG, "%" PRId64 " samples of %" PRId64 " tokens", how->samples, how->length);
    if (ids->n < how->length)
        return sq_fail(SQ_E_ARG, "the text has %" PRId64 " tokens, a sample %" PRId64, ids->n, how->length);
    if (heldout > 0) {
        const double share = (double)heldout / (double)(heldout + how->samples);
        end = SQ_MAX(how->length, (int64_t)(share * (double)ids->n));
        if (ids->n - how->length < end)
            end = how->length;
        if (ids->n - how->length < end)
            return sq_fail(SQ_E_ARG, "the text has %" PRId64 " tokens, a sample and a held-out sample together %" PRId64
                           " (--heldout 0 for none)", ids->n, 2 * how->length);
    }
    if (__builtin_add_overflow(how->samples, heldout, &out->samples) ||
        __builtin_mul_overflow(out->samples, how->length, &total))
        return sq_fail(SQ_E_ARG, "%" PRId64 " samples of %" PRId64 " tokens", how->samples, how->length);
    out->heldout = heldout;
    out->length = how->length;
    SQ_TRY(sq_alloc(&out->id, total));
    draw(out->id, ids, 0, ids->n - end, how->samples, how, 0);
    if (heldout > 0)
        draw(out->id + how->samples * how->length, ids, ids->n - end, end, heldout, how, 1);
out:
    return rc;
}

void sq_samples_release(struct sq_samples *s)
{
    sq_free(s->id);
    *s = (struct sq_samples)SQ_SAMPLES_INIT;
}

int sq_samples_head(json_t **out, const struct sq_samples *s, const struct sq_ids *from, int32_t bos, uint64_t seed)
{
    char digest[SQ_HASH_TEXT];
    sq_hash_text(digest, sq_hash_of(from->v, (size_t)from->n * sizeof(*from->v)));
    *out = json_pack("{s:s, s:I, s:I, s:I, s:s, s:s, s:i, s:I, s:I}", "record", "tokens", "samples", (json_int_t)s->samples,
                     "length", (json_int_t)s->length, "heldout", (json_int_t)s->heldout, "dtype", "i32", "source", digest,
                     "bos", bos, "seed", (json_int_t)seed, "bytes",
                     (json_int_t)(s->samples * s->length * (int64_t)sizeof(*s->id)));
    return *out ? 0 : sq_fail(SQ_E_NOMEM, "no memory for the tokens record");
}

int sq_windows_count(int64_t *out, const struct sq_ids *ids, int64_t length, int64_t max)
{
    if (length < 1 || ids->n < length)
        return sq_fail(SQ_E_ARG, "the text has %" PRId64 " tokens, a window %" PRId64, ids->n, length);
    *out = ids->n / length;
    if (max > 0)
        *out = SQ_MIN(*out, max);
    return 0;
}
