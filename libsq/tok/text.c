#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "parts.h"
#include "sq/calib.h"
#include "sq/fault.h"
#include "sq/json.h"

enum { PIECE = 1 << 16 };

/* All of a file; one byte more than the limit tells that it is too long. */
static int slurp(struct sq_bytes *out, const char *path, size_t limit)
{
    char *piece = NULL;
    size_t got;
    int rc = 0;

    FILE *f = sq_fault(SQ_FAULT_OPEN) ? NULL : fopen(path, "rb");
    if (!f)
        return sq_fail(SQ_E_IO, "cannot read '%s': %s", path, strerror(errno));
    SQ_TRY(sq_alloc(&piece, PIECE));
    while ((got = fread(piece, 1, PIECE, f)) > 0) {
        SQ_TRY(sq_bytes_add(out, piece, got));
        if (out->n > limit) {
            rc = sq_fail(SQ_E_ARG, "'%s' has more than the %zu bytes that texts may have together", path, limit);
            goto out;
        }
    }
    if (sq_fault(SQ_FAULT_READ) || ferror(f))
        rc = sq_fail(SQ_E_IO, "cannot read '%s': %s", path, strerror(errno));
out:
    sq_free(piece);
    fclose(f);
    return rc;
}

static bool ends_in(const char *s, const char *end)
{
    const size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

static size_t line_end(const char *s, size_t n, size_t from)
{
    const char *p = memchr(s + from, '\n', n - from);
    return p ? (size_t)(p - s) : n;
}

static bool blank(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (s[i] != ' ' && s[i] != '\t' && s[i] != '\r')
            return false;
    return true;
}

static bool is_json_lines(const char *path, const char *s, size_t n)
{
    json_error_t e;
    if (ends_in(path, ".jsonl") || ends_in(path, ".ndjson"))
        return true;
    if (n == 0 || s[0] != '{')
        return false;
    json_t *first = json_loadb(s, line_end(s, n, 0), JSON_ALLOW_NUL, &e);
    const bool yes = json_is_string(json_object_get(first, "text"));
    json_decref(first);
    return yes;
}

static int add(struct sq_text *t, const char *s, size_t n)
{
    struct sq_bytes b = {t->p, t->n, t->cap};
    int rc = 0;
    if (t->parts++)
        rc = sq_bytes_add(&b, "\n\n", 2);
    if (rc == 0)
        rc = sq_bytes_add(&b, s, n);
    t->p = b.p;
    t->n = b.n;
    t->cap = b.cap;
    if (rc == 0 && t->n > SQ_TEXT_MAX)
        rc = sq_fail(SQ_E_ARG, "the texts together have more than %d bytes", SQ_TEXT_MAX);
    return rc;
}

static int add_lines(struct sq_text *t, const char *path, const char *s, size_t n)
{
    json_t *obj = NULL;
    char what[256];
    int64_t line = 1;
    int rc = 0;

    for (size_t at = 0, end; at < n; at = end + 1, line++) {
        end = line_end(s, n, at);
        if (blank(s + at, end - at))
            continue;
        snprintf(what, sizeof(what), "'%s' line %" PRId64, path, line);
        json_decref(obj);
        obj = NULL;
        SQ_TRY(sq_json_parse(&obj, s + at, end - at, what));
        const json_t *text = json_object_get(obj, "text");
        if (!json_is_string(text)) {
            rc = sq_fail(SQ_E_FORMAT, "%s has no string 'text'", what);
            goto out;
        }
        SQ_TRY(add(t, json_string_value(text), json_string_length(text)));
    }
out:
    json_decref(obj);
    return rc;
}

int sq_text_read(struct sq_text *t, const char *path)
{
    struct sq_bytes raw = {NULL, 0, 0};
    int rc = 0;

    SQ_TRY(slurp(&raw, path, SQ_TEXT_MAX));
    if (raw.n == 0) {
        rc = sq_fail(SQ_E_FORMAT, "'%s' is empty", path);
        goto out;
    }
    if (is_json_lines(path, raw.p, raw.n)) {
        rc = add_lines(t, path, raw.p, raw.n);
        goto out;
    }
    const size_t bad = sq_utf8_check(raw.p, raw.n);
    rc = bad < raw.n ? sq_fail(SQ_E_VALUE, "'%s' is not UTF-8: byte 0x%02x at %zu", path, (unsigned char)raw.p[bad], bad)
                     : add(t, raw.p, raw.n);
out:
    sq_free(raw.p);
    return rc;
}

void sq_text_release(struct sq_text *t)
{
    sq_free(t->p);
    *t = (struct sq_text)SQ_TEXT_INIT;
}

int sq_ids_read(struct sq_ids *ids, const char *path)
{
    struct sq_bytes raw = {NULL, 0, 0};
    int64_t line = 1;
    int rc = 0;

    SQ_TRY(slurp(&raw, path, 4 * (size_t)SQ_TEXT_MAX));
    for (size_t i = 0; i < raw.n;) {
        const char c = raw.p[i];
        if (c >= '0' && c <= '9') {
            int64_t id = 0;
            for (; i < raw.n && raw.p[i] >= '0' && raw.p[i] <= '9' && id <= INT32_MAX; i++)
                id = 10 * id + (raw.p[i] - '0');
            if (id > INT32_MAX) {
                rc = sq_fail(SQ_E_FORMAT, "'%s' line %" PRId64 ": an id larger than %d", path, line, INT32_MAX);
                goto out;
            }
            SQ_TRY(sq_ids_push(ids, (int32_t)id));
        } else if (c != 0 && strchr(" \t\r\n,[]", c)) {
            line += c == '\n';
            i++;
        } else {
            rc = sq_fail(SQ_E_FORMAT, "'%s' line %" PRId64 ": byte 0x%02x in a list of ids", path, line, (unsigned char)c);
            goto out;
        }
    }
out:
    sq_free(raw.p);
    return rc;
}
