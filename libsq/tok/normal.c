#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "parts.h"

enum { BLOCK = 1 << 16 };

/* Everything below U+0300 is its own NFC form and does not combine: lead bytes up to 0xcb. */
static bool plain(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)s[i] >= 0xcc)
            return false;
    return true;
}

/* Between two ASCII characters nothing composes, so a long text is taken in blocks that end there. */
static size_t block_end(const char *s, size_t n, size_t from)
{
    for (size_t i = from + BLOCK; i < n; i++)
        if ((unsigned char)s[i] < 0x80 && (unsigned char)s[i - 1] < 0x80)
            return i;
    return n;
}

static int nfc(struct sq_bytes *out, const char *s, size_t n)
{
    for (size_t at = 0, end; at < n; at = end) {
        end = block_end(s, n, at);
        int rc;
        if (plain(s + at, end - at)) {
            rc = sq_bytes_add(out, s + at, end - at);
        } else {
            utf8proc_uint8_t *form = NULL;
            const utf8proc_ssize_t len = utf8proc_map((const utf8proc_uint8_t *)s + at, (utf8proc_ssize_t)(end - at),
                                                      &form, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
            if (len < 0)
                return sq_fail(len == UTF8PROC_ERROR_NOMEM ? SQ_E_NOMEM : SQ_E_VALUE, "cannot normalize text: %s",
                               utf8proc_errmsg(len));
            rc = sq_bytes_add(out, form, (size_t)len);
            free(form);
        }
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int replace(struct sq_bytes *out, const struct sq_norm *step, const char *s, size_t n)
{
    int rc = 0;
    size_t done = 0;
    for (;;) {
        const char *hit = n - done < step->from.n ? NULL : memmem(s + done, n - done, step->from.p, step->from.n);
        const size_t end = hit ? (size_t)(hit - s) : n;
        SQ_TRY(sq_bytes_add(out, s + done, end - done));
        if (!hit)
            break;
        SQ_TRY(sq_bytes_add(out, step->to.p, step->to.n));
        done = end + step->from.n;
    }
out:
    return rc;
}

int sq_normalize(struct sq_bytes *out, const struct sq_tok *tok, const char *s, size_t n)
{
    struct sq_bytes from = {NULL, 0, 0};
    int rc = 0;

    SQ_TRY(sq_bytes_add(out, s, n));
    for (int i = 0; i < tok->nnorm; i++) {
        const struct sq_norm *step = &tok->norm[i];
        if (out->n == 0)
            break;
        const struct sq_bytes swap = from;
        from = *out;
        *out = swap;
        out->n = 0;
        switch (step->kind) {
        case SQ_NORM_NFC:
            SQ_TRY(nfc(out, from.p, from.n));
            break;
        case SQ_NORM_PREPEND:
            SQ_TRY(sq_bytes_add(out, step->to.p, step->to.n));
            SQ_TRY(sq_bytes_add(out, from.p, from.n));
            break;
        case SQ_NORM_REPLACE:
            SQ_TRY(replace(out, step, from.p, from.n));
            break;
        }
        if (out->n > 2 * (size_t)SQ_TEXT_MAX) {
            rc = sq_fail(SQ_E_VALUE, "the normalizer makes %zu bytes of %zu", out->n, n);
            goto out;
        }
    }
out:
    sq_free(from.p);
    return rc;
}
