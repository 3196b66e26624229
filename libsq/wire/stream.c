/* What readers and writers share: opening, sticky errors, finishing. */
#include <stdio.h>
#include <string.h>

#include "wire.h"

int wire_stick(struct sq_stream *s, int rc)
{
    if (rc < 0 && s->code == 0) {
        s->code = rc;
        snprintf(s->text, sizeof s->text, "%s", sq_errmsg());
    }
    return rc;
}

int wire_failed(const struct sq_stream *s)
{
    return s->code ? sq_fail(s->code, "%s", s->text) : 0;
}

const char *wire_label(const struct sq_stream *s, char buf[WIRE_WHERE])
{
    if (!s->path)
        return "";
    snprintf(buf, WIRE_WHERE, "'%.200s': ", s->path);
    return buf;
}

static void release(struct sq_stream **s)
{
    struct sq_stream *x = *s;
    if (x->peer)
        x->peer->peer = NULL;
    json_decref(x->begin);
    json_decref(x->end);
    json_decref(x->chunk_head);
    wire_text_release(&x->head);
    sq_free(x->scratch);
    sq_free(x->buf);
    sq_hash_release(&x->before);
    sq_hash_release(&x->part);
    sq_hash_release(&x->sum);
    sq_free(x);
    *s = NULL;
}

int sq_stream_open(struct sq_stream **out, const char *spec, enum sq_dir dir)
{
    struct sq_stream *s = NULL;
    int rc;

    *out = NULL;
    if ((rc = sq_alloc(&s, 1)) < 0)
        return rc;
    s->dir = dir;
    s->fd = -1;
    s->size = -1;
    SQ_TRY(sq_hash_init(&s->sum));
    SQ_TRY(sq_hash_init(&s->part));
    SQ_TRY(sq_hash_init(&s->before));
    SQ_TRY(sq_alloc(&s->buf, WIRE_BUF));
    SQ_TRY(wire_open(s, spec));
    if (dir == SQ_READ)
        SQ_TRY(wire_read_begin(s));
    *out = s;
    return 0;
out:
    (void)wire_close(s, false);
    release(&s);
    return rc;
}

const json_t *sq_stream_header(const struct sq_stream *in)
{
    return in->begin;
}

const json_t *sq_stream_trailer(const struct sq_stream *in)
{
    return in->end;
}

int64_t sq_stream_bytes(const struct sq_stream *s)
{
    return s->bytes;
}

int sq_stream_finish(struct sq_stream **s)
{
    struct sq_stream *x = *s;
    int rc;

    SQ_TRY(wire_failed(x));
    if (x->dir == SQ_READ && !x->ended)
        SQ_TRY(sq_fail(SQ_E_ARG, "the input was not read to its end"));
    if (x->dir == SQ_WRITE)
        SQ_TRY(wire_write_end(x));
    rc = wire_close(x, true);
    release(s);
    return rc;
out:
    sq_stream_abort(s, rc);
    return rc;
}

void sq_stream_abort(struct sq_stream **s, int code)
{
    char text[sizeof (*s)->text];

    if (!*s)
        return;
    snprintf(text, sizeof text, "%s", code < 0 ? sq_errmsg() : "stopped before the end");
    if ((*s)->dir == SQ_WRITE && !(*s)->temp.path[0])
        wire_write_abort(*s, code, text);
    (void)wire_close(*s, false);
    release(s);
    if (code < 0)
        (void)sq_fail(code, "%s", text); /* closing must not change what main() will say */
}
