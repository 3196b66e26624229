#include "sq/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_MAX = 512 };

static _Thread_local char text[TEXT_MAX];

static const struct {
    const char *name;
    int status;
} table[] = {
    [-SQ_E_ARG] = {"argument", 1},   [-SQ_E_VALUE] = {"value", 1},     [-SQ_E_FORMAT] = {"format", 1},
    [-SQ_E_TRUNC] = {"truncated", 3}, [-SQ_E_ABORTED] = {"aborted", 3}, [-SQ_E_IO] = {"io", 1},
    [-SQ_E_NOMEM] = {"memory", 1},   [-SQ_E_DEVICE] = {"device", 1},   [-SQ_E_UNSUP] = {"unsupported", 1},
    [-SQ_E_CHECK] = {"check", 4},    [-SQ_E_PEER] = {"peer", 3},
};

static bool known(int code)
{
    return code < 0 && -code < SQ_COUNT(table) && table[-code].name;
}

int sq_fail(enum sq_err code, const char *fmt, ...)
{
    char whole[TEXT_MAX]; /* the last message may be an argument */
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(whole, sizeof whole, fmt, ap);
    va_end(ap);
    memcpy(text, whole, sizeof text);
    return code;
}

int sq_fail_in(int code, const char *fmt, ...)
{
    char context[TEXT_MAX], whole[2 * TEXT_MAX + 8];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(context, sizeof context, fmt, ap);
    va_end(ap);
    snprintf(whole, sizeof whole, "%s: %s", context, text);
    memcpy(text, whole, sizeof text - 1);
    text[sizeof text - 1] = 0;
    return code;
}

const char *sq_errmsg(void)
{
    return text;
}

const char *sq_err_name(int code)
{
    return known(code) ? table[-code].name : "unknown";
}

int sq_err_status(int code)
{
    if (code >= 0)
        return 0;
    return known(code) ? table[-code].status : 1;
}

void sq_assert_failed(const char *cond, const char *file, int line)
{
    fprintf(stderr, "sq: bug: '%s' does not hold at %s:%d\n", cond, file, line);
    abort();
}
