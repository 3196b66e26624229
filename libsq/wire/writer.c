#include <string.h>

#include "wire.h"

static int flush(struct sq_stream *s)
{
    const int rc = wire_write(s, s->buf, s->len, NULL, 0);
    s->len = 0;
    return rc;
}

/* Small pieces wait in the buffer until their record is complete, large ones go out from the caller's memory.
 */
static int emit(struct sq_stream *s, const void *data, size_t n)
{
    int rc = 0;

    sq_hash_add(&s->sum, data, n);
    s->bytes += (int64_t)n;
    if (n <= WIRE_BUF - s->len) {
        if (n)
            memcpy(s->buf + s->len, data, n);
        s->len += n;
        return 0;
    }
    rc = wire_write(s, s->buf, s->len, data, n);
    s->len = 0;
    return rc;
}

static int emit_head(struct sq_stream *s)
{
    const int rc = emit(s, s->head.data, s->head.len);
    s->head.len = 0;
    return rc;
}

static int put_data(struct sq_stream *s, const void *data, size_t n)
{
    const char *from = data;
    int rc = 0;

    while (n) {
        if (s->chunk == 0) {
            s->chunk = SQ_MIN(s->left, (int64_t)SQ_CHUNK);
            sq_hash_reset(&s->part);
            SQ_TRY(wire_encode_chunk(&s->head, (uint32_t)s->chunk));
            SQ_TRY(emit_head(s));
        }
        const size_t k = SQ_MIN(SQ_MIN(n, (size_t)s->chunk), (size_t)WIRE_SLICE);
        sq_hash_add(&s->part, from, k);
        SQ_TRY(emit(s, from, k));
        from += k;
        n -= k;
        s->chunk -= (int64_t)k;
        s->left -= (int64_t)k;
        if (s->chunk == 0) {
            SQ_TRY(wire_encode_chunk_end(&s->head, sq_hash_value(&s->part)));
            SQ_TRY(emit_head(s));
        }
    }
    if (s->left == 0)
        SQ_TRY(flush(s));
out:
    return rc;
}

/* bytes as for wire_encode() */
static int put_header(struct sq_stream *s, const json_t *head, int64_t bytes)
{
    int rc;

    s->head.len = 0;
    if (s->left)
        SQ_TRY(sq_fail(SQ_E_ARG,
                       "a record begins while %" PRId64 " payload bytes of the one before are missing",
                       s->left));
    SQ_TRY(wire_encode(&s->head, head, bytes));
    SQ_TRY(emit_head(s));
    s->records++;
    s->left = SQ_MAX(bytes, 0);
    if (s->left == 0)
        SQ_TRY(flush(s));
out:
    return rc;
}

int sq_stream_put_head(struct sq_stream *out, const json_t *head, int64_t n)
{
    static const char *const reserved[] = {"begin", "end", "abort", "chunk"};
    const char *record = json_string_value(json_object_get(head, "record"));
    int rc;

    SQ_TRY(wire_failed(out));
    if (!out->begun)
        SQ_TRY(sq_fail(SQ_E_ARG, "a stream starts with a begin record"));
    if (!record)
        SQ_TRY(sq_fail(SQ_E_ARG, "a header without 'record'"));
    for (int i = 0; i < SQ_COUNT(reserved); i++)
        if (strcmp(record, reserved[i]) == 0)
            SQ_TRY(sq_fail(SQ_E_ARG, "%s records are written by the stream itself", record));
    if (n < 0)
        SQ_TRY(sq_fail(SQ_E_ARG, "a payload of %" PRId64 " bytes", n));
    SQ_TRY(put_header(out, head, n));
out:
    return wire_stick(out, rc);
}

int sq_stream_put_data(struct sq_stream *out, const void *data, size_t n)
{
    int rc;

    SQ_TRY(wire_failed(out));
    if (n > (size_t)out->left)
        SQ_TRY(sq_fail(SQ_E_ARG, "%zu payload bytes where %" PRId64 " are left", n, out->left));
    SQ_TRY(put_data(out, data, n));
out:
    return wire_stick(out, rc);
}

int sq_stream_put(struct sq_stream *out, const json_t *head, const void *payload, size_t n)
{
    const int rc = n > INT64_MAX / 2 ? sq_fail(SQ_E_ARG, "a payload of %zu bytes", n)
                                     : sq_stream_put_head(out, head, (int64_t)n);
    return rc < 0 ? wire_stick(out, rc) : sq_stream_put_data(out, payload, n);
}

int sq_stream_put_tensor(struct sq_stream *out, const struct sq_tensor *t, const char *role, int64_t layer)
{
    json_t *shape = json_array();
    json_t *head = json_pack("{s:s, s:s}", "record", "tensor", "name", t->name);
    int rc = 0;

    for (int i = 0; i < t->ndim; i++)
        rc |= json_array_append_new(shape, json_integer(t->dim[i]));
    if (role)
        rc |= json_object_set_new(head, "role", json_string(role));
    if (layer >= 0)
        rc |= json_object_set_new(head, "layer", json_integer(layer));
    rc |= json_object_set_new(head, "dtype", json_string(sq_dtype_name(t->dtype)));
    rc |= json_object_set(head, "shape", shape);
    rc |= json_object_set_new(head, "bytes", json_integer(0));
    if (rc < 0)
        rc = wire_stick(out, sq_fail(SQ_E_FORMAT, "tensor '%s': name or role is not UTF-8", t->name));
    else
        rc = sq_stream_put(out, head, t->data, sq_tensor_bytes(t));
    json_decref(shape);
    json_decref(head);
    return rc;
}

/* ---- begin, end, abort ---- */

int sq_stream_begin(struct sq_stream *out, struct sq_stream *in, const struct sq_app *app)
{
    const json_t *past = in && !app->no_prov ? json_object_get(in->begin, "provenance") : NULL;
    json_t *prov = json_is_array(past) ? json_copy((json_t *)(uintptr_t)past) : json_array();
    json_t *head = NULL;
    enum sq_isa kernels, libraries;
    int rc;

    SQ_TRY(wire_failed(out));
    SQ_TRY(sq_isa_get(&kernels, &libraries));
    if (out->begun)
        SQ_TRY(sq_fail(SQ_E_ARG, "the stream has its begin record already"));
    if (!app->no_prov && json_array_append_new(prov, wire_provenance(app, kernels)) < 0)
        SQ_TRY(sq_fail(SQ_E_NOMEM, "no memory for provenance"));
    head = json_pack("{s:s, s:s, s:[i, i], s:O}", "record", "begin", "magic", "sq", "version", WIRE_MAJOR,
                     WIRE_MINOR, "provenance", prov);
    if (!head)
        SQ_TRY(sq_fail(SQ_E_NOMEM, "no memory for a header"));
    SQ_TRY(put_header(out, head, -1));
    out->begun = true;
    if (in && !app->no_prov) {
        if (in->peer)
            in->peer->peer = NULL; /* the newest output of an input gets its digest */
        out->peer = in;
        in->peer = out;
        memcpy(out->in_digest, in->digest, sizeof in->digest);
    }
out:
    json_decref(head);
    json_decref(prov);
    return wire_stick(out, rc);
}

int wire_write_end(struct sq_stream *s)
{
    char digest[SQ_HASH_TEXT];
    json_t *head = json_pack("{s:s, s:I, s:I}", "record", "end", "records", (json_int_t)s->records, "size",
                             (json_int_t)s->bytes);
    int rc;

    if (!s->begun)
        SQ_TRY(sq_fail(SQ_E_ARG, "a stream without records cannot be finished"));
    sq_hash_add(&s->sum, s->in_digest, strlen(s->in_digest));
    sq_hash_text(digest, sq_hash_value(&s->sum));
    if (*s->in_digest && json_object_set_new(head, "in_digest", json_string(s->in_digest)) < 0)
        SQ_TRY(sq_fail(SQ_E_NOMEM, "no memory for a header"));
    if (json_object_set_new(head, "xxh3", json_string(digest)) < 0)
        SQ_TRY(sq_fail(SQ_E_NOMEM, "no memory for a header"));
    SQ_TRY(put_header(s, head, -1));
out:
    json_decref(head);
    return wire_stick(s, rc);
}

void wire_write_abort(struct sq_stream *s, int code, const char *text)
{
    json_t *head = json_pack("{s:s, s:s, s:s}", "record", "abort", "code",
                             code < 0 ? sq_err_name(code) : "stopped", "text", text);
    /* Inside a chunk there is no place for a record: the reader sees that the input ended there. After a
     * failed write nothing more goes out; after a misuse of this stream it still does. */
    const bool possible = head && s->chunk == 0 && s->code != SQ_E_IO && s->code != SQ_E_PEER;
    s->left = 0;
    s->aborting = true;
    if (possible)
        (void)put_header(s, head, -1);
    json_decref(head);
}
