#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "sq/json.h"
#include "wire.h"

static const char *const kind_name[] = {
    [SQ_REC_BEGIN] = "begin",   [SQ_REC_MODEL] = "model",   [SQ_REC_FILE] = "file",
    [SQ_REC_TOKENS] = "tokens", [SQ_REC_TENSOR] = "tensor", [SQ_REC_LAYER] = "layer",
    [SQ_REC_WINDOW] = "window", [SQ_REC_CURSOR] = "cursor", [SQ_REC_END] = "end",
    [SQ_REC_ABORT] = "abort",
};

const char *sq_kind_name(enum sq_kind kind)
{
    return kind < SQ_REC_OTHER ? kind_name[kind] : NULL;
}

static enum sq_kind kind_of(const char *name)
{
    enum sq_kind k = SQ_REC_BEGIN;
    while (k < SQ_REC_OTHER && strcmp(kind_name[k], name) != 0)
        k++;
    return k;
}

void sq_record_release(struct sq_record *rec)
{
    json_decref(rec->head);
    *rec = (struct sq_record)SQ_RECORD_INIT;
}

/* "tensor 'x'", "layer 3", "the model record" */
static void describe(struct sq_stream *s, const char *record, const json_t *head)
{
    const char *name = json_string_value(json_object_get(head, "name"));
    const json_t *index = json_object_get(head, "index");
    if (name)
        snprintf(s->where, sizeof s->where, "%.32s '%.200s'", record, name);
    else if (json_is_integer(index))
        snprintf(s->where, sizeof s->where, "%.32s %" JSON_INTEGER_FORMAT, record, json_integer_value(index));
    else
        snprintf(s->where, sizeof s->where, "the %.32s record", record);
}

/* Ends of input and failures of the system have said all; other errors get file and place. */
static int place(struct sq_stream *s, int rc)
{
    char label[WIRE_WHERE];
    if (rc >= 0 || rc == SQ_E_TRUNC || rc == SQ_E_ABORTED || rc == SQ_E_IO || rc == SQ_E_PEER)
        return wire_stick(s, rc);
    const char *in = wire_label(s, label);
    if (s->in_payload)
        return wire_stick(s, sq_fail_in(rc, "%s%s", in, s->where));
    return wire_stick(s, sq_fail_in(rc, "%srecord %" PRId64, in, s->records + 1));
}

static int aborted(struct sq_stream *s, const json_t *head)
{
    const char *text = json_string_value(json_object_get(head, "text"));
    const json_t *prov = json_object_get(s->begin, "provenance");
    const json_t *last = json_array_get(prov, json_array_size(prov) - 1);
    const char *prog = json_string_value(json_object_get(last, "prog"));
    char label[WIRE_WHERE];
    return sq_fail(SQ_E_ABORTED, "%s%s failed: %s", wire_label(s, label), prog ? prog : "upstream",
                   text ? text : "no reason given");
}

/* ---- records ---- */

/* The digest covers the bytes in front of the end record and then the text of its in_digest, so that no bit
 * of the stream is without a check. */
static int check_end(struct sq_stream *s, json_t *head)
{
    int64_t records, size;
    const char *digest, *in_digest = "";
    char text[SQ_HASH_TEXT];
    int rc;

    SQ_TRY(sq_json_int(&records, head, "records", 0, INT64_MAX));
    SQ_TRY(sq_json_int(&size, head, "size", 0, INT64_MAX));
    SQ_TRY(sq_json_str(&digest, head, "xxh3"));
    if (json_object_get(head, "in_digest"))
        SQ_TRY(sq_json_str(&in_digest, head, "in_digest"));
    sq_hash_add(&s->before, in_digest, strlen(in_digest));
    sq_hash_text(text, sq_hash_value(&s->before));
    if (records != s->records)
        return sq_fail(SQ_E_FORMAT, "the end record counts %" PRId64 " records, there were %" PRId64, records,
                       s->records);
    if (size != s->bytes_at)
        return sq_fail(SQ_E_FORMAT, "the end record counts %" PRId64 " bytes, there were %" PRId64, size,
                       s->bytes_at);
    if (strcmp(digest, text) != 0)
        return sq_fail(SQ_E_FORMAT, "the digest of the stream is %s, the end record says %.32s", text,
                       digest);
    SQ_TRY(wire_at_end(s));
    memcpy(s->digest, text, sizeof text);
    if (s->peer)
        memcpy(s->peer->in_digest, text, sizeof text);
    s->end = json_incref(head);
    s->ended = true;
out:
    return rc;
}

static int read_header(struct sq_stream *s, struct sq_record *rec)
{
    const char *name;
    int rc;

    s->bytes_at = s->bytes;
    wire_header_starts(s);
    SQ_TRY(wire_decode(s, &rec->head));
    SQ_TRY(sq_json_str(&name, rec->head, "record"));
    rec->kind = kind_of(name);
    rec->bytes = 0;
    if (rec->kind == SQ_REC_ABORT)
        return aborted(s, rec->head);
    if (rec->kind == SQ_REC_END)
        return check_end(s, rec->head);
    if (strcmp(name, "chunk") == 0)
        return sq_fail(SQ_E_FORMAT, "a chunk that no record announced");
    SQ_TRY(sq_json_int_opt(&rec->bytes, rec->head, "bytes", 0, INT64_MAX / 2));
    describe(s, name, rec->head);
    s->left = rec->bytes;
    s->in_payload = rec->bytes > 0;
    s->records++;
    rc = 1;
out:
    return rc;
}

int wire_read_begin(struct sq_stream *s)
{
    struct sq_record rec = SQ_RECORD_INIT;
    const char *magic;
    const json_t *version;
    int rc;

    SQ_TRY(read_header(s, &rec));
    if (rec.kind != SQ_REC_BEGIN || sq_json_str(&magic, rec.head, "magic") < 0 || strcmp(magic, "sq") != 0 ||
        rec.bytes) {
        rc = sq_fail(SQ_E_FORMAT, "not an sq stream: it does not start with a begin record");
        goto out;
    }
    version = json_object_get(rec.head, "version");
    if (json_array_size(version) != 2 || !json_is_integer(json_array_get(version, 0)) ||
        !json_is_integer(json_array_get(version, 1))) {
        rc = sq_fail(SQ_E_FORMAT, "'version' is not [major, minor]");
        goto out;
    }
    if (json_integer_value(json_array_get(version, 0)) != WIRE_MAJOR) {
        rc =
            sq_fail(SQ_E_UNSUP, "a stream of version %" JSON_INTEGER_FORMAT ", this program reads version %d",
                    json_integer_value(json_array_get(version, 0)), WIRE_MAJOR);
        goto out;
    }
    s->begin = json_incref(rec.head);
    rc = 0;
out:
    sq_record_release(&rec);
    return place(s, rc);
}

/* ---- payload ---- */

/* The members of a chunk record up to its data, which are read next. */
static int open_chunk(struct sq_stream *s)
{
    uint32_t n = 0;
    int rc;

    wire_header_starts(s);
    json_decref(s->chunk_head);
    s->chunk_head = json_object();
    SQ_TRY(wire_decode_map(s, &s->pairs));
    for (rc = 0; rc == 0 && s->pairs; s->pairs--)
        SQ_TRY(wire_decode_member(s, s->chunk_head, &n));
    if (rc == 0) {
        const char *record = json_string_value(json_object_get(s->chunk_head, "record"));
        if (record && strcmp(record, "abort") == 0)
            return aborted(s, s->chunk_head);
        return sq_fail(SQ_E_FORMAT, "the next chunk is missing, %" PRId64 " bytes are left", s->left);
    }
    if (n == 0 || n > SQ_CHUNK || (int64_t)n > s->left)
        return sq_fail(SQ_E_FORMAT, "a chunk of %u bytes where %" PRId64 " are left", n, s->left);
    s->chunk = n;
    sq_hash_reset(&s->part);
    rc = 0;
out:
    return rc;
}

static int close_chunk(struct sq_stream *s)
{
    const char *record, *digest;
    char text[SQ_HASH_TEXT];
    uint32_t n;
    int rc;

    for (; s->pairs; s->pairs--) {
        SQ_TRY(wire_decode_member(s, s->chunk_head, &n));
        if (rc)
            return sq_fail(SQ_E_FORMAT, "a chunk has 'data' twice");
    }
    SQ_TRY(sq_json_str(&record, s->chunk_head, "record"));
    SQ_TRY(sq_json_str(&digest, s->chunk_head, "xxh3"));
    sq_hash_text(text, sq_hash_value(&s->part));
    if (strcmp(record, "chunk") != 0)
        return sq_fail(SQ_E_FORMAT, "a %.32s record where a chunk belongs", record);
    if (strcmp(digest, text) != 0)
        return sq_fail(SQ_E_FORMAT, "the digest of a chunk is %s, its record says %.32s", text, digest);
out:
    return rc;
}

static int read_payload(struct sq_stream *s, void *dst, size_t n)
{
    char *to = dst;
    int rc = 0;

    while (n) {
        if (s->chunk == 0)
            SQ_TRY(open_chunk(s));
        const size_t k = SQ_MIN(SQ_MIN(n, (size_t)s->chunk), (size_t)WIRE_SLICE);
        SQ_TRY(wire_take(s, to, k));
        sq_hash_add(&s->part, to, k);
        to += k;
        n -= k;
        s->chunk -= (int64_t)k;
        s->left -= (int64_t)k;
        if (s->chunk == 0)
            SQ_TRY(close_chunk(s));
    }
    if (s->left == 0)
        s->in_payload = false;
out:
    return rc;
}

int sq_stream_payload(struct sq_stream *in, void *dst, size_t n)
{
    int rc = wire_failed(in);
    if (rc < 0)
        return rc;
    if (n > (size_t)in->left)
        return wire_stick(in,
                          sq_fail(SQ_E_ARG, "%zu payload bytes of %s were asked for, %" PRId64 " are left", n,
                                  in->where, in->left));
    rc = read_payload(in, dst, n);
    return rc < 0 ? place(in, rc) : 0;
}

static int need_scratch(struct sq_stream *s)
{
    return s->scratch ? 0 : sq_alloc(&s->scratch, WIRE_SLICE);
}

int sq_stream_hash(struct sq_hash *h, struct sq_stream *in)
{
    int rc = need_scratch(in);
    while (rc == 0 && in->left > 0) {
        const size_t n = (size_t)SQ_MIN(in->left, (int64_t)WIRE_SLICE);
        rc = sq_stream_payload(in, in->scratch, n);
        if (rc == 0)
            sq_hash_add(h, in->scratch, n);
    }
    return rc;
}

int sq_stream_next(struct sq_stream *in, struct sq_record *rec)
{
    int rc;

    sq_record_release(rec);
    SQ_TRY(wire_failed(in));
    if (in->ended)
        return 0;
    if (in->left)
        SQ_TRY(wire_stick(in, need_scratch(in)));
    while (in->left)
        SQ_TRY(place(in, read_payload(in, in->scratch, (size_t)SQ_MIN(in->left, (int64_t)WIRE_SLICE))));
    rc = read_header(in, rec);
    if (rc > 0 && rec->kind == SQ_REC_BEGIN)
        rc = sq_fail(SQ_E_FORMAT, "a second begin record");
    if (rc <= 0)
        sq_record_release(rec);
    return rc < 0 ? place(in, rc) : rc;
out:
    return rc;
}

/* ---- tensors ---- */

int sq_record_tensor(struct sq_tensor *t, const struct sq_record *rec)
{
    const char *name, *dtype_name;
    enum sq_dtype dtype;
    int64_t dim[SQ_MAX_DIMS];
    json_t *shape;
    int rc;

    if (rec->kind != SQ_REC_TENSOR)
        return sq_fail(SQ_E_FORMAT, "a %s record where a tensor belongs",
                       sq_kind_name(rec->kind) ? sq_kind_name(rec->kind) : "strange");
    SQ_TRY(sq_json_str(&name, rec->head, "name"));
    SQ_TRY(sq_json_str(&dtype_name, rec->head, "dtype"));
    SQ_TRY(sq_json_array(&shape, rec->head, "shape"));
    SQ_TRY(sq_dtype_parse(&dtype, dtype_name));
    if (json_array_size(shape) > SQ_MAX_DIMS)
        return sq_fail(SQ_E_FORMAT, "tensor '%.191s' has %zu dimensions, more than %d", name,
                       json_array_size(shape), SQ_MAX_DIMS);
    for (size_t i = 0; i < json_array_size(shape); i++) {
        if (!json_is_integer(json_array_get(shape, i)))
            return sq_fail(SQ_E_FORMAT, "tensor '%.191s': 'shape' holds something that is no integer", name);
        dim[i] = json_integer_value(json_array_get(shape, i));
    }
    SQ_TRY(sq_tensor_shape(t, name, dtype, (int)json_array_size(shape), dim));
    if ((int64_t)sq_tensor_bytes(t) != rec->bytes) {
        rc = sq_fail(SQ_E_FORMAT, "tensor '%s' has %" PRId64 " bytes, its shape and dtype need %zu", t->name,
                     rec->bytes, sq_tensor_bytes(t));
        sq_tensor_release(t);
    }
out:
    return rc;
}

/* A header of 60 bytes may announce terabytes: a file cannot bring more than it has, a pipe no more than fits
 * here. */
static int check_fits(const struct sq_stream *in, const struct sq_tensor *t)
{
    const int64_t bytes = (int64_t)sq_tensor_bytes(t);
    const int64_t memory = (int64_t)sysconf(_SC_PHYS_PAGES) * (int64_t)sysconf(_SC_PAGESIZE);
    if (in->size >= 0 && bytes > in->size)
        return sq_fail(SQ_E_TRUNC, "tensor '%s' has %" PRId64 " bytes, its whole file only %" PRId64, t->name,
                       bytes, in->size);
    if (bytes > memory)
        return sq_fail(SQ_E_NOMEM, "tensor '%s' has %" PRId64 " bytes, this machine %" PRId64, t->name, bytes,
                       memory);
    return 0;
}

int sq_stream_tensor(struct sq_stream *in, const struct sq_record *rec, struct sq_tensor *t)
{
    struct sq_tensor shape = SQ_TENSOR_INIT;
    int rc;

    SQ_TRY(wire_failed(in));
    SQ_TRY(sq_record_tensor(&shape, rec));
    SQ_TRY(check_fits(in, &shape));
    if (in->left != rec->bytes)
        SQ_TRY(sq_fail(SQ_E_ARG, "tensor '%s' was read before", shape.name));
    SQ_TRY(sq_tensor_new(t, shape.name, shape.dtype, shape.ndim, shape.dim));
    SQ_TRY(read_payload(in, t->owned, sq_tensor_bytes(t)));
    return 0;
out:
    return place(in, rc);
}

int sq_stream_copy(struct sq_stream *out, struct sq_stream *in, const struct sq_record *rec)
{
    int rc;

    SQ_TRY(wire_stick(in, need_scratch(in)));
    SQ_TRY(sq_stream_put_head(out, rec->head, in->left));
    while (in->left) {
        const size_t n = (size_t)SQ_MIN(in->left, (int64_t)WIRE_SLICE);
        SQ_TRY(sq_stream_payload(in, in->scratch, n));
        SQ_TRY(sq_stream_put_data(out, in->scratch, n));
    }
out:
    return rc;
}
