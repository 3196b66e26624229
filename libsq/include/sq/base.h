/* sq/base.h - what every header and source of libsq starts from: errors, sizes, memory, logging */
#ifndef SQ_BASE_H
#define SQ_BASE_H

#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define SQ_BEGIN_DECLS extern "C" {
#define SQ_END_DECLS }
#define SQ_RESTRICT __restrict__
#else
#define SQ_BEGIN_DECLS
#define SQ_END_DECLS
#define SQ_RESTRICT restrict
#endif

#define SQ_MUSTUSE __attribute__((warn_unused_result))
#define SQ_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define SQ_COUNT(a) ((int64_t)(sizeof(a) / sizeof((a)[0])))
#define SQ_MIN(a, b) ((a) < (b) ? (a) : (b))
#define SQ_MAX(a, b) ((a) > (b) ? (a) : (b))

SQ_BEGIN_DECLS

/* ---- errors ------------------------------------------------------------------------------
 * A function that can fail returns int: 0 (readers: 1 for an item, 0 for a clean end) or one of
 * these negative codes. The function that detects a failure calls sq_fail() once, with a text
 * that names file, tensor and reason; callers add context with sq_fail_in() on the way up. */
enum sq_err {
    SQ_E_ARG = -1,     /* the caller or the user asked for something impossible */
    SQ_E_VALUE = -2,   /* NaN, Inf or a number out of its range in the data */
    SQ_E_FORMAT = -3,  /* the bytes are not what their format says */
    SQ_E_TRUNC = -4,   /* input ended early: exit status 3 */
    SQ_E_ABORTED = -5, /* upstream said that it failed: exit status 3 */
    SQ_E_IO = -6,      /* the operating system refused a read or write */
    SQ_E_NOMEM = -7,   /* memory ran out */
    SQ_E_DEVICE = -8,  /* an accelerator failed */
    SQ_E_UNSUP = -9,   /* valid input that sq does not support; the text names it */
    SQ_E_CHECK = -10,  /* a requested check failed: exit status 4 */
    SQ_E_PEER = -11,   /* the program at the other end of an endpoint is gone: exit status 3 */
};

/* Store the text (thread-local, cut at 511 bytes) and return code. */
int sq_fail(enum sq_err code, const char *fmt, ...) SQ_PRINTF(2, 3);
/* Put "context: " in front of the stored text; returns code unchanged. Call only after a failure. */
int sq_fail_in(int code, const char *fmt, ...) SQ_PRINTF(2, 3);
/* The text of the last failure on this thread; "" if there was none. */
const char *sq_errmsg(void);
/* "format", "truncated", ... for a code; "unknown" for any other number. */
const char *sq_err_name(int code);
/* The exit status of STYLE.md 2.5: 0 for code >= 0, else 1, 2, 3 or 4. */
int sq_err_status(int code);

/* rc = call; on failure go to the function's one exit label. */
#define SQ_TRY(call)          \
    do {                      \
        rc = (call);          \
        if (rc < 0)           \
            goto out;         \
    } while (0)

/* A programmer's invariant; stays on in release. Never for input, memory, device or IO. */
#define SQ_ASSERT(cond) ((cond) ? (void)0 : sq_assert_failed(#cond, __FILE__, __LINE__))
void sq_assert_failed(const char *cond, const char *file, int line) __attribute__((noreturn));

/* ---- sizes and memory --------------------------------------------------------------------- */

/* *out = a * b, or SQ_E_ARG when it overflows size_t. */
int sq_mul_size(size_t *out, size_t a, size_t b) SQ_MUSTUSE;
/* 64-byte aligned, zeroed memory for n items of the given size; *out (any pointer's address) is
 * set to it, to NULL for n == 0. SQ_E_NOMEM or SQ_E_ARG (n < 0, overflow). Free with sq_free(). */
int sq_alloc_bytes(void **out, int64_t n, size_t size) SQ_MUSTUSE;
#define sq_alloc(out, n) sq_alloc_bytes((void **)(out), (n), sizeof(**(out)))
void sq_free(void *p); /* NULL-safe */
/* A copy of s on the heap; free with sq_free(). */
int sq_strdup(char **out, const char *s) SQ_MUSTUSE;
/* Bytes now held through sq_alloc and their high-water mark, over all threads. */
int64_t sq_mem_used(void);
int64_t sq_mem_peak(void);

/* ---- logging: stderr only, one write per line, "PROG: level: text" ------------------------- */
enum sq_level { SQ_ERROR, SQ_WARNING, SQ_INFO, SQ_DEBUG };
void sq_log(enum sq_level level, const char *fmt, ...) SQ_PRINTF(2, 3);
void sq_log_set(const char *prog, enum sq_level level); /* prog must outlive all logging */
enum sq_level sq_log_level(void);

/* seconds on the monotonic clock */
double sq_now(void);
/* Processor seconds of this process, all threads, and the largest resident memory it had so far. */
struct sq_usage {
    double cpu_seconds;
    int64_t peak_bytes;
};
struct sq_usage sq_usage(void);

SQ_END_DECLS
#endif
