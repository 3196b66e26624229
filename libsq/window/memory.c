/* What a run takes: for --dry-run, and for the promise of --memory, which is checked when the first window is at hand. */
#include <omp.h>

#include "pass.h"
#include "sq/device.h"

/* Code, libraries, a piece of the embedding. On a device: what is lost between a thousand or two of arrays. */
enum { FIXED = 32 << 20, GAPS = 1 << 20 };

/* Workspace of operations, at most what sq/op.h says: panels of both operands of the largest product; for every thread its
 * blocks of attention, with packed keys and values (three forms in the backward). */
static int64_t workspace(const struct sq_config *c, int64_t rows, int64_t tokens)
{
    const int64_t wide = SQ_MAX(SQ_MAX(c->ffn, c->hidden), c->heads * c->head_dim);
    const int64_t panels = SQ_MIN(32 << 20, 4 * (rows * wide + c->hidden * wide));
    const int64_t attention = SQ_MIN(16 << 20, (1 << 20) + 5 * 3 * tokens * c->head_dim);
    return panels + omp_get_max_threads() * attention;
}

int64_t pass_spill_bytes(const struct pass *e)
{
    return 2 * (int64_t)acts_bytes(&e->acts);
}

/* a layer as it is held: its tensors, what was widened of them, its parameters and their copies: the guard's, the sum of
 * the gradients of a batch's parts, what was handed out to workers */
static int64_t held_bytes(const struct held *h, const struct sq_plan *p)
{
    const int64_t copies = 1 + (p->shards > 1) + (p->workers.n > 0);
    int64_t bytes = h->w.count * (int64_t)sizeof(float);
    for (int64_t i = 0; i < h->layer.ntensor; i++)
        bytes += (int64_t)sq_tensor_bytes(&h->layer.tensor[i]);
    return bytes + copies * sq_params_floats(&h->p) * (int64_t)sizeof(float) + sq_params_bytes(&h->p);
}

static bool on_device(const struct pass *e)
{
    return e->ops != e->ops->host;
}

/* Operands of the largest product of weights, a router's too, and activations, converted unless they come narrow; sums of
 * columns; cuBLAS's own. */
static int64_t device_workspace(const struct sq_config *c, const struct sq_ops *ops, int64_t rows)
{
    const int64_t wide = SQ_MAX(SQ_MAX(c->ffn, c->hidden), SQ_MAX(c->heads * c->head_dim, c->experts));
    return (ops->narrows ? 0 : 4 * (rows * wide + wide * SQ_MAX(c->hidden, rows))) + 5 * 1024 * wide + SQ_GPU_BLAS_SPACE + GAPS;
}

/* Buffers of samples and targets on their way, as much on the device as pinned on the host. */
static int64_t copies_bytes(const struct pass *e, int64_t part)
{
    const int64_t token = e->cfg.hidden * (int64_t)sq_dtype_size(e->acts.xq.type) + (int64_t)sizeof(double);
    return on_device(e) ? sq_device_copies_bytes(part * e->acts.tokens * token) : 0;
}

int64_t pass_device_memory(const struct pass *e, const struct held *like, int64_t widest, int64_t part, bool recompute)
{
    const struct sq_config *c = &e->cfg;
    const int64_t rows = part * e->acts.tokens;
    int64_t weights = 4 * c->experts * c->hidden;
    if (!on_device(e))
        return 0;
    for (int64_t i = 0; i < like->w.nlinear; i++) {
        int64_t r, k;
        sq_linear_shape(&r, &k, c, i);
        weights += r * k * (int64_t)sq_dtype_size(like->w.type);
    }
    const int64_t sum = e->plan->shards > 1 ? 4 * sq_params_floats(&like->p) : 0;
    return sq_trainer_bytes(c, e->ops, &e->plan->scheme, widest, part, e->acts.tokens, recompute) +
           widest * (weights + sq_params_device_bytes(&like->p, c) + sum) + copies_bytes(e, part) +
           device_workspace(c, e->ops, rows);
}

int64_t pass_memory(const struct pass *e, const struct held *like, int64_t widest, bool recompute)
{
    const struct sq_plan *p = e->plan;
    const int64_t streams = p->spill ? 0 : pass_spill_bytes(e);
    const int64_t tokens = e->acts.samples * e->acts.tokens * (int64_t)(sizeof(double) + sizeof(int32_t));
    const int64_t part = pass_part(e), rows = part * e->acts.tokens;
    const int64_t held = FIXED + widest * held_bytes(like, p) + streams + tokens + copies_bytes(e, part);
    return on_device(e) ? held
                        : held + workspace(&e->cfg, rows, e->acts.tokens) +
                              sq_trainer_bytes(&e->cfg, e->ops, &p->scheme, widest, part, e->acts.tokens, recompute);
}

/* A window too large for the device: what would fit? */
static int refuse_device(const struct pass *e, const struct held *like, int64_t widest, int64_t part)
{
    const int64_t batch = SQ_MIN(e->plan->batch, e->acts.samples);
    const double need = (double)pass_device_memory(e, like, widest, part, true) / 1e6, room = (double)e->room / 1e6;
    while (part > 0 && pass_device_memory(e, like, widest, part, true) > e->room)
        part--;
    if (part > 0)
        return sq_fail(SQ_E_NOMEM, "windows of %" PRId64 " layers need %.0f MB on the device, which has %.0f MB free; "
                       "--batch %" PRId64 " fits, or --shards %" PRId64,
                       widest, need, room, part * SQ_MAX(e->plan->shards, 1), (batch + part - 1) / part);
    return sq_fail(SQ_E_NOMEM, "windows of %" PRId64 " layers need %.0f MB on the device, which has %.0f MB free; "
                   "a --schedule of narrower windows takes less", widest, need, room);
}

static int choose_device(struct pass *e)
{
    const struct held *like = pass_held(e, e->xq_at);
    const int64_t widest = pass_widest(e), part = pass_part(e);
    const int64_t all = pass_device_memory(e, like, widest, part, false),
                  least = pass_device_memory(e, like, widest, part, true);
    if (least > e->room)
        return refuse_device(e, like, widest, part);
    if (all <= e->room)
        return 0;
    e->recompute = true;
    sq_log(SQ_INFO, "windows take %.0f of the %.0f MB on the device; the backward computes forwards again",
           (double)least / 1e6, (double)e->room / 1e6);
    return 0;
}

int pass_choose_memory(struct pass *e)
{
    const struct held *like = pass_held(e, e->xq_at);
    const int64_t limit = e->plan->memory, widest = pass_widest(e);
    int rc = 0;
    if (e->measured)
        return 0;
    e->measured = true;
    if (on_device(e))
        rc = choose_device(e);
    if (rc < 0 || !limit)
        return rc;
    const int64_t all = pass_memory(e, like, widest, false), least = pass_memory(e, like, widest, true);
    if (least > limit)
        return sq_fail(SQ_E_ARG,
                       "windows of %" PRId64 " layers need %.0f MB, --memory says %.0f MB; a smaller --batch, more --shards, a "
                       "--schedule of narrower windows%s takes less",
                       widest, (double)least / 1e6, (double)limit / 1e6, e->plan->spill ? "" : ", or --spill");
    e->recompute |= all > limit;
    sq_log(SQ_INFO, "windows take %.0f MB of the %.0f MB of --memory%s", (double)(e->recompute ? least : all) / 1e6,
           (double)limit / 1e6, e->recompute ? "; the backward computes forwards again" : "");
    return 0;
}
