#include "cursor.h"

#include <string.h>

#include "made.h"
#include "sq/json.h"

static json_t *header(bool announce, const struct cursor *c, const struct acts *a, const struct sq_ops *ops)
{
    char backend[128], scheme[SQ_SCHEME_NAME];
    made_backend(backend, sizeof backend, ops);
    return json_pack("{s:s, s:b, s:I, s:I, s:f, s:s, s:I, s:I, s:I, s:s}", "record", "cursor", "announce",
                     (int)announce, "layer", (json_int_t)c->layer, "float_layer", (json_int_t)c->float_layer,
                     "rate", c->scheme.rate, "scheme", sq_scheme_name(scheme, &c->scheme), "samples",
                     (json_int_t)a->samples, "length", (json_int_t)a->tokens, "hidden", (json_int_t)a->hidden,
                     "backend", backend);
}

int cursor_announce(struct sq_stream *out, const struct cursor *c, const struct acts *a,
                    const struct sq_ops *ops)
{
    json_t *head = header(true, c, a, ops);
    const int rc =
        head ? sq_stream_put(out, head, NULL, 0) : sq_fail(SQ_E_NOMEM, "no memory for a cursor record");
    json_decref(head);
    return rc;
}

int cursor_write(struct sq_stream *out, const struct cursor *c, const struct acts *a,
                 const struct sq_ops *ops, const struct sq_hash *seen)
{
    const int64_t bytes = (int64_t)acts_bytes(a);
    char digest[SQ_HASH_TEXT];
    json_t *head = header(false, c, a, ops);
    int rc;
    sq_hash_text(digest, sq_hash_value(seen));
    if (!head || json_object_set_new(head, "dtype", json_string(sq_dtype_name(a->xf.type))) < 0 ||
        json_object_set_new(head, "same", json_boolean(c->same)) < 0 ||
        json_object_set_new(head, "digest", json_string(digest)) < 0) {
        rc = sq_fail(SQ_E_NOMEM, "no memory for a cursor record");
        goto out;
    }
    SQ_TRY(sq_stream_put_head(out, head, c->same ? bytes : 2 * bytes));
    SQ_TRY(sq_stream_put_data(out, a->xf.x, (size_t)bytes));
    if (!c->same)
        SQ_TRY(sq_stream_put_data(out, a->xq.x, (size_t)bytes));
out:
    json_decref(head);
    return rc;
}

bool cursor_is_announcement(const json_t *head)
{
    return json_is_true(json_object_get(head, "announce"));
}

/* What an announcement says, checked for sense; the strings are borrowed from head. */
struct words {
    int64_t samples, length, hidden;
    const char *scheme, *backend;
};

static int parse(struct cursor *c, struct words *w, const json_t *head)
{
    int rc;
    SQ_TRY(sq_json_int(&c->layer, head, "layer", 0, 1024));
    SQ_TRY(sq_json_int(&c->float_layer, head, "float_layer", c->layer, 1024));
    SQ_TRY(sq_json_int(&w->samples, head, "samples", 1, INT64_C(1) << 24));
    SQ_TRY(sq_json_int(&w->length, head, "length", 1, INT64_C(1) << 20));
    SQ_TRY(sq_json_int(&w->hidden, head, "hidden", 1, INT64_C(1) << 20));
    SQ_TRY(sq_json_str(&w->scheme, head, "scheme"));
    SQ_TRY(sq_json_str(&w->backend, head, "backend"));
    SQ_TRY(sq_scheme_parse(&c->scheme, w->scheme));
    SQ_TRY(sq_json_real(&c->scheme.rate, head, "rate"));
out:
    return rc < 0 ? sq_fail_in(rc, "cursor record") : 0;
}

int cursor_matches(struct cursor *c, const json_t *head, const struct acts *a, const struct sq_ops *ops,
                   const struct sq_scheme *scheme, int64_t first, int64_t last)
{
    struct words w;
    char backend[128], name[SQ_SCHEME_NAME];
    const int rc = parse(c, &w, head);
    if (rc < 0)
        return rc;
    const char *why = NULL;
    if (w.samples != a->samples || w.length != a->tokens || w.hidden != a->hidden)
        why = "it was made with other samples";
    else if (strcmp(w.scheme, sq_scheme_name(name, scheme)) != 0)
        why = "it was made with another scheme";
    else if (c->scheme.rate != scheme->rate)
        why = "it was made at another --rate";
    else if (c->layer > first || c->float_layer > last + 1)
        why = "the windows begin before it";
    if (why) {
        sq_log(SQ_INFO, "cursor in front of layer %" PRId64 " ignored: %s; starting from the tokens",
               c->layer, why);
        return 0;
    }
    made_backend(backend, sizeof backend, ops);
    if (strcmp(w.backend, backend) != 0)
        return sq_fail(SQ_E_ARG,
                       "the cursor in front of layer %" PRId64
                       " was computed by '%s', this process computes with '%s'; use the "
                       "same backend, or --no-cursor to start from the tokens",
                       c->layer, w.backend, backend);
    return 1;
}

int cursor_read(struct acts *a, struct sq_stream *in, const struct sq_record *rec, const struct cursor *c,
                const struct sq_hash *seen)
{
    const int64_t bytes = (int64_t)acts_bytes(a);
    char digest[SQ_HASH_TEXT];
    const char *said, *dtype;
    struct cursor here;
    struct words w;
    int rc = parse(&here, &w, rec->head);
    if (rc == 0)
        rc = sq_json_str(&said, rec->head, "digest");
    if (rc == 0)
        rc = sq_json_str(&dtype, rec->head, "dtype");
    if (rc < 0)
        return rc;
    if (strcmp(dtype, sq_dtype_name(a->xf.type)) != 0)
        return sq_fail(SQ_E_FORMAT, "the cursor in front of layer %" PRId64 " has %.20s activations, this process keeps %s: another "
                       "version wrote it; use --no-cursor to start from the tokens", here.layer, dtype, sq_dtype_name(a->xf.type));
    sq_hash_text(digest, sq_hash_value(seen));
    here.same = json_is_true(json_object_get(rec->head, "same"));
    if (here.layer != c->layer || here.float_layer != c->float_layer || here.scheme.rate != c->scheme.rate ||
        rec->bytes != (here.same ? bytes : 2 * bytes) || strcmp(said, digest) != 0)
        return sq_fail(SQ_E_FORMAT,
                       "the cursor in front of layer %" PRId64
                       " does not belong to the tokens and layers before it; use "
                       "--no-cursor to start from the tokens",
                       here.layer);
    rc = acts_alloc(a);
    if (rc == 0)
        rc = sq_stream_payload(in, a->xf.x, (size_t)bytes);
    if (rc == 0 && here.same)
        memcpy(a->xq.x, a->xf.x, (size_t)bytes);
    return rc == 0 && !here.same ? sq_stream_payload(in, a->xq.x, (size_t)bytes) : rc;
}
