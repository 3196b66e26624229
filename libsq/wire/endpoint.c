/* Which transport carries a stream, and what is the same for all of them. */
#include <string.h>

#include "sq/work.h"
#include "wire.h"

/* the first that takes the name; descriptors and paths take every one */
static const struct wire_transport *const transports[] = {&wire_zmq, &wire_fd};

static const struct wire_transport *transport_of(const char *spec)
{
    int i = 0;
    while (!transports[i]->takes(spec))
        i++;
    return transports[i];
}

bool sq_stream_is_path(const char *spec)
{
    return transport_of(spec) == &wire_fd && strcmp(spec, "-") != 0 && strncmp(spec, "fd:", 3) != 0;
}

int wire_open(struct sq_stream *s, const char *spec)
{
    if (!*spec)
        return sq_fail(SQ_E_ARG, "an endpoint is -, a path, fd:N, ipc://PATH or tcp://HOST:PORT, not an empty name");
    s->transport = transport_of(spec);
    const enum sq_work before = sq_work_begin(SQ_WORK_STREAM);
    const int rc = s->transport->open(s, spec);
    (void)sq_work_begin(before);
    return rc;
}

int wire_close(struct sq_stream *s, bool ok)
{
    const enum sq_work before = sq_work_begin(SQ_WORK_STREAM);
    const int rc = s->transport ? s->transport->close(s, ok) : 0;
    (void)sq_work_begin(before);
    sq_free(s->path);
    s->path = NULL;
    return rc;
}

int64_t wire_read(struct sq_stream *s, void *dst, size_t n)
{
    const enum sq_work before = sq_work_begin(SQ_WORK_STREAM);
    const int64_t got = s->transport->read(s, dst, n);
    (void)sq_work_begin(before);
    return got;
}

int wire_write(struct sq_stream *s, const void *a, size_t na, const void *b, size_t nb)
{
    const enum sq_work before = sq_work_begin(SQ_WORK_STREAM);
    const int rc = s->transport->write(s, a, na, b, nb);
    (void)sq_work_begin(before);
    return rc;
}

int wire_bytes_follow(void)
{
    return sq_fail(SQ_E_FORMAT, "bytes follow the end record");
}

int wire_at_end(struct sq_stream *s)
{
    return s->pos < s->len ? wire_bytes_follow() : s->transport->at_end(s);
}
