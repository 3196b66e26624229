#include "states.h"

#include <math.h>
#include <string.h>

#include "sq/params.h"

/* Windows advance in groups of about this many tokens: enough rows for fast products, a small trace. */
enum { GROUP = 4096 };

static int64_t positions(const struct sq_states *s)
{
    return s->n * s->length;
}

static int alloc_floats(float **out, const struct sq_states *s, int64_t n)
{
    void *x = NULL;
    const int rc = s->ops->alloc(&x, (size_t)n * sizeof **out);
    *out = x;
    return rc;
}

static int work_new(struct sq_states *s)
{
    const int64_t turns = s->length * (s->cfg.head_dim / 2);
    struct sq_states_work *w = NULL;
    float *host = NULL;
    int rc;
    SQ_TRY(sq_alloc(&w, 1));
    s->work = w;
    w->batch = SQ_MIN(s->n, SQ_MAX(1, GROUP / s->length));
    SQ_TRY(sq_trace_new(&w->trace, &s->cfg, s->ops, w->batch, s->length));
    SQ_TRY(sq_alloc(&host, 2 * turns));
    sq_rope_table(host, host + turns, &s->cfg, s->length);
    SQ_TRY(alloc_floats(&w->cos, s, 2 * turns));
    w->sin = w->cos + turns;
    s->ops->put(w->cos, host, (size_t)(2 * turns) * sizeof *host);
    if (states_on_device(s))
        SQ_TRY(alloc_floats(&w->x, s, w->batch * s->length * s->cfg.hidden));
    rc = s->ops->wait();
out:
    sq_free(host);
    return rc;
}

static void work_free(struct sq_states *s)
{
    struct sq_states_work *w = s->work;
    if (!w)
        return;
    s->ops->release(w->cos);
    s->ops->release(w->x);
    s->ops->release(w->odd);
    sq_trace_free(&w->trace);
    if (w->folds)
        sq_block_release(&w->folded);
    sq_block_release(&w->there);
    sq_block_release(&w->block);
    sq_free(w);
    s->work = NULL;
}

static int expect(const char *what, int64_t rows, int64_t cols, int64_t want_rows, int64_t want_cols)
{
    if (rows != want_rows || cols != want_cols)
        return sq_fail(SQ_E_FORMAT, "%s is %" PRId64 " x %" PRId64 ", not %" PRId64 " x %" PRId64, what, rows, cols,
                       want_rows, want_cols);
    return 0;
}

int sq_states_embed(struct sq_states *s, const struct sq_config *cfg, const struct sq_table *embed,
                    const struct sq_windows *w, const struct sq_ops *ops, const struct sq_watch *watch)
{
    const int64_t C = cfg->hidden, V = cfg->vocab;
    int rc;
    *s = (struct sq_states){.cfg = *cfg, .n = w->n, .length = w->length, .ops = ops, .watch = watch};
    SQ_TRY(expect("the embedding", sq_table_rows(embed), sq_table_cols(embed), V, C));
    SQ_TRY(sq_alloc(&s->x, positions(s) * C));
    for (int64_t i = 0; i < positions(s); i++) {
        const int32_t id = w->ids[i];
        if (id < 0 || id >= V)
            SQ_TRY(sq_fail(SQ_E_VALUE, "token id %" PRId32 " is outside of the vocabulary of %" PRId64, id, V));
        SQ_TRY(sq_table_read(s->x + i * C, embed, id, 1));
    }
    SQ_TRY(work_new(s));
    return 0;
out:
    sq_states_release(s);
    return rc;
}

/* The first window with a NaN or Inf, or -1. */
static int64_t bad_window(const struct sq_states *s)
{
    const int64_t size = s->length * s->cfg.hidden;
    int64_t bad = INT64_MAX;
#pragma omp parallel for schedule(static) reduction(min : bad)
    for (int64_t i = 0; i < s->n; i++) {
        struct sq_tensor t = {.dtype = SQ_F32, .ndim = 1, .dim = {size}, .data = s->x + i * size};
        if (sq_tensor_check_finite(&t) < 0)
            bad = SQ_MIN(bad, i);
    }
    return bad == INT64_MAX ? -1 : bad;
}

/* What a layer of any state computes with: weights, and how activations are rounded. */
static int effective(const struct sq_block **out, struct sq_rowq *act, struct sq_states *s, const struct sq_layer *l)
{
    struct sq_states_work *w = s->work;
    struct sq_params params = {0};
    struct sq_scheme scheme;
    int rc;
    *act = (struct sq_rowq){.bits = 16, .rate = 1};
    *out = &w->block;
    sq_block_release(&w->block);
    SQ_TRY(sq_block_view(&w->block, &s->cfg, l));
    if (l->state == SQ_FLOAT)
        return 0;
    if (!l->scheme)
        SQ_TRY(sq_fail(SQ_E_FORMAT, "layer is %s but has no scheme", sq_state_name(l->state)));
    SQ_TRY(sq_scheme_from_json(&scheme, l->scheme));
    *act = sq_scheme_acts(&scheme);
    if (l->state == SQ_MERGED)
        return 0;
    if (!w->folds) {
        SQ_TRY(sq_block_new(&w->folded, &s->cfg, SQ_F32));
        w->folds = true;
    }
    SQ_TRY(sq_params_load(&params, &s->cfg, &scheme, l));
    sq_params_project(&params, s->ops->host);
    sq_fold(&w->folded, &w->block, &params, &scheme, s->ops->host);
    *out = &w->folded;
out:
    sq_params_release(&params);
    return rc;
}

/* A layer's block where operations reach it. */
static int reachable(const struct sq_block **b, struct sq_states *s)
{
    struct sq_block *there = &s->work->there;
    int rc = 0;
    if (!states_on_device(s))
        return 0;
    rc = sq_block_mirror(there, *b, &s->cfg, s->ops);
    *b = there;
    return rc;
}

/* Some windows, from the first one on, through a layer. */
static void advance(struct sq_states *s, const struct sq_block *b, const struct sq_run *run, int64_t first, int64_t n)
{
    const int64_t size = s->length * s->cfg.hidden;
    const struct sq_floats host = {SQ_F32, s->x + first * size};
    float *x = states_on_device(s) ? s->work->x : host.x;
    if (x != host.x)
        s->ops->from_host(x, host, n * size);
    sq_block_forward(x, x, b, run, n, s->work->trace, NULL);
    if (x != host.x)
        s->ops->to_host(host, x, n * size);
}

int sq_states_layer(struct sq_states *s, const struct sq_layer *l)
{
    struct sq_states_work *w = s->work;
    struct sq_run run = {.ops = s->ops, .cos = w->cos, .sin = w->sin, .tokens = s->length};
    const struct sq_block *b = NULL;
    int rc = effective(&b, &run.act, s, l);
    if (rc == 0)
        rc = reachable(&b, s);
    for (int64_t i = 0; rc == 0 && i < s->n; i += w->batch) {
        advance(s, b, &run, i, SQ_MIN(w->batch, s->n - i));
        rc = s->ops->wait();
        if (s->watch && s->watch->progress)
            s->watch->progress(s->watch->user, (double)l->index + (double)SQ_MIN(i + w->batch, s->n) / (double)s->n);
    }
    if (rc < 0)
        return sq_fail_in(rc, "layer %" PRId64, l->index);
    const int64_t bad = bad_window(s);
    if (bad >= 0)
        return sq_fail(SQ_E_VALUE, "layer %" PRId64 ", window %" PRId64 ": an activation is not finite", l->index, bad);
    if (s->watch && s->watch->layer)
        s->watch->layer(s->watch->user, l->index, s->x);
    return 0;
}

/* The head, and room to count its bad logits. */
static int put_head(struct sq_states *s, const struct sq_table *head)
{
    const int64_t C = s->cfg.hidden, V = s->cfg.vocab, step = SQ_MIN(V, states_chunk(C));
    struct sq_states_work *w = NULL;
    float *host = NULL;
    void *odd = NULL;
    int rc;
    SQ_TRY(sq_alloc(&w, 1));
    s->work = w;
    SQ_TRY(alloc_floats(&s->head, s, V * C));
    if (!states_on_device(s))
        SQ_TRY(sq_table_read(s->head, head, 0, V));
    SQ_TRY(sq_alloc(&host, states_on_device(s) ? step * C : 0));
    for (int64_t i = 0; host && i < V; i += step) {
        const int64_t n = SQ_MIN(step, V - i);
        SQ_TRY(sq_table_read(host, head, i, n));
        s->ops->put(s->head + i * C, host, (size_t)(n * C) * sizeof *host);
        SQ_TRY(s->ops->wait());
    }
    SQ_TRY(s->ops->alloc(&odd, sizeof *w->odd));
    w->odd = odd;
    if (states_on_device(s))
        SQ_TRY(alloc_floats(&w->x, s, states_chunk(V) * C));
out:
    sq_free(host);
    return rc;
}

int sq_states_head(struct sq_states *s, const struct sq_tensor *norm, const struct sq_table *head)
{
    const int64_t C = s->cfg.hidden, V = s->cfg.vocab;
    float *gain = NULL, *rrms = NULL;
    int rc;
    work_free(s);
    SQ_TRY(expect("the final norm", sq_tensor_rows(norm), sq_tensor_cols(norm), 1, C));
    SQ_TRY(expect("the head", sq_table_rows(head), sq_table_cols(head), V, C));
    SQ_TRY(sq_alloc(&gain, C));
    SQ_TRY(sq_tensor_to_f32(gain, norm));
    SQ_TRY(put_head(s, head));
    SQ_TRY(sq_alloc(&rrms, positions(s)));
    s->ops->host->rmsnorm(sq_f32(s->x), C, rrms, s->x, C, gain, s->cfg.eps, positions(s), C);
out:
    sq_free(rrms);
    sq_free(gain);
    return rc;
}

void sq_states_release(struct sq_states *s)
{
    work_free(s);
    if (s->head)
        s->ops->release(s->head);
    sq_free(s->x);
    *s = (struct sq_states){0};
}

/* ---- a whole model --------------------------------------------------------------------------- */

static int run_layers(struct sq_states *s, struct sq_source *src)
{
    struct sq_layer l = SQ_LAYER_INIT;
    int rc;
    while ((rc = sq_source_layer(src, &l)) > 0)
        SQ_TRY(sq_states_layer(s, &l));
out:
    sq_layer_release(&l);
    return rc;
}

/* Every tensor up to the next layer or the end: parts of the table called name, the final norm if it is wanted. */
static int read_tops(struct sq_table *table, const char *name, struct sq_tensor *norm, struct sq_source *src)
{
    struct sq_tensor t = SQ_TENSOR_INIT;
    int rc;
    while ((rc = sq_source_top(src, &t)) > 0) {
        if (norm && strcmp(t.name, SQ_FINAL_NORM_NAME) == 0) {
            sq_tensor_move(norm, &t);
            continue;
        }
        SQ_TRY(sq_table_offer(table, &t, name));
        if (rc == 0)
            SQ_TRY(sq_fail(SQ_E_FORMAT, "tensor '%s' has no place in front of or behind the layers", t.name));
    }
out:
    sq_tensor_release(&t);
    return rc;
}

int sq_states_run(struct sq_states *s, struct sq_source *src, const struct sq_windows *w, const struct sq_ops *ops,
                  const struct sq_watch *watch)
{
    struct sq_table embed = SQ_TABLE_INIT, head = SQ_TABLE_INIT;
    struct sq_tensor norm = SQ_TENSOR_INIT;
    const struct sq_config *cfg = sq_source_config(src);
    int rc;
    *s = (struct sq_states){0};
    SQ_TRY(read_tops(&embed, SQ_EMBED_NAME, NULL, src));
    SQ_TRY(sq_table_ready(&embed, SQ_EMBED_NAME));
    if (rc == 0)
        SQ_TRY(sq_fail(SQ_E_FORMAT, "the model has no '%s' in front of its layers", SQ_EMBED_NAME));
    SQ_TRY(sq_states_embed(s, cfg, &embed, w, ops, watch));
    if (!cfg->tied)
        sq_table_release(&embed);
    SQ_TRY(run_layers(s, src));
    SQ_TRY(read_tops(&head, SQ_HEAD_NAME, &norm, src));
    SQ_TRY(sq_table_ready(&head, SQ_HEAD_NAME));
    const bool own = rc > 0;
    if (!norm.data || (!own && !cfg->tied))
        SQ_TRY(sq_fail(SQ_E_FORMAT, "the model has no '%s'", norm.data ? SQ_HEAD_NAME : SQ_FINAL_NORM_NAME));
    SQ_TRY(sq_states_head(s, &norm, own ? &head : &embed));
out:
    sq_tensor_release(&norm);
    sq_table_release(&head);
    sq_table_release(&embed);
    if (rc < 0)
        sq_states_release(s);
    return rc;
}
