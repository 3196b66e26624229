#include "workers.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "sq/json.h"

struct worker {
    const char *from; /* endpoints, as given */
    char *to;
    struct sq_stream *out, *in;
};

struct sq_workers {
    struct worker *w;
    int64_t n;
    struct greeting mine;
};

/* ---- meeting ---- */

static int about(int rc, const struct sq_workers *w, int64_t i)
{
    return sq_fail_in(rc, "worker %" PRId64 " of %" PRId64, i + 1, w->n);
}

static int lost(int rc, const struct sq_workers *w, int64_t i)
{
    return about(share_why(rc, w->w[i].in), w, i);
}

/* "TO,FROM" */
static int split(struct worker *w, const char *text)
{
    const char *comma = strchr(text, ',');
    if (!comma || comma == text || !comma[1] || strchr(comma + 1, ','))
        return sq_fail(SQ_E_ARG, "--workers takes two endpoints with a comma between them, TO,FROM, not '%s'", text);
    const int rc = sq_strdup(&w->to, text);
    if (rc < 0)
        return rc;
    w->to[comma - text] = 0;
    w->from = w->to + (comma - text) + 1;
    if (strcmp(w->to, "-") == 0 || strcmp(w->from, "-") == 0)
        return sq_fail(SQ_E_ARG, "--workers %s: standard input and output are the model's", text);
    return 0;
}

/* Two runs whose endpoints were mixed up must not learn from each other's gradients. */
static void name_run(char text[SQ_HASH_TEXT])
{
    struct {
        struct timespec now;
        int64_t pid;
    } key = {.pid = getpid()};
    clock_gettime(CLOCK_REALTIME, &key.now);
    sq_hash_text(text, sq_hash_of(&key, sizeof key));
}

static int compare(const struct greeting *g, const struct sq_workers *w, int64_t i)
{
    if (strcmp(g->run, w->mine.run) != 0 || g->number != i + 1 || g->of != w->n)
        return sq_fail(SQ_E_ARG, "'%s' answers as worker %" PRId64 " of %" PRId64 " of %s run: endpoints were mixed up",
                       w->w[i].from, g->number, g->of, strcmp(g->run, w->mine.run) ? "another" : "this");
    if (strcmp(g->machine, w->mine.machine) != 0)
        return sq_fail(SQ_E_ARG, "'%s' computes with '%s', this process with '%s', which is not the same bits; use the same "
                       "version, --backend, --precision and SQ_ISA", w->w[i].from, g->machine, w->mine.machine);
    return 0;
}

static int meet(struct sq_workers *w, const struct sq_app *app)
{
    struct greeting g;
    int64_t i = 0;
    int rc = 0;
    for (i = 0; i < w->n; i++) {
        w->mine.number = i + 1;
        SQ_TRY(sq_stream_open(&w->w[i].out, w->w[i].to, SQ_WRITE));
        SQ_TRY(sq_stream_begin(w->w[i].out, NULL, app));
        SQ_TRY(greeting_put(w->w[i].out, &w->mine));
    }
    for (i = 0; i < w->n; i++) {
        SQ_TRY(sq_stream_open(&w->w[i].in, w->w[i].from, SQ_READ));
        SQ_TRY(greeting_next(&g, w->w[i].in));
        SQ_TRY(compare(&g, w, i));
    }
    return 0;
out:
    return about(rc, w, i);
}

int workers_open(struct sq_workers **out, const struct sq_plan *p, const struct sq_app *app)
{
    struct sq_workers *w = NULL;
    int rc;
    *out = NULL;
    if (!p->workers.n)
        return 0;
    share_ignore_sigpipe();
    SQ_TRY(sq_alloc(&w, 1));
    SQ_TRY(sq_alloc(&w->w, p->workers.n));
    w->n = w->mine.of = p->workers.n;
    for (int64_t i = 0; i < w->n; i++)
        SQ_TRY(split(&w->w[i], p->workers.v[i]));
    name_run(w->mine.run);
    SQ_TRY(greeting_machine(&w->mine, app));
    SQ_TRY(meet(w, app));
out:
    if (rc < 0)
        workers_abort(&w, rc);
    *out = w;
    return rc;
}

void workers_abort(struct sq_workers **out, int rc)
{
    struct sq_workers *w = *out;
    if (!w)
        return;
    for (int64_t i = 0; w->w && i < w->n; i++) {
        sq_stream_abort(&w->w[i].out, rc);
        sq_stream_abort(&w->w[i].in, rc);
        sq_free(w->w[i].to);
    }
    sq_free(w->w);
    sq_free(w);
    *out = NULL;
}

int workers_finish(struct sq_workers **out)
{
    struct sq_workers *w = *out;
    struct sq_record rec = SQ_RECORD_INIT;
    int64_t i = 0;
    int rc = 0;
    for (i = 0; w && i < w->n; i++) {
        SQ_TRY(sq_stream_finish(&w->w[i].out));
        SQ_TRY(sq_stream_next(w->w[i].in, &rec));
        if (rc > 0)
            SQ_TRY(sq_fail(SQ_E_FORMAT, "'%s' goes on behind the last window", w->w[i].from));
        SQ_TRY(sq_stream_finish(&w->w[i].in));
    }
    workers_abort(out, 0);
out:
    sq_record_release(&rec);
    return rc < 0 ? about(rc, w, i) : 0;
}

/* ---- a window ---- */

static json_t *share_head(const struct sq_window_job *job, const struct acts *a, const struct sq_config *cfg, int64_t first)
{
    json_t *config = NULL, *scheme = NULL, *learn = json_array();
    if (sq_config_to_json(&config, cfg) < 0 || sq_scheme_to_json(&scheme, &job->scheme) < 0) {
        json_decref(config);
        json_decref(learn);
        return NULL;
    }
    for (int i = 0; i < SQ_P_KINDS; i++)
        if (job->lr[i] > 0.0)
            json_array_append_new(learn, json_string(share_kind[i]));
    const int64_t part = (job->batch + job->shards - 1) / job->shards;
    return json_pack("{s:s, s:I, s:I, s:o, s:o, s:I, s:I, s:I, s:b, s:o}", "record", "share", "first", (json_int_t)first,
                     "last", (json_int_t)(first + job->n - 1), "scheme", scheme, "learn", learn, "samples",
                     (json_int_t)job->epoch, "length", (json_int_t)a->tokens, "part", (json_int_t)part, "recompute",
                     (int)job->recompute, "config", config);
}

static int put_array(struct sq_stream *out, const char *name, enum sq_dtype dtype, const void *data, int64_t samples,
                     int64_t tokens, int64_t hidden)
{
    struct sq_tensor t = SQ_TENSOR_INIT;
    const int64_t dim[3] = {samples, tokens, hidden};
    const int rc = sq_tensor_shape(&t, name, dtype, hidden ? 3 : 2, dim);
    t.data = data;
    return rc < 0 ? rc : sq_stream_put_tensor(out, &t, NULL, -1);
}

/* All samples that are learned from: their order is shuffled, so in the end every worker needs nearly all of them. */
static int put_share(struct sq_stream *out, const struct sq_window_job *job, const struct acts *a,
                     const struct sq_config *cfg, struct sq_layer *const *layers)
{
    json_t *head = share_head(job, a, cfg, layers[0]->index);
    int rc = head ? sq_stream_put(out, head, NULL, 0) : sq_fail(SQ_E_NOMEM, "no memory for a share record");
    json_decref(head);
    for (int64_t k = 0; rc == 0 && k < job->n; k++)
        rc = sq_layer_write(out, layers[k]);
    if (rc == 0)
        rc = put_array(out, "xq", job->xq.type, job->xq.x, job->epoch, a->tokens, a->hidden);
    if (rc == 0)
        rc = put_array(out, "target", job->target.type, job->target.x, job->epoch, a->tokens, a->hidden);
    return rc < 0 ? rc : put_array(out, "weight", SQ_F64, job->weight, job->epoch, a->tokens, 0);
}

int workers_begin(struct sq_workers *w, const struct sq_window_job *job, const struct acts *a, const struct sq_config *cfg,
                  struct sq_layer *const *layers)
{
    for (int64_t i = 0; i < w->n; i++) {
        const int rc = put_share(w->w[i].out, job, a, cfg, layers);
        if (rc < 0)
            return lost(rc, w, i);
    }
    return 0;
}

/* ---- a step ---- */

/* With more parts than workers this process takes some itself, the first ones, so that its own computing is done when it
 * begins to collect. */
static bool joins(const struct sq_workers *w, int64_t shards)
{
    return shards > w->n;
}

static struct shard parts_of(const struct sq_workers *w, int64_t shards, int64_t i)
{
    const bool own = joins(w, shards);
    return shard_of(shards, w->n + own, i + own);
}

int64_t workers_leave(const struct sq_workers *w, int64_t shards)
{
    return parts_of(w, shards, 0).first;
}

/* The picks of each of a worker's parts; NULL without memory. */
static json_t *picks_of(const struct shard *mine, int64_t shards, const int64_t *pick, int64_t n, bool *any)
{
    json_t *all = json_array();
    int failed = 0;
    for (int64_t i = mine->first; i < mine->first + mine->n; i++) {
        const struct shard s = shard_of(n, shards, i);
        json_t *part = json_array();
        for (int64_t k = 0; k < s.n; k++)
            failed |= json_array_append_new(part, json_integer(pick[s.first + k]));
        failed |= json_array_append_new(all, part);
        *any |= s.n > 0;
    }
    if (!failed)
        return all;
    json_decref(all);
    return NULL;
}

int workers_send(struct sq_workers *w, const struct sq_window_job *job, const struct sq_ops *ops, int64_t step,
                 const int64_t *pick, int64_t n)
{
    for (int64_t k = 0; k < job->n; k++)
        sq_params_project(job->member[k].p, ops);
    for (int64_t i = 0; i < w->n; i++) {
        const struct shard mine = parts_of(w, job->shards, i);
        bool any = false;
        json_t *picks = picks_of(&mine, job->shards, pick, n, &any);
        json_t *head = json_pack("{s:s, s:I, s:I, s:I, s:o}", "record", "step", "step", (json_int_t)step, "batch",
                                 (json_int_t)n, "part", (json_int_t)mine.first, "picks", picks);
        if (!any) {
            json_decref(head);
            continue;
        }
        const int rc = share_put(w->w[i].out, head, job, false);
        if (rc < 0)
            return lost(rc, w, i);
    }
    return 0;
}

static int take_gradient(double *loss, struct sq_stream *in, struct sq_record *rec, const struct sq_window_job *job,
                         int64_t step, int64_t part)
{
    int64_t its_step, its_part;
    int rc;
    *loss = NAN;
    SQ_TRY(share_next(rec, in, "gradient"));
    SQ_TRY(sq_json_int(&its_step, rec->head, "step", 0, INT64_MAX));
    SQ_TRY(sq_json_int(&its_part, rec->head, "part", 0, INT64_MAX));
    if (its_step != step || its_part != part)
        SQ_TRY(sq_fail(SQ_E_FORMAT, "the gradient of part %" PRId64 " of step %" PRId64 " where that of part %" PRId64
                       " of step %" PRId64 " should come", its_part, its_step, part, step));
    if (!json_object_get(rec->head, "loss")) /* not finite */
        return 0;
    SQ_TRY(sq_json_real(loss, rec->head, "loss"));
    if (*loss < 0.0)
        SQ_TRY(sq_fail(SQ_E_VALUE, "a loss of %g", *loss));
    rc = share_get(in, rec, job, true);
    if (rc < 0)
        sq_fail_in(rc, "the gradient of part %" PRId64 " of step %" PRId64, part, step);
out:
    return rc;
}

int workers_receive(double *loss, struct sq_workers *w, const struct sq_window_job *job, int64_t step, int64_t part)
{
    struct sq_record rec = SQ_RECORD_INIT;
    int64_t i = 0;
    while (part >= parts_of(w, job->shards, i).first + parts_of(w, job->shards, i).n)
        i++;
    const int rc = take_gradient(loss, w->w[i].in, &rec, job, step, part);
    sq_record_release(&rec);
    return rc < 0 ? about(rc, w, i) : 0;
}
