/* The other side of workers.c: windows come in, and steps with parameters; gradients of parts of batches go out. Nothing is
 * kept from one window to the next. */
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "made.h"
#include "share.h"
#include "sq/engine.h"
#include "sq/json.h"
#include "sq/stop.h"

struct share {
    struct sq_config cfg;
    struct sq_layer *layer;   /* [job.n], and so the next three */
    struct sq_block *w;
    struct sq_params *p;
    struct sq_member *member;
    struct acts acts;         /* xf is the target */
    double *weight;
    struct sq_trainer *trainer;
    struct sq_window_job job; /* batch: of the largest part */
    int64_t first, *pick;     /* [job.batch] */
};

static void share_release(struct share *s)
{
    sq_trainer_free(&s->trainer);
    for (int64_t k = 0; k < s->job.n; k++) {
        if (s->p)
            sq_params_release(&s->p[k]);
        if (s->w)
            sq_block_release(&s->w[k]);
        if (s->layer)
            sq_layer_release(&s->layer[k]);
    }
    acts_release(&s->acts);
    void *const part[] = {s->layer, s->w, s->p, s->member, s->weight, s->pick};
    for (int i = 0; i < SQ_COUNT(part); i++)
        sq_free(part[i]);
}

/* ---- a window ---- */

static int read_learn(double lr[SQ_P_KINDS], const json_t *learn)
{
    for (size_t i = 0; i < json_array_size(learn); i++) {
        const char *name = json_string_value(json_array_get(learn, i));
        int kind = 0;
        while (kind < SQ_P_KINDS && (!name || strcmp(name, share_kind[kind]) != 0))
            kind++;
        if (kind == SQ_P_KINDS)
            return sq_fail(SQ_E_FORMAT, "'learn' is a list of alpha, lora and clip");
        lr[kind] = 1.0; /* that it is learned is all that matters here */
    }
    return 0;
}

static int read_head(struct share *s, const json_t *head)
{
    json_t *config, *scheme, *learn;
    int64_t last;
    size_t all;
    int rc;
    SQ_TRY(sq_json_object(&config, head, "config"));
    SQ_TRY(sq_config_from_json(&s->cfg, config));
    SQ_TRY(sq_json_int(&s->first, head, "first", 0, s->cfg.layers - 1));
    SQ_TRY(sq_json_int(&last, head, "last", s->first, s->cfg.layers - 1));
    SQ_TRY(sq_json_object(&scheme, head, "scheme"));
    SQ_TRY(sq_scheme_from_json(&s->job.scheme, scheme));
    SQ_TRY(sq_json_array(&learn, head, "learn"));
    SQ_TRY(read_learn(s->job.lr, learn));
    SQ_TRY(sq_json_int(&s->acts.samples, head, "samples", 1, INT64_C(1) << 24));
    SQ_TRY(sq_json_int(&s->acts.tokens, head, "length", 1, INT64_C(1) << 20));
    SQ_TRY(sq_json_int(&s->job.batch, head, "part", 1, SQ_MIN(s->acts.samples, INT64_C(1) << 16)));
    SQ_TRY(sq_json_bool(&s->job.recompute, head, "recompute"));
    s->acts.hidden = s->cfg.hidden;
    s->job.n = last - s->first + 1;
    SQ_TRY(sq_mul_size(&all, (size_t)(s->acts.samples * s->acts.tokens), (size_t)s->cfg.hidden * sizeof(double)));
out:
    return rc;
}

static int read_layer(struct share *s, int64_t k, struct sq_stream *in)
{
    struct sq_record rec = SQ_RECORD_INIT;
    int rc;
    SQ_TRY(share_next(&rec, in, "layer"));
    SQ_TRY(sq_layer_read(&s->layer[k], in, &rec));
    if (s->layer[k].index != s->first + k)
        SQ_TRY(sq_fail(SQ_E_FORMAT, "layer %" PRId64 " where layer %" PRId64 " should come", s->layer[k].index, s->first + k));
    SQ_TRY(sq_layer_check(&s->layer[k], &s->cfg));
    SQ_TRY(sq_block_view(&s->w[k], &s->cfg, &s->layer[k]));
    SQ_TRY(sq_params_load(&s->p[k], &s->cfg, &s->job.scheme, &s->layer[k]));
    s->member[k] = (struct sq_member){.w = &s->w[k], .p = &s->p[k]};
out:
    sq_record_release(&rec);
    return rc;
}

/* [samples, tokens], and hidden where it is not 0 */
static int read_array(void *dst, struct sq_stream *in, const char *name, enum sq_dtype dtype, const struct acts *a,
                      int64_t hidden)
{
    struct sq_record rec = SQ_RECORD_INIT;
    struct sq_tensor t = SQ_TENSOR_INIT;
    int rc;
    SQ_TRY(share_next(&rec, in, "tensor"));
    SQ_TRY(sq_record_tensor(&t, &rec));
    if (strcmp(t.name, name) != 0 || t.dtype != dtype || t.ndim != (hidden ? 3 : 2) || t.dim[0] != a->samples ||
        t.dim[1] != a->tokens || (hidden && t.dim[2] != hidden))
        SQ_TRY(sq_fail(SQ_E_FORMAT, "tensor '%s' is not '%s', %s of all samples", t.name, name, sq_dtype_name(dtype)));
    SQ_TRY(sq_stream_payload(in, dst, sq_tensor_bytes(&t)));
out:
    sq_record_release(&rec);
    return rc;
}

/* A header of 60 bytes may announce terabytes. */
static int check_room(const struct acts *a)
{
    const double memory = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    const double want = 2.0 * (double)acts_bytes(a);
    return a->spill || want <= memory
               ? 0
               : sq_fail(SQ_E_NOMEM, "the activations have %.0f MB, this machine %.0f MB: --spill DIR keeps them on disk",
                         want / 1e6, memory / 1e6);
}

static int read_acts(struct share *s, struct sq_stream *in)
{
    struct acts *a = &s->acts;
    int rc;
    SQ_TRY(check_room(a));
    SQ_TRY(acts_alloc(a));
    SQ_TRY(sq_alloc(&s->weight, a->samples * a->tokens));
    SQ_TRY(read_array(a->xq.x, in, "xq", a->xq.type, a, a->hidden));
    SQ_TRY(read_array(a->xf.x, in, "target", a->xf.type, a, a->hidden));
    SQ_TRY(read_array(s->weight, in, "weight", SQ_F64, a, 0));
    s->job.xq = a->xq;
    s->job.target = a->xf;
    s->job.weight = s->weight;
    s->job.samples = a->samples;
out:
    return rc;
}

static int take_share(struct share *s, struct sq_stream *in, const struct sq_record *rec, const struct sq_ops *ops)
{
    int rc;
    if (!share_is(rec, "share"))
        SQ_TRY(sq_fail(SQ_E_FORMAT, "a %.32s record where a share should come: --worker takes what sq-window --workers sends",
                       json_string_value(json_object_get(rec->head, "record"))));
    SQ_TRY(read_head(s, rec->head));
    SQ_TRY(sq_alloc(&s->layer, s->job.n));
    SQ_TRY(sq_alloc(&s->w, s->job.n));
    SQ_TRY(sq_alloc(&s->p, s->job.n));
    SQ_TRY(sq_alloc(&s->member, s->job.n));
    SQ_TRY(sq_alloc(&s->pick, s->job.batch));
    s->job.member = s->member;
    for (int64_t k = 0; k < s->job.n; k++)
        SQ_TRY(read_layer(s, k, in));
    SQ_TRY(read_acts(s, in));
    SQ_TRY(sq_trainer_new(&s->trainer, &s->cfg, ops, &s->job.scheme, s->job.n, s->job.batch, s->acts.tokens));
    SQ_TRY(train_bring(&s->job.member, s->trainer, s->job.member, s->job.n));
    SQ_TRY(train_init(s->trainer, &s->job));
out:
    return rc < 0 ? sq_fail_in(rc, "share of a window") : 0;
}

/* ---- a step ---- */

static int put_gradient(struct sq_stream *out, const struct sq_window_job *job, int64_t step, int64_t part, double loss)
{
    json_t *head = json_pack("{s:s, s:I, s:I}", "record", "gradient", "step", (json_int_t)step, "part", (json_int_t)part);
    int rc;
    if (!isfinite(loss)) { /* there is no such number in a header, and nobody wants the gradient */
        rc = head ? sq_stream_put(out, head, NULL, 0) : sq_fail(SQ_E_NOMEM, "no memory for a gradient record");
        json_decref(head);
        return rc;
    }
    json_object_set_new(head, "loss", json_real(loss));
    return share_put(out, head, job, true);
}

static int read_picks(struct share *s, int64_t *n, const json_t *picks)
{
    *n = (int64_t)json_array_size(picks);
    if (!json_is_array(picks) || *n > s->job.batch)
        return sq_fail(SQ_E_FORMAT, "a part is a list of at most %" PRId64 " samples", s->job.batch);
    for (int64_t i = 0; i < *n; i++) {
        const json_t *pick = json_array_get(picks, (size_t)i);
        s->pick[i] = json_integer_value(pick);
        if (!json_is_integer(pick) || s->pick[i] < 0 || s->pick[i] >= s->acts.samples)
            return sq_fail(SQ_E_FORMAT, "a sample that is none of the %" PRId64, s->acts.samples);
    }
    return 0;
}

static int take_step(struct share *s, struct sq_stream *out, struct sq_stream *in, const struct sq_record *rec)
{
    int64_t step = -1, batch, part, n;
    json_t *picks;
    int rc;
    SQ_TRY(sq_json_int(&step, rec->head, "step", 0, INT64_MAX));
    SQ_TRY(sq_json_int(&batch, rec->head, "batch", 1, INT64_C(1) << 16));
    SQ_TRY(sq_json_int(&part, rec->head, "part", 0, 1023));
    SQ_TRY(sq_json_array(&picks, rec->head, "picks"));
    SQ_TRY(share_get(in, rec, &s->job, false));
    SQ_TRY(train_fold(s->trainer, &s->job));
    for (size_t i = 0; i < json_array_size(picks); i++) {
        SQ_TRY(read_picks(s, &n, json_array_get(picks, i)));
        if (n == 0)
            continue;
        double loss;
        SQ_TRY(train_part(&loss, s->trainer, &s->job, s->pick, n, batch));
        rc = put_gradient(out, &s->job, step, part + (int64_t)i, loss);
        if (rc < 0)
            return share_why(rc, in);
    }
out:
    return rc < 0 ? sq_fail_in(rc, "step %" PRId64, step) : 0;
}

/* ---- the program ---- */

/* A window as far as its last step; *rec is the record behind it then. 1, or 0 at the end of the stream. */
static int one_window(struct sq_stream *out, struct sq_stream *in, struct sq_record *rec, const struct sq_plan *p,
                      const struct sq_ops *ops)
{
    struct share s = {.acts = {.spill = p->spill}};
    const double started = sq_now();
    int64_t steps = 0;
    int rc;
    acts_type(&s.acts, ops);
    SQ_TRY(take_share(&s, in, rec, ops));
    while ((rc = sq_stream_next(in, rec)) > 0 && share_is(rec, "step")) {
        SQ_TRY(take_step(&s, out, in, rec));
        steps++;
    }
    if (rc >= 0)
        sq_log(SQ_INFO, "window %" PRId64 "-%" PRId64 " at rate %g: %" PRId64 " steps, %.1f s", s.first,
               s.first + s.job.n - 1, s.job.scheme.rate, steps, sq_now() - started);
out:
    share_release(&s);
    return rc;
}

static int greet(struct sq_stream *out, struct sq_stream *in, const struct sq_app *app)
{
    struct greeting g;
    int rc;
    SQ_TRY(sq_stream_begin(out, NULL, app));
    SQ_TRY(greeting_next(&g, in));
    SQ_TRY(greeting_machine(&g, app));
    SQ_TRY(greeting_put(out, &g));
    sq_log(SQ_INFO, "worker %" PRId64 " of %" PRId64, g.number, g.of);
out:
    return rc;
}

int sq_window_worker(struct sq_stream *out, struct sq_stream *in, const struct sq_plan *p, const struct sq_app *app)
{
    struct sq_record rec = SQ_RECORD_INIT;
    const struct sq_ops *ops;
    int rc;
    SQ_TRY(sq_ops_of(&ops, app, (enum sq_precision)app->precision));
    share_ignore_sigpipe();
    SQ_TRY(greet(out, in, app));
    SQ_TRY(sq_stream_next(in, &rec));
    while (rc > 0)
        SQ_TRY(one_window(out, in, &rec, p, ops));
out:
    sq_record_release(&rec);
    return rc;
}
