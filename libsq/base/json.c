#include "sq/json.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "sq/fault.h"
#include "sq/file.h"

enum { FILE_LIMIT = 256 << 20 };

/* Integers beyond 64 bits become reals: tokenizer configs say "no limit" as 1000000000000000019884624838656. Two
 * bytes more for each; *out is NULL when there is none. */
static int widen_integers(char **out, size_t *out_n, const char *text, size_t n)
{
    enum { DIGITS = 18 };
    char *copy = NULL;
    size_t at = 0, found = 0;
    bool quoted = false;
    int rc = sq_alloc(&copy, (int64_t)(n + 2 * (n / DIGITS) + 1));

    *out = NULL;
    for (size_t i = 0; rc == 0 && i < n;) {
        const size_t start = i;
        if (quoted || text[i] < '0' || text[i] > '9') {
            if (quoted && text[i] == '\\' && i + 1 < n)
                copy[at++] = text[i++];
            else if (text[i] == '"')
                quoted = !quoted;
            copy[at++] = text[i++];
            continue;
        }
        while (i < n && text[i] >= '0' && text[i] <= '9')
            copy[at++] = text[i++];
        const bool fraction = (start > 0 && strchr(".eE+", text[start - 1])) || (i < n && strchr(".eE", text[i]));
        if (i - start > DIGITS && !fraction) {
            copy[at++] = '.';
            copy[at++] = '0';
            found++;
        }
    }
    if (rc == 0 && found) {
        *out = copy;
        *out_n = at;
        return 0;
    }
    sq_free(copy);
    return rc;
}

int sq_json_parse(json_t **out, const char *text, size_t n, const char *what)
{
    char *wide = NULL;
    size_t wide_n = 0;
    json_error_t e;
    int rc = 0;

    *out = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &e);
    if (!*out && json_error_code(&e) == json_error_numeric_overflow) {
        rc = widen_integers(&wide, &wide_n, text, n);
        if (rc == 0 && wide)
            *out = json_loadb(wide, wide_n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &e);
    }
    if (rc == 0 && !*out)
        rc = sq_fail(SQ_E_FORMAT, "%s: line %d: %s", what, e.line, e.text);
    sq_free(wide);
    return rc;
}

static int read_all(char *text, int64_t n, int fd, const char *path)
{
    for (int64_t at = 0; at < n;) {
        const ssize_t got = sq_fault(SQ_FAULT_READ) ? -1 : read(fd, text + at, (size_t)(n - at));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return sq_fail(SQ_E_IO, "cannot read '%s': %s", path, got < 0 ? strerror(errno) : "it became shorter");
        at += got;
    }
    return 0;
}

int sq_json_load(json_t **out, const char *path)
{
    char *text = NULL;
    int64_t size;
    int fd, rc;

    *out = NULL;
    SQ_TRY(sq_file_open(&fd, &size, path));
    if (size > FILE_LIMIT)
        SQ_TRY(sq_fail(SQ_E_FORMAT, "'%s' has %" PRId64 " bytes, more than JSON files may have", path, size));
    SQ_TRY(sq_alloc(&text, size + 1));
    SQ_TRY(read_all(text, size, fd, path));
    SQ_TRY(sq_json_parse(out, text, (size_t)size, path));
out:
    sq_free(text);
    if (fd >= 0)
        close(fd);
    return rc;
}

static int missing(const char *key, const json_t *v, const char *want)
{
    if (!v)
        return sq_fail(SQ_E_FORMAT, "'%s' is missing", key);
    return sq_fail(SQ_E_FORMAT, "'%s' is not %s", key, want);
}

int sq_json_int(int64_t *out, const json_t *obj, const char *key, int64_t min, int64_t max)
{
    const json_t *v = json_object_get(obj, key);
    if (!json_is_integer(v))
        return missing(key, v, "an integer");
    const int64_t x = json_integer_value(v);
    if (x < min || x > max)
        return sq_fail(SQ_E_FORMAT, "'%s' is %" PRId64 ", not in %" PRId64 " .. %" PRId64, key, x, min, max);
    *out = x;
    return 0;
}

int sq_json_real(double *out, const json_t *obj, const char *key)
{
    const json_t *v = json_object_get(obj, key);
    if (!json_is_number(v) || !isfinite(json_number_value(v)))
        return missing(key, v, "a finite number");
    *out = json_number_value(v);
    return 0;
}

int sq_json_str(const char **out, const json_t *obj, const char *key)
{
    const json_t *v = json_object_get(obj, key);
    if (!json_is_string(v))
        return missing(key, v, "a string");
    *out = json_string_value(v);
    return 0;
}

int sq_json_bool(bool *out, const json_t *obj, const char *key)
{
    const json_t *v = json_object_get(obj, key);
    if (!json_is_boolean(v))
        return missing(key, v, "true or false");
    *out = json_is_true(v);
    return 0;
}

int sq_json_array(json_t **out, const json_t *obj, const char *key)
{
    json_t *v = json_object_get(obj, key);
    if (!json_is_array(v))
        return missing(key, v, "an array");
    *out = v;
    return 0;
}

int sq_json_object(json_t **out, const json_t *obj, const char *key)
{
    json_t *v = json_object_get(obj, key);
    if (!json_is_object(v))
        return missing(key, v, "an object");
    *out = v;
    return 0;
}

static bool absent(const json_t *obj, const char *key)
{
    const json_t *v = json_object_get(obj, key);
    return !v || json_is_null(v);
}

int sq_json_int_opt(int64_t *out, const json_t *obj, const char *key, int64_t min, int64_t max)
{
    return absent(obj, key) ? 0 : sq_json_int(out, obj, key, min, max);
}

int sq_json_real_opt(double *out, const json_t *obj, const char *key)
{
    return absent(obj, key) ? 0 : sq_json_real(out, obj, key);
}

int sq_json_str_opt(const char **out, const json_t *obj, const char *key)
{
    return absent(obj, key) ? 0 : sq_json_str(out, obj, key);
}

int sq_json_bool_opt(bool *out, const json_t *obj, const char *key)
{
    return absent(obj, key) ? 0 : sq_json_bool(out, obj, key);
}
