/* One window inside a pass: its job, the order of samples, the report. */
#include <math.h>
#include <string.h>

#include "pass.h"
#include "sq/json.h"

static const char *const LOSS_NAME[] = {
    [SQ_LOSS_MSE] = "mse", [SQ_LOSS_TOKEN] = "token", [SQ_LOSS_MIX] = "mix"};

/* What a step needs to report. */
struct watch {
    struct pass *e;
    int64_t window, per_epoch, steps_done;
    double rate, sum, started, before; /* before: layer-steps of the windows before it */
};

int64_t pass_picks(const struct pass *e)
{
    const int64_t train = e->acts.samples - e->acts.heldout;
    return e->plan->learns ? llround((double)e->plan->epochs * e->plan->share * (double)train) : 0;
}

struct sq_window_job pass_training(struct pass *e, int64_t k, double rate, struct sq_member *members)
{
    const struct sq_window *w = &e->schedule.window[k];
    struct sq_window_job job = {.member = members, .n = w->last - w->first + 1, .scheme = e->plan->scheme};
    for (int64_t i = 0; i < job.n; i++) {
        struct held *h = pass_held(e, w->first + i);
        members[i] = (struct sq_member){.w = &h->w, .p = &h->p};
    }
    job.scheme.rate = rate;
    job.recompute = e->recompute;
    job.shards = e->plan->shards;
    job.workers = e->tally->workers;
    job.xq = e->acts.xq;
    job.target = e->acts.xf;
    job.samples = e->acts.samples;
    job.heldout = e->acts.heldout;
    job.epoch = job.samples - job.heldout;
    job.picks = pass_picks(e);
    job.batch = SQ_MIN(e->plan->batch, job.epoch);
    for (int i = 0; i < SQ_P_KINDS; i++)
        job.lr[i] = sq_plan_lr(e->plan, (enum sq_param_kind)i, sq_window_steps(&job));
    if (e->weight_at != e->xf_at) {
        sq_loss_weights(e->weight, e->plan->loss, job.target, job.samples * e->acts.tokens,
                        job.epoch * e->acts.tokens, e->acts.hidden);
        e->weight_at = e->xf_at;
    }
    job.weight = e->weight;
    return job;
}

static json_t *window_fields(const struct pass *e, int64_t k, double rate)
{
    const struct sq_window *w = &e->schedule.window[k];
    return json_pack("{s:I, s:I, s:I, s:f}", "window", (json_int_t)k, "first", (json_int_t)w->first, "last",
                     (json_int_t)w->last, "rate", rate);
}

static int on_step(void *ctx, int64_t step, int64_t steps, double loss)
{
    struct watch *w = ctx;
    const struct sq_window *win = &w->e->schedule.window[w->window];
    struct tally *t = w->e->tally;
    t->done = w->before + (double)((step + 1) * (win->last - win->first + 1)); /* a window's retry begins anew */
    sq_app_progress(w->e->app, t->done, t->total, "window %" PRId64 "-%" PRId64 " at rate %g", win->first,
                    win->last, w->rate);
    w->sum += loss;
    w->steps_done++;
    if (w->steps_done < w->per_epoch && step + 1 < steps)
        return 0;
    json_t *f = window_fields(w->e, w->window, w->rate);
    const double now = sq_now();
    if (f)
        json_object_update_new(f, json_pack("{s:I, s:f, s:f}", "epoch", (json_int_t)(step / w->per_epoch),
                                            "loss", w->sum / (double)w->steps_done, "seconds",
                                            now - w->started));
    w->sum = 0.0;
    w->steps_done = 0;
    w->started = now;
    return sq_app_metric(w->e->app, "epoch", f);
}

/* A number that JSON cannot hold is left out. */
static void set_loss(json_t *obj, const char *key, double x)
{
    if (isfinite(x))
        json_object_set_new(obj, key, json_real(x));
}

static json_t *result_fields(const struct pass *e, int64_t k, double rate, const struct sq_window_result *r)
{
    json_t *f = window_fields(e, k, rate), *losses = json_object();
    set_loss(losses, "plain", r->plain.train);
    set_loss(losses, "entry", r->entry.train);
    set_loss(losses, "exit", r->exit.train);
    if (e->acts.heldout > 0) {
        set_loss(losses, "heldout_plain", r->plain.heldout);
        set_loss(losses, "heldout_entry", r->entry.heldout);
        set_loss(losses, "heldout_exit", r->exit.heldout);
    }
    if (f)
        json_object_update_new(f, json_pack("{s:s, s:I, s:o, s:I, s:I}", "loss", LOSS_NAME[e->plan->loss],
                                            "steps", (json_int_t)r->steps, "losses", losses, "retries",
                                            (json_int_t)r->retries, "fallbacks", (json_int_t)r->fallbacks));
    else
        json_decref(losses);
    return f;
}

static int make_record(json_t **out, const struct pass *e, int64_t k, double rate, const struct sq_window_result *r)
{
    json_t *f = result_fields(e, k, rate, r);
    *out = json_pack("{s:s}", "record", "window");
    const bool whole = f && *out && json_object_update(*out, f) == 0;
    json_decref(f);
    return whole ? 0 : sq_fail(SQ_E_NOMEM, "no memory for a window record");
}

static int report(struct pass *e, int64_t k, double rate, const struct sq_window_result *r, double seconds)
{
    const struct sq_window *w = &e->schedule.window[k];
    json_t *f = result_fields(e, k, rate, r);
    if (f)
        json_object_set_new(f, "seconds", json_real(seconds));
    sq_log(r->fallbacks ? SQ_WARNING : SQ_INFO,
           "window %" PRId64 "-%" PRId64
           " at rate %g: plain %.4g, entry %.4g, exit %.4g, held out %.4g to %.4g, %.1f s%s",
           w->first, w->last, rate, r->plain.train, r->entry.train, r->exit.train, r->entry.heldout,
           r->exit.heldout, seconds,
           r->fallbacks ? "; training failed twice, the entry parameters stay"
           : r->retries ? "; retried"
                        : "");
    return sq_app_metric(e->app, "window", f);
}

/* The window to those who compute parts of its batches: layers as they are, parameters included. */
static int hand_out(struct pass *e, const struct finished *w, const struct sq_window_job *job)
{
    struct sq_layer **layers = NULL;
    int rc;
    SQ_TRY(sq_alloc(&layers, w->n));
    for (int64_t j = 0; j < w->n; j++) {
        struct held *h = pass_held(e, w->first + j);
        SQ_TRY(sq_params_store(&h->layer, &h->p, &e->cfg));
        layers[j] = &h->layer;
    }
    SQ_TRY(workers_begin(job->workers, job, &e->acts, &e->cfg, layers));
out:
    sq_free(layers);
    return rc;
}

/* Window k at one stage; on disk, where there is a work folder, before anybody hears of it. */
static int learn(json_t **record, struct pass *e, int64_t k, const struct finished *w, struct sq_member *members)
{
    const double rate = w->scheme.rate;
    struct sq_window_job job = pass_training(e, k, rate, members);
    const double started = sq_now(), done = e->tally->done;
    struct watch watch = {.e = e, .window = k, .rate = rate, .started = started, .before = done};
    struct sq_window_result r;
    int64_t *order = NULL;
    int rc;
    if (done == 0.0)
        e->app->since = started; /* what came before is no measure of the time left */
    SQ_TRY(sq_alloc(&order, job.picks));
    SQ_TRY(sq_window_order(order, job.picks, job.epoch, e->plan->params.seed, &e->schedule.window[k], rate));
    job.order = order;
    job.step = on_step;
    job.ctx = &watch;
    watch.per_epoch = (job.epoch + job.batch - 1) / job.batch;
    if (job.workers)
        SQ_TRY(hand_out(e, w, &job));
    SQ_TRY(sq_window_learn(&r, e->trainer, &job));
    e->tally->done = done + (double)(r.steps * job.n);
    SQ_TRY(make_record(record, e, k, rate, &r));
    if (e->tally->folder)
        SQ_TRY(folder_save(e->tally->folder, w, *record));
    SQ_TRY(report(e, k, rate, &r, sq_now() - started));
out:
    sq_free(order);
    return rc;
}

/* 1: as the folder has it. */
static int restore(json_t **record, struct pass *e, const struct finished *w)
{
    int64_t steps = 0;
    int rc = e->tally->folder ? folder_restore(record, e->tally->folder, w) : 0;
    if (rc == 0 && e->all_kept)
        return sq_fail(SQ_E_IO, "a file of window %" PRId64 "-%" PRId64 " went while this program ran", w->first,
                       w->first + w->n - 1);
    if (rc <= 0)
        return rc;
    rc = sq_json_int(&steps, *record, "steps", 0, INT64_MAX);
    e->tally->total -= (double)(steps * w->n);
    e->tally->restored++;
    return rc < 0 ? rc : 1;
}

/* The window's record to the output and to the tally. */
static int publish(struct pass *e, const struct finished *w, const json_t *record)
{
    const json_t *losses = json_object_get(record, "losses");
    int64_t retries, fallbacks;
    int rc;
    if (e->out)
        SQ_TRY(sq_stream_put(e->out, record, NULL, 0));
    SQ_TRY(sq_json_int(&retries, record, "retries", 0, 1));
    SQ_TRY(sq_json_int(&fallbacks, record, "fallbacks", 0, 1));
    e->tally->windows++;
    e->tally->retries += retries;
    e->tally->fallbacks += fallbacks;
    if (fallbacks && e->plan->strict)
        rc = sq_fail(SQ_E_VALUE,
                     "window %" PRId64 "-%" PRId64 " at rate %g ended worse than its entry loss %g, twice (--strict)",
                     w->first, w->first + w->n - 1, w->scheme.rate, json_number_value(json_object_get(losses, "entry")));
out:
    return rc;
}

static struct finished stage_of(const struct pass *e, int64_t k, int i)
{
    const struct sq_window *w = &e->schedule.window[k];
    struct finished f = {.stage = (int)(e->rate - e->plan->rate) + i,
                         .window = k,
                         .first = w->first,
                         .n = w->last - w->first + 1,
                         .scheme = e->plan->scheme,
                         .cfg = &e->cfg,
                         .made = e->made};
    f.scheme.rate = e->rate[i];
    return f;
}

bool pass_is_kept(const struct pass *e)
{
    bool kept = e->tally->folder != NULL;
    for (int64_t k = e->first; kept && k < e->stop; k++)
        for (int i = 0; kept && e->chosen[k] && i < e->nrate; i++) {
            const struct finished w = stage_of(e, k, i);
            kept = folder_has(e->tally->folder, &w);
        }
    return kept;
}

static int learn_at(struct pass *e, int64_t k, int i, struct sq_member *members, struct sq_params **params)
{
    struct finished w = stage_of(e, k, i);
    json_t *record = NULL;
    int rc;
    w.p = params;
    for (int64_t j = 0; j < w.n; j++) {
        struct held *h = pass_held(e, w.first + j);
        h->changed = true;
        params[j] = &h->p;
    }
    SQ_TRY(restore(&record, e, &w));
    if (rc == 0)
        SQ_TRY(learn(&record, e, k, &w, members));
    SQ_TRY(publish(e, &w, record));
out:
    json_decref(record);
    return rc;
}

int pass_learn(struct pass *e, int64_t k)
{
    const struct sq_window *w = &e->schedule.window[k];
    struct sq_member *members = NULL;
    struct sq_params **params = NULL;
    int rc;
    SQ_TRY(pass_choose_memory(e));
    SQ_TRY(sq_alloc(&members, w->last - w->first + 1));
    SQ_TRY(sq_alloc(&params, w->last - w->first + 1));
    for (int i = 0; i < e->nrate; i++)
        SQ_TRY(learn_at(e, k, i, members, params));
out:
    sq_free(params);
    sq_free(members);
    return rc;
}
