/* --dry-run: the stream is read as far as its first layer, one step of that layer is timed at every rate, the
 * rest is multiplication. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>

#include "pass.h"
#include "scratch.h"

struct estimate {
    int64_t tensor_bytes, params, steps, widest;
    int64_t top;       /* bytes in front of the layers */
    int64_t layers;    /* sum over chosen windows */
    double step, eval; /* seconds of one layer: a step, a forward over all samples */
};

static int note_time(void *ctx, int64_t step, int64_t steps, double loss)
{
    double *const at = ctx;
    (void)steps;
    (void)loss;
    at[step] = sq_now();
    return 0;
}

enum { STEPS = 3 };

/* The last of three steps: the first one touches memory that is new, and stands behind what a window brings to a device; a
 * device records the second one. */
static int time_step(struct pass *e, struct estimate *x, double rate)
{
    struct sq_member member;
    struct sq_window_job job = pass_training(e, e->first, rate, &member);
    struct sq_losses losses;
    const int64_t n = SQ_MIN(job.batch, job.epoch);
    double at[STEPS] = {sq_now()};
    int64_t *order = NULL;
    int rc;
    SQ_TRY(sq_alloc(&order, STEPS * n));
    for (int64_t i = 0; i < STEPS * n; i++)
        order[i] = i % n;
    job.order = order;
    job.epoch = n;
    job.picks = STEPS * n;
    job.step = note_time;
    job.ctx = at;
    SQ_TRY(sq_window_train(e->trainer, &job));
    x->step = rc > 0 ? at[STEPS - 1] - at[STEPS - 2] : sq_now() - at[0]; /* or as far as it came: a loss was not finite */
    job.samples = SQ_MIN(job.samples, 4 * job.batch);
    job.heldout = 0;
    const double started = sq_now();
    SQ_TRY(sq_window_eval(&losses, e->trainer, &job, false));
    x->eval = (sq_now() - started) * (double)e->acts.samples / (double)job.samples;
out:
    sq_free(order);
    return rc;
}

/* The first layer as a window of its own, with parameters as the first window will make them. */
static int first_layer(struct pass *e, struct estimate *x)
{
    struct sq_window *w = &e->schedule.window[e->first];
    int rc;
    *w = (struct sq_window){.first = 0, .last = 0};
    SQ_TRY(sq_trainer_new(&e->trainer, &e->cfg, e->ops, &e->plan->scheme, 1, pass_part(e), e->acts.tokens));
    SQ_TRY(sq_alloc(&e->weight, e->acts.samples * e->acts.tokens));
    SQ_TRY(pass_advance_float(e, 1));
    const struct held *h = pass_held(e, 0);
    x->params = sq_params_floats(&h->p);
    for (int64_t i = 0; i < h->layer.ntensor; i++)
        x->tensor_bytes += (int64_t)sq_tensor_bytes(&h->layer.tensor[i]);
out:
    return rc;
}

static void print_time(const char *what, double s)
{
    if (s < 120)
        printf("%-28s %.1f s\n", what, s);
    else if (s < 7200)
        printf("%-28s %.1f min\n", what, s / 60);
    else
        printf("%-28s %.1f h\n", what, s / 3600);
}

/* need: what must be free in dir at the start, for this and whatever else goes there */
static int print_disk(const char *what, const char *dir, int64_t bytes, int64_t need)
{
    struct statvfs fs;
    if (statvfs(dir, &fs) < 0)
        return sq_fail(SQ_E_IO, "cannot write in folder '%s': %s; name another one", dir, strerror(errno));
    const double spare = (double)fs.f_bavail * (double)fs.f_frsize;
    printf("%-28s %.1f MB; '%s' has %.1f MB free\n", what, (double)bytes / 1e6, dir, spare / 1e6);
    if ((double)need > spare)
        return sq_fail(SQ_E_IO, "the run will need %.1f MB in folder '%s', which has %.1f MB free; name another one",
                       (double)need / 1e6, dir, spare / 1e6);
    return 0;
}

/* The spool between two passes: what came before the layers, the layers and their parameters, the head. Two of them are
 * there while a pass reads one and writes the next. */
static int64_t spool_bytes(const struct pass *e, const struct estimate *x)
{
    const int64_t one = (e->cfg.tied ? 1 : 2) * x->top + e->cfg.layers * (x->tensor_bytes + 4 * x->params);
    return e->plan->window_order ? 0 : one * SQ_MIN(e->plan->nrate - 1, 2);
}

static int estimate_disk(const struct pass *e, const struct estimate *x)
{
    const struct sq_plan *p = e->plan;
    const int64_t spool = spool_bytes(e, x), kept = p->work ? 4 * x->layers * x->params * p->nrate : 0;
    int rc = 0;
    if (p->spill)
        SQ_TRY(print_disk("disk for the activations", p->spill, pass_spill_bytes(e), pass_spill_bytes(e)));
    if (spool)
        SQ_TRY(print_disk("disk for the spool file", scratch_dir(p->work), spool, spool));
    if (kept)
        SQ_TRY(print_disk("disk for finished windows", p->work, kept, spool + kept - folder_bytes(e->tally->folder)));
out:
    return rc;
}

static void print_device(struct pass *e, const struct estimate *x)
{
    const struct held *h = pass_held(e, 0);
    const int64_t part = pass_part(e);
    const int64_t all = pass_device_memory(e, h, x->widest, part, false);
    if (!all)
        return;
    printf("%-28s %.1f MB, %.1f MB at the least", "memory on the device", (double)all / 1e6,
           (double)pass_device_memory(e, h, x->widest, part, true) / 1e6);
    if (e->room < INT64_MAX)
        printf("; %.1f MB are free", (double)e->room / 1e6);
    printf(" (%s)\n", e->ops->isa);
}

/* A cursor is not counted on: the estimate is of the whole way from the tokens. */
static int estimate_learning(struct pass *e, const struct sq_plan *p)
{
    struct estimate x = {0};
    char text[64];
    double total = 0.0;
    int rc;
    int64_t windows = 0;
    const struct sq_window_job job = {
        .picks = pass_picks(e), .epoch = e->acts.samples - e->acts.heldout, .batch = p->batch};
    for (int64_t k = 0; k < e->schedule.n; k++)
        if (e->chosen[k] && ++windows)
            x.layers += e->schedule.window[k].last - e->schedule.window[k].first + 1;
    x.top = sq_stream_bytes(e->in);
    x.steps = sq_window_steps(&job);
    x.widest = pass_widest(e);
    const struct sq_window first = e->schedule.window[e->first];
    SQ_TRY(first_layer(e, &x));
    printf("%-28s %" PRId64 " windows of at most %" PRId64 " layers, %" PRId64 " layers\n", "model", windows,
           x.widest, e->cfg.layers);
    printf("%-28s %" PRId64 " of %" PRId64 " tokens, %" PRId64 " held out\n", "samples", e->acts.samples,
           e->acts.tokens, e->acts.heldout);
    printf("%-28s %" PRId64 " in every window and stage\n", "steps", x.steps);
    for (int i = 0; i < p->nrate; i++) {
        SQ_TRY(time_step(e, &x, p->rate[i]));
        /* three evaluations of every window; both streams through every layer once */
        const double s =
            (double)x.layers * ((double)x.steps * x.step + 3 * x.eval) + 2 * (double)e->cfg.layers * x.eval;
        snprintf(text, sizeof text, "time at rate %g", p->rate[i]);
        print_time(text, s);
        total += s;
    }
    print_time("time together", total);
    if (p->workers.n)
        printf("%-28s %d, not counted: these are the times of this machine alone\n", "workers", p->workers.n);
    printf("%-28s %.1f MB, %.1f MB at the least (--memory)\n", "peak memory",
           (double)pass_memory(e, pass_held(e, 0), x.widest, false) / 1e6,
           (double)pass_memory(e, pass_held(e, 0), x.widest, true) / 1e6);
    print_device(e, &x);
    SQ_TRY(estimate_disk(e, &x));
    e->schedule.window[e->first] = first; /* that of the timed steps was one layer */
    SQ_TRY(pass_choose_memory(e));
out:
    return rc;
}

int sq_window_estimate(struct sq_stream *in, const struct sq_plan *p, struct sq_app *app)
{
    struct tally tally = {0};
    struct sq_plan plan = *p;
    struct pass e;
    plan.no_cursor = true;
    int rc = folder_open(&tally.folder, p, app);
    if (rc < 0)
        return rc;
    rc = pass_init(&e, &plan, app, &tally, in, NULL, plan.rate, plan.nrate);
    if (rc == 0)
        rc = pass_prelude(&e);
    if (rc == 0 && plan.needs_acts)
        rc = estimate_learning(&e, &plan);
    else if (rc == 0)
        printf("nothing is learned: layers get their scheme and pass through\n");
    if (rc == 0 && fflush(stdout) != 0)
        rc = sq_fail(SQ_E_IO, "cannot write the estimate");
    pass_release(&e);
    folder_close(&tally.folder);
    return rc;
}
