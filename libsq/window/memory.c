/* What a run takes: for --dry-run, and for the promise of --memory, which is checked when the first window is at hand. */
#include <omp.h>

#include "pass.h"

/* Code, libraries, a piece of the embedding; panels of products; and for every thread blocks of attention. */
enum { FIXED = 24 << 20, PANELS = 32 << 20, PER_THREAD = 4 << 20 };

/* The panels of the largest product: both operands once more. */
static int64_t panels(const struct sq_config *c, int64_t rows)
{
    const int64_t wide = SQ_MAX(SQ_MAX(c->ffn, c->hidden), c->heads * c->head_dim);
    return SQ_MIN(PANELS, 4 * (rows * wide + c->hidden * wide));
}

int64_t pass_spill_bytes(const struct pass *e)
{
    return acts_floats(&e->acts) * 2 * (int64_t)sizeof(float);
}

/* a layer as it is held: its tensors, what was widened of them, and its parameters with gradient, two moments and the guard's
 * copy */
static int64_t held_bytes(const struct held *h)
{
    int64_t bytes = h->w.count * (int64_t)sizeof(float);
    for (int64_t i = 0; i < h->layer.ntensor; i++)
        bytes += (int64_t)sq_tensor_bytes(&h->layer.tensor[i]);
    for (int64_t i = 0; i < h->p.nparam; i++)
        bytes += 5 * h->p.param[i].n * (int64_t)sizeof(float);
    return bytes;
}

int64_t pass_memory(const struct pass *e, const struct held *like, int64_t widest, bool recompute)
{
    const struct sq_plan *p = e->plan;
    const int64_t streams = p->spill ? 0 : pass_spill_bytes(e);
    const int64_t tokens = e->acts.samples * e->acts.tokens * (int64_t)(sizeof(double) + sizeof(int32_t));
    const int64_t batch = SQ_MIN(p->batch, e->acts.samples), rows = batch * e->acts.tokens;
    return FIXED + panels(&e->cfg, rows) + omp_get_max_threads() * (int64_t)PER_THREAD + widest * held_bytes(like) + streams + tokens +
           sq_trainer_bytes(&e->cfg, e->ops, &p->scheme, widest, batch, e->acts.tokens,
                            recompute);
}

int pass_choose_memory(struct pass *e)
{
    const struct held *like = pass_held(e, e->xq_at);
    const int64_t limit = e->plan->memory, widest = pass_widest(e);
    if (e->measured || !limit)
        return 0;
    e->measured = true;
    const int64_t all = pass_memory(e, like, widest, false), least = pass_memory(e, like, widest, true);
    if (least > limit)
        return sq_fail(SQ_E_ARG,
                       "windows of %" PRId64 " layers need %.0f MB, --memory says %.0f MB; a smaller --batch, a "
                       "--schedule of narrower windows%s takes less",
                       widest, (double)least / 1e6, (double)limit / 1e6, e->plan->spill ? "" : ", or --spill");
    e->recompute = all > limit;
    sq_log(SQ_INFO, "windows take %.0f MB of the %.0f MB of --memory%s", (double)(e->recompute ? least : all) / 1e6,
           (double)limit / 1e6, e->recompute ? "; the backward computes forwards again" : "");
    return 0;
}
