#include "shards.h"

#include "workers.h"

struct sq_param *learned_next(struct learned *at, const struct sq_window_job *job)
{
    for (; at->k < job->n; at->k++, at->i = 0)
        while (at->i < job->member[at->k].p->nparam) {
            struct sq_param *q = &job->member[at->k].p->param[at->i++];
            if (job->lr[q->kind] > 0.0)
                return q;
        }
    return NULL;
}

int64_t learned_floats(const struct sq_window_job *job)
{
    struct learned at = {0};
    int64_t n = 0;
    for (const struct sq_param *q; (q = learned_next(&at, job));)
        n += q->n;
    return n;
}

int64_t shards_floats(const struct sq_window_job *job)
{
    return job->shards > 1 ? learned_floats(job) : 0;
}

/* The gradients at hand into the sum, which the first ones begin. */
static void add(float *sum, const struct sq_window_job *job, const struct sq_ops *ops, bool first)
{
    struct learned at = {0};
    for (const struct sq_param *q; (q = learned_next(&at, job)); sum += q->n) {
        if (first)
            ops->copy(sum, q->grad, (size_t)q->n * sizeof *sum);
        else
            ops->add(sum, q->grad, q->n);
    }
}

static void take(const float *sum, const struct sq_window_job *job, const struct sq_ops *ops)
{
    struct learned at = {0};
    for (const struct sq_param *q; (q = learned_next(&at, job)); sum += q->n)
        ops->copy(q->grad, sum, (size_t)q->n * sizeof *sum);
}

/* How many parts, the first ones, are computed here: all, or what the workers leave. */
static int64_t own_parts(const struct sq_window_job *job, int64_t shards)
{
    return job->workers ? workers_leave(job->workers, shards) : shards;
}

int shards_grad(double *loss, float *sum, struct sq_trainer *t, const struct sq_window_job *job, int64_t step,
                const int64_t *pick, int64_t n)
{
    const int64_t shards = SQ_MAX(job->shards, 1);
    const int64_t own = own_parts(job, shards);
    bool first = true;
    int rc = 0;
    *loss = 0.0;
    if (job->workers)
        SQ_TRY(workers_send(job->workers, job, train_ops(t), step, pick, n));
    if (own > 0)
        SQ_TRY(train_fold(t, job));
    for (int64_t i = 0; i < shards; i++) {
        const struct shard s = shard_of(n, shards, i);
        double part;
        if (s.n == 0)
            continue;
        if (i < own) {
            SQ_TRY(train_part(&part, t, job, pick + s.first, s.n, n)); /* fails: nobody waits for the workers */
        } else {
            SQ_TRY(workers_receive(&part, job->workers, job, step, i));
        }
        *loss += part;
        if (shards > 1)
            add(sum, job, train_ops(t), first);
        first = false;
    }
    if (shards > 1)
        take(sum, job, train_ops(t));
out:
    return rc;
}
