#include "share.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "made.h"
#include "sq/json.h"

const char *const share_kind[SQ_P_KINDS] = {[SQ_P_ALPHA] = "alpha", [SQ_P_LORA] = "lora", [SQ_P_CLIP] = "clip"};

void share_ignore_sigpipe(void)
{
    signal(SIGPIPE, SIG_IGN);
}

bool share_is(const struct sq_record *rec, const char *name)
{
    const char *record = json_string_value(json_object_get(rec->head, "record"));
    return record && strcmp(record, name) == 0;
}

/* A peer that ends early closes its input before anybody reads what it said last. */
int share_why(int rc, struct sq_stream *in)
{
    enum { UNREAD = 1024 }; /* records that it may have sent before */
    struct sq_record rec = SQ_RECORD_INIT;
    char text[512];
    int why = rc == SQ_E_PEER;
    snprintf(text, sizeof text, "%s", sq_errmsg());
    for (int i = 0; why > 0 && i < UNREAD; i++)
        why = sq_stream_next(in, &rec);
    sq_record_release(&rec);
    return why == SQ_E_ABORTED ? why : sq_fail((enum sq_err)rc, "%s", text);
}

int share_next(struct sq_record *rec, struct sq_stream *in, const char *name)
{
    const int rc = sq_stream_next(in, rec);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return sq_fail(SQ_E_TRUNC, "the stream ended where a %s record should come", name);
    if (!share_is(rec, name))
        return sq_fail(SQ_E_FORMAT, "a %.32s record where a %s record should come",
                       json_string_value(json_object_get(rec->head, "record")), name);
    return 0;
}

static int put(struct sq_stream *out, json_t *head, size_t bytes)
{
    const int rc = head ? sq_stream_put_head(out, head, (int64_t)bytes) : sq_fail(SQ_E_NOMEM, "no memory for a header");
    json_decref(head);
    return rc;
}

/* ---- greetings ---- */

int greeting_machine(struct greeting *g, const struct sq_app *app)
{
    const struct sq_ops *ops;
    char backend[128];
    const int rc = sq_ops_of(&ops, app, (enum sq_precision)app->precision);
    if (rc == 0)
        snprintf(g->machine, sizeof g->machine, "sq %s, %s", SQ_VERSION, made_backend(backend, sizeof backend, ops));
    return rc;
}

int greeting_put(struct sq_stream *out, const struct greeting *g)
{
    return put(out, json_pack("{s:s, s:I, s:I, s:s, s:s}", "record", "worker", "number", (json_int_t)g->number, "of",
                              (json_int_t)g->of, "run", g->run, "machine", g->machine), 0);
}

int greeting_next(struct greeting *g, struct sq_stream *in)
{
    struct sq_record rec = SQ_RECORD_INIT;
    const char *run, *machine;
    int rc;
    SQ_TRY(share_next(&rec, in, "worker"));
    SQ_TRY(sq_json_int(&g->of, rec.head, "of", 1, 1 << 16));
    SQ_TRY(sq_json_int(&g->number, rec.head, "number", 1, g->of));
    SQ_TRY(sq_json_str(&run, rec.head, "run"));
    SQ_TRY(sq_json_str(&machine, rec.head, "machine"));
    snprintf(g->run, sizeof g->run, "%s", run);
    snprintf(g->machine, sizeof g->machine, "%s", machine);
out:
    sq_record_release(&rec);
    return rc;
}

/* ---- parameters and gradients ---- */

/* Arrays of parameters on a device pass through the host's memory. */
static const struct sq_ops *home_of(const struct sq_window_job *job)
{
    return job->member[0].p->home;
}

static int64_t longest(const struct sq_window_job *job)
{
    struct learned at = {0};
    int64_t n = 0;
    for (const struct sq_param *q; (q = learned_next(&at, job));)
        n = SQ_MAX(n, q->n);
    return n;
}

int share_put(struct sq_stream *out, json_t *head, const struct sq_window_job *job, bool gradients)
{
    const struct sq_ops *home = home_of(job);
    struct learned at = {0};
    float *host = NULL;
    int rc;
    SQ_TRY(put(out, head, (size_t)learned_floats(job) * sizeof(float)));
    SQ_TRY(sq_alloc(&host, home ? longest(job) : 0));
    for (const struct sq_param *q; (q = learned_next(&at, job));) {
        const float *x = gradients ? q->grad : q->x;
        if (home)
            SQ_TRY(home->get(host, x, (size_t)q->n * sizeof *x));
        SQ_TRY(sq_stream_put_data(out, home ? host : x, (size_t)q->n * sizeof *x));
    }
out:
    sq_free(host);
    return rc;
}

static bool is_finite(const float *x, int64_t n)
{
    bool finite = true;
    for (int64_t i = 0; i < n; i++)
        finite &= isfinite(x[i]) != 0;
    return finite;
}

int share_get(struct sq_stream *in, const struct sq_record *rec, const struct sq_window_job *job, bool gradients)
{
    const int64_t bytes = learned_floats(job) * (int64_t)sizeof(float);
    const struct sq_ops *home = home_of(job);
    const struct sq_param *bad = NULL;
    struct learned at = {0};
    float *host = NULL;
    int rc = 0;
    if (rec->bytes != bytes)
        return sq_fail(SQ_E_FORMAT, "%" PRId64 " bytes, not the %" PRId64 " of what is learned", rec->bytes, bytes);
    SQ_TRY(sq_alloc(&host, home ? longest(job) : 0));
    for (const struct sq_param *q; (q = learned_next(&at, job));) {
        float *const x = gradients ? q->grad : q->x, *const to = home ? host : x;
        SQ_TRY(sq_stream_payload(in, to, (size_t)q->n * sizeof *to));
        if (!bad && !is_finite(to, q->n))
            bad = q;
        if (!home)
            continue;
        home->put(x, host, (size_t)q->n * sizeof *x);
        SQ_TRY(home->wait());
    }
    if (bad)
        rc = sq_fail(SQ_E_VALUE, "'%s' has a NaN or Inf in it", bad->name);
out:
    sq_free(host);
    return rc;
}
