/* Digest and comparison look at the same thing, a stream's content: tokens, layers' states and schemes,
 * tensors. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sq/inspect.h"
#include "sq/json.h"

enum { PIECE = 1 << 20 };

/* The next record with content. */
static int next_content(struct sq_stream *in, struct sq_record *rec)
{
    int rc;
    while ((rc = sq_stream_next(in, rec)) > 0) {
        if (rec->kind == SQ_REC_TOKENS || rec->kind == SQ_REC_TENSOR)
            break;
        const char *event = json_string_value(json_object_get(rec->head, "event"));
        if (rec->kind == SQ_REC_LAYER && event && strcmp(event, "begin") == 0)
            break;
    }
    return rc;
}

/* What of a header is content, as text: keys sorted, no spaces. SQ_E_NOMEM. *out is free()d by the caller. */
static int content_text(char **out, const struct sq_record *rec)
{
    static const char *const keys[][8] = {
        [SQ_REC_TOKENS] = {"record", "samples", "length", "heldout", "dtype"},
        [SQ_REC_TENSOR] = {"record", "layer", "name", "dtype", "shape", "bytes", "scheme"},
        [SQ_REC_LAYER] = {"record", "index", "state", "scheme"},
    };
    json_t *obj = json_object();
    for (int i = 0; obj && keys[rec->kind][i]; i++) {
        json_t *v = json_object_get(rec->head, keys[rec->kind][i]);
        if (v && json_object_set(obj, keys[rec->kind][i], v) < 0) {
            json_decref(obj);
            obj = NULL;
        }
    }
    *out = json_dumps(obj, JSON_COMPACT | JSON_SORT_KEYS);
    json_decref(obj);
    return *out ? 0 : sq_fail(SQ_E_NOMEM, "no memory for JSON");
}

static int hash_content(struct sq_hash *h, struct sq_stream *in, const struct sq_record *rec)
{
    char *text;
    int rc = content_text(&text, rec);
    if (rc < 0)
        return rc;
    sq_hash_add(h, text, strlen(text) + 1);
    free(text);
    return sq_stream_hash(h, in);
}

int sq_inspect_digest(char out[SQ_HASH_TEXT], const char *spec)
{
    struct sq_stream *in = NULL;
    struct sq_record rec = SQ_RECORD_INIT;
    struct sq_hash h = {.state = NULL};
    int rc;

    SQ_TRY(sq_hash_init(&h));
    SQ_TRY(sq_stream_open(&in, spec, SQ_READ));
    while ((rc = next_content(in, &rec)) > 0)
        SQ_TRY(hash_content(&h, in, &rec));
    if (rc == 0)
        rc = sq_stream_finish(&in);
    sq_hash_text(out, sq_hash_value(&h));
out:
    sq_record_release(&rec);
    sq_stream_abort(&in, rc);
    sq_hash_release(&h);
    return rc;
}

/* ---- comparison ---- */

struct cmp {
    FILE *f;
    double tolerance;
    int64_t tensors, differ;
    char first[400];
};

static void note(struct cmp *c, const char *fmt, ...) SQ_PRINTF(2, 3);
static void note(struct cmp *c, const char *fmt, ...)
{
    char text[sizeof c->first];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    fprintf(c->f, "%s\n", text);
    if (!c->differ++)
        memcpy(c->first, text, sizeof text);
}

/* "tensor 'x' of layer 3", "the tokens", "layer 3" */
static void say(char *buf, size_t n, const struct sq_record *rec)
{
    const char *name = json_string_value(json_object_get(rec->head, "name"));
    const json_t *layer = json_object_get(rec->head, "layer");
    if (!rec->head)
        snprintf(buf, n, "its end");
    else if (rec->kind == SQ_REC_TOKENS)
        snprintf(buf, n, "the tokens");
    else if (rec->kind == SQ_REC_LAYER)
        snprintf(buf, n, "layer %" JSON_INTEGER_FORMAT,
                 json_integer_value(json_object_get(rec->head, "index")));
    else if (layer)
        snprintf(buf, n, "tensor '%.191s' of layer %" JSON_INTEGER_FORMAT, name ? name : "?",
                 json_integer_value(layer));
    else
        snprintf(buf, n, "tensor '%.191s'", name ? name : "?");
}

static bool is_float(enum sq_dtype t)
{
    return t == SQ_F32 || t == SQ_F16 || t == SQ_BF16 || t == SQ_F64;
}

/* Both have the same shape. NaN equals NaN. */
static void compare_values(struct cmp *c, const char *what, const struct sq_tensor *a,
                           const struct sq_tensor *b)
{
    double worst = 0, largest = 0;
    int64_t differ = 0, at = 0;
    for (int64_t i = 0; i < sq_tensor_count(a); i++) {
        const double x = sq_tensor_at(a, i), y = sq_tensor_at(b, i);
        if (isfinite(y))
            largest = fmax(largest, fabs(y));
        if (x == y || (isnan(x) && isnan(y)))
            continue;
        const double d = isfinite(x) && isfinite(y) ? fabs(x - y) : INFINITY;
        if (!differ++ || d > worst) {
            worst = d;
            at = i;
        }
    }
    if (c->tolerance > 0 && is_float(a->dtype) && is_float(b->dtype) && worst <= c->tolerance * largest)
        return;
    note(c,
         "%s: %" PRId64 " of %" PRId64 " values differ, at most by %.6g (%.3g of the largest) at %" PRId64
         ": %.9g and %.9g",
         what, differ, sq_tensor_count(a), worst, largest > 0 ? worst / largest : (double)INFINITY, at,
         sq_tensor_at(a, at), sq_tensor_at(b, at));
}

static int compare_tensors(struct cmp *c, const char *what, struct sq_stream *in[2],
                           const struct sq_record rec[2])
{
    struct sq_tensor t[2] = {SQ_TENSOR_INIT, SQ_TENSOR_INIT};
    int rc = 0;

    c->tensors++;
    for (int k = 0; k < 2; k++)
        SQ_TRY(sq_stream_tensor(in[k], &rec[k], &t[k]));
    if (t[0].ndim != t[1].ndim || memcmp(t[0].dim, t[1].dim, (size_t)t[0].ndim * sizeof t[0].dim[0]) != 0)
        note(c, "%s: the shapes differ", what);
    else if (t[0].dtype != t[1].dtype && !(c->tolerance > 0 && is_float(t[0].dtype) && is_float(t[1].dtype)))
        note(c, "%s: %s and %s", what, sq_dtype_name(t[0].dtype), sq_dtype_name(t[1].dtype));
    else if (t[0].dtype != t[1].dtype ||
             (sq_tensor_bytes(&t[0]) && memcmp(t[0].data, t[1].data, sq_tensor_bytes(&t[0])) != 0))
        compare_values(c, what, &t[0], &t[1]);
out:
    sq_tensor_release(&t[0]);
    sq_tensor_release(&t[1]);
    return rc;
}

static int compare_heads(struct cmp *c, const char *what, const struct sq_record rec[2])
{
    char *text[2] = {NULL, NULL};
    int rc;
    SQ_TRY(content_text(&text[0], &rec[0]));
    SQ_TRY(content_text(&text[1], &rec[1]));
    if (strcmp(text[0], text[1]) != 0)
        note(c, "%s: %.150s and %.150s", what, text[0], text[1]);
out:
    free(text[0]);
    free(text[1]);
    return rc;
}

static int compare_payloads(struct cmp *c, const char *what, struct sq_stream *in[2],
                            const struct sq_record rec[2])
{
    char *buf[2] = {NULL, NULL};
    int64_t left = rec[0].bytes, at = 0;
    int rc = 0;
    if (rec[0].bytes != rec[1].bytes)
        return 0; /* the heads said so */
    SQ_TRY(sq_alloc(&buf[0], PIECE));
    SQ_TRY(sq_alloc(&buf[1], PIECE));
    while (left) {
        const size_t n = (size_t)SQ_MIN(left, (int64_t)PIECE);
        for (int k = 0; k < 2; k++)
            SQ_TRY(sq_stream_payload(in[k], buf[k], n));
        if (memcmp(buf[0], buf[1], n) != 0) {
            for (size_t i = 0; buf[0][i] == buf[1][i]; i++)
                at++;
            note(c, "%s: first different byte at %" PRId64, what, at);
            break;
        }
        left -= (int64_t)n;
        at += (int64_t)n;
    }
out:
    sq_free(buf[0]);
    sq_free(buf[1]);
    return rc;
}

/* 1: go on, 0: the streams are out of step or at their ends */
static int compare_next(struct cmp *c, struct sq_stream *in[2], struct sq_record rec[2])
{
    char what[2][300];
    int rc;

    for (int k = 0; k < 2; k++) {
        SQ_TRY(next_content(in[k], &rec[k]));
        say(what[k], sizeof what[k], &rec[k]);
    }
    if (strcmp(what[0], what[1]) != 0) {
        note(c, "%s in one, %s in the other", what[0], what[1]);
        return 0;
    }
    if (!rec[0].head)
        return 0;
    if (rec[0].kind == SQ_REC_TENSOR)
        SQ_TRY(compare_tensors(c, what[0], in, rec));
    else
        SQ_TRY(compare_heads(c, what[0], rec));
    if (rec[0].kind == SQ_REC_TOKENS)
        SQ_TRY(compare_payloads(c, what[0], in, rec));
    rc = 1;
out:
    return rc;
}

int sq_inspect_cmp(FILE *f, const char *spec_a, const char *spec_b, double tolerance)
{
    struct cmp c = {.f = f, .tolerance = tolerance};
    struct sq_stream *in[2] = {NULL, NULL};
    struct sq_record rec[2] = {SQ_RECORD_INIT, SQ_RECORD_INIT};
    int rc;

    SQ_TRY(sq_stream_open(&in[0], spec_a, SQ_READ));
    SQ_TRY(sq_stream_open(&in[1], spec_b, SQ_READ));
    while ((rc = compare_next(&c, in, rec)) > 0)
        ;
    if (rc < 0)
        goto out;
    if (c.differ)
        rc = sq_fail(SQ_E_CHECK, "%" PRId64 " difference%s, the first: %s", c.differ,
                     c.differ == 1 ? "" : "s", c.first);
    else
        fprintf(f, "%" PRId64 " tensors are equal\n", c.tensors);
out:
    for (int k = 0; k < 2; k++) {
        sq_record_release(&rec[k]);
        sq_stream_abort(&in[k], rc);
    }
    return rc;
}
