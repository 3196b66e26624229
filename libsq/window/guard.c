/* Training is stochastic and, with quantized activations, chaotic: a window that came out worse than it went
 * in would spoil every window behind it, so it is caught where it happens. */
#include "sq/window.h"

#include <math.h>
#include <string.h>

static int64_t count(const struct sq_window_job *job)
{
    int64_t n = 0;
    for (int64_t k = 0; k < job->n; k++)
        n += sq_params_floats(job->member[k].p);
    return n;
}

/* parameters to or from one flat array */
static void exchange(const struct sq_window_job *job, float *all, bool save)
{
    for (int64_t k = 0; k < job->n; k++)
        for (int64_t i = 0; i < job->member[k].p->nparam; i++) {
            const struct sq_param *q = &job->member[k].p->param[i];
            memcpy(save ? all : q->x, save ? q->x : all, (size_t)q->n * sizeof(float));
            all += q->n;
        }
}

/* A rise of a rounding error is none. */
static bool fell(double exit, double entry)
{
    return isfinite(exit) && (exit <= entry * (1.0 + 1e-9) || !isfinite(entry));
}

/* 1: better or equal, 0: worse, < 0: failed */
static int attempt(struct sq_window_result *r, struct sq_trainer *t, const struct sq_window_job *job)
{
    int rc = sq_window_train(t, job);
    if (rc <= 0)
        return rc;
    rc = sq_window_eval(&r->exit, t, job, false);
    return rc < 0 ? rc : fell(r->exit.train, r->entry.train);
}

int sq_window_learn(struct sq_window_result *r, struct sq_trainer *t, const struct sq_window_job *job)
{
    struct sq_window_job again = *job;
    float *entry = NULL;
    int rc;
    *r = (struct sq_window_result){.steps = sq_window_steps(job)};
    SQ_TRY(sq_alloc(&entry, count(job)));
    exchange(job, entry, true);
    SQ_TRY(sq_window_eval(&r->plain, t, job, true));
    SQ_TRY(sq_window_eval(&r->entry, t, job, false));
    r->exit = r->entry;
    if (r->steps == 0)
        goto out;
    SQ_TRY(attempt(r, t, job));
    if (rc == 0) {
        r->retries = 1;
        for (int i = 0; i < SQ_P_KINDS; i++)
            again.lr[i] *= 0.5;
        exchange(job, entry, false);
        SQ_TRY(attempt(r, t, &again));
    }
    if (rc == 0) {
        r->fallbacks = 1;
        r->exit = r->entry;
        exchange(job, entry, false);
    }
    rc = 0;
out:
    sq_free(entry);
    return rc;
}
