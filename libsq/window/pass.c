/* The engine. Layers are read when a window or a stream needs them and written when Xq has left them, in
 * their order, so what a pipe between two processes carries is what a spool between two passes carries. */
#include "pass.h"

#include <stdlib.h>
#include <string.h>

#include "sq/json.h"
#include "sq/stop.h"

struct held *pass_held(struct pass *e, int64_t layer)
{
    SQ_ASSERT(layer >= e->xq_at && layer < e->read);
    return &e->held[layer % e->cap];
}

int64_t pass_widest(const struct pass *e)
{
    int64_t most = 1;
    for (int64_t k = 0; k < e->schedule.n; k++)
        if (e->chosen[k])
            most = SQ_MAX(most, e->schedule.window[k].last - e->schedule.window[k].first + 1);
    return most;
}

int64_t pass_part(const struct pass *e)
{
    const int64_t batch = SQ_MIN(e->plan->batch, e->acts.samples), shards = SQ_MAX(e->plan->shards, 1);
    return (batch + shards - 1) / shards;
}

void pass_held_release(struct held *h)
{
    sq_params_release(&h->p);
    sq_block_release(&h->w);
    sq_layer_release(&h->layer);
    *h = (struct held){.layer = SQ_LAYER_INIT};
}

int pass_init(struct pass *e, const struct sq_plan *plan, struct sq_app *app, struct tally *tally,
              struct sq_stream *in, struct sq_stream *out, const double *rate, int nrate)
{
    *e = (struct pass){.plan = plan,
                       .app = app,
                       .tally = tally,
                       .in = in,
                       .out = out,
                       .rate = rate,
                       .nrate = nrate,
                       .weight_at = -1,
                       .acts = {.spill = plan->spill}};
    int rc = sq_ops_of(&e->ops, app, (enum sq_precision)app->precision);
    if (rc == 0) {
        e->room = e->ops->room();
        acts_type(&e->acts, e->ops);
        rc = sq_hash_init(&e->seen);
    }
    if (rc == 0 && tally->folder && !(e->made = folder_made(tally->folder)))
        rc = sq_fail(SQ_E_NOMEM, "no memory for what a window is made of");
    return rc;
}

void pass_release(struct pass *e)
{
    for (int64_t i = 0; i < e->cap; i++)
        pass_held_release(&e->held[i]);
    sq_free(e->held);
    sq_record_release(&e->rec);
    sq_trainer_free(&e->trainer);
    acts_release(&e->acts);
    sq_free(e->weight);
    sq_hash_release(&e->seen);
    json_decref(e->model);
    json_decref(e->tokens);
    json_decref(e->made);
    sq_schedule_release(&e->schedule);
    sq_free(e->chosen);
}

/* ---- what comes before the layers ---- */

/* A job has its window's layers and no others. */
static int only_window(struct pass *e)
{
    if (e->job.last >= e->cfg.layers)
        return sq_fail(SQ_E_FORMAT, "a job of layers %" PRId64 "-%" PRId64 " for a model of %" PRId64, e->job.first,
                       e->job.last, e->cfg.layers);
    e->schedule.window[0] = e->job;
    e->schedule.n = 1;
    e->chosen[0] = true;
    e->read = e->xq_at = e->job.first;
    return 0;
}

static int take_model(struct pass *e)
{
    json_t *config;
    int rc;
    if (e->have_model)
        return sq_fail(SQ_E_FORMAT, "the stream has two model records");
    SQ_TRY(sq_json_object(&config, e->rec.head, "config"));
    SQ_TRY(sq_config_from_json(&e->cfg, config));
    SQ_TRY(sq_plan_windows(&e->schedule, &e->chosen, e->plan, e->cfg.layers));
    e->have_model = true;
    e->model = json_incref(e->rec.head);
    if (e->is_job)
        SQ_TRY(only_window(e));
    while (!e->chosen[e->first])
        e->first++;
    for (int64_t k = 0; k < e->schedule.n; k++)
        if (e->chosen[k])
            e->stop = k + 1;
    SQ_TRY(sq_alloc(&e->held, pass_widest(e)));
    e->cap = pass_widest(e);
    for (int64_t i = 0; i < e->cap; i++)
        e->held[i].layer = (struct sq_layer)SQ_LAYER_INIT;
out:
    return rc;
}

double pass_rate_behind(const struct pass *e)
{
    return e->rate[e->nrate - 1];
}

static bool writes_cursor(const struct pass *e)
{
    return e->plan->needs_acts && e->stop < e->schedule.n;
}

/* where the window behind the last chosen one starts */
static struct cursor next_cursor(const struct pass *e)
{
    struct cursor c = {.layer = e->schedule.window[e->stop].first, .scheme = e->plan->scheme};
    c.float_layer = SQ_MAX(e->schedule.window[e->stop - 1].last + 1, c.layer);
    c.scheme.rate = pass_rate_behind(e);
    return c;
}

static int take_tokens(struct pass *e)
{
    if (!e->have_model)
        return sq_fail(SQ_E_FORMAT, "tokens come before the model record");
    int rc = acts_tokens(&e->acts, e->out, e->in, &e->rec, &e->cfg);
    if (rc < 0)
        return rc;
    e->tokens = json_incref(e->rec.head);
    sq_hash_add(&e->seen, e->acts.ids, (size_t)e->rec.bytes);
    if (writes_cursor(e) && e->out) {
        const struct cursor c = next_cursor(e);
        rc = cursor_announce(e->out, &c, &e->acts, e->ops);
    }
    return rc;
}

/* The cursor in front of the layer that comes next. */
static int use_cursor(struct pass *e)
{
    const int rc = cursor_read(&e->acts, e->in, &e->rec, &e->offer, &e->seen);
    e->xf_at = e->offer.float_layer;
    e->waiting = false;
    e->acts.embedded = rc == 0;
    return rc;
}

/* An announcement is either taken or dropped; a cursor that nobody waits for is skipped by the next read. */
static int take_cursor(struct pass *e)
{
    struct sq_scheme s = e->plan->scheme;
    if (e->waiting && !cursor_is_announcement(e->rec.head) && e->offer.layer == e->read)
        return use_cursor(e);
    if (!cursor_is_announcement(e->rec.head) || !e->plan->needs_acts || e->plan->no_cursor || !e->acts.ids)
        return 0;
    if (e->acts.embedded)
        return sq_fail(SQ_E_FORMAT, "a cursor is announced behind the embedding; use --no-cursor to start from the tokens");
    const struct sq_window *w = &e->schedule.window[e->first];
    s.rate = pass_rate_behind(e);
    const int rc = cursor_matches(&e->offer, e->rec.head, &e->acts, e->ops, &s, w->first, w->last);
    e->waiting = rc > 0;
    return SQ_MIN(rc, 0);
}

int pass_on(struct pass *e)
{
    return e->out ? sq_stream_copy(e->out, e->in, &e->rec) : 0;
}

static bool is_embedding(const struct sq_record *rec)
{
    const char *name = json_string_value(json_object_get(rec->head, "name"));
    return rec->kind == SQ_REC_TENSOR && name && strcmp(name, SQ_EMBED_NAME) == 0;
}

static int take_tensor(struct pass *e)
{
    if (!is_embedding(&e->rec) || !e->plan->needs_acts || e->waiting)
        return pass_on(e);
    if (!e->acts.ids)
        return sq_fail(SQ_E_FORMAT,
                       "the stream carries no calibration tokens; put sq-calib before sq-window");
    if (e->acts.embedded)
        return sq_fail(SQ_E_FORMAT, "the stream has two embeddings");
    return acts_embed(&e->acts, e->out, e->in, &e->rec, &e->cfg);
}

int pass_prelude(struct pass *e)
{
    int rc;
    while ((rc = sq_stream_next(e->in, &e->rec)) > 0 && e->rec.kind != SQ_REC_LAYER) {
        const enum sq_kind kind = e->rec.kind;
        if (kind == SQ_REC_MODEL)
            rc = take_model(e);
        rc = rc < 0                  ? rc
             : kind == SQ_REC_TOKENS ? take_tokens(e)
             : kind == SQ_REC_CURSOR ? take_cursor(e)
             : kind == SQ_REC_TENSOR ? take_tensor(e)
             : kind == SQ_REC_OTHER  ? pass_take_job(e)
                                     : 0;
        if (rc == 0 && kind != SQ_REC_TOKENS && kind != SQ_REC_CURSOR && kind != SQ_REC_TENSOR)
            rc = pass_on(e);
        if (rc < 0)
            return rc;
    }
    if (rc < 0)
        return rc;
    if (e->plan->job && !e->is_job)
        return sq_fail(SQ_E_FORMAT, "this is no job file: sq-window --jobs writes them");
    if (rc == 0 || !e->have_model)
        return sq_fail(SQ_E_FORMAT, rc == 0 ? "the stream has no layers" : "the stream has no model record");
    e->pending = true;
    if (e->plan->needs_acts && !e->waiting && !e->acts.embedded)
        return sq_fail(SQ_E_FORMAT, "the stream has no tensor '" SQ_EMBED_NAME "' before its layers");
    return 0;
}

/* ---- Xf and Xq ---- */

static bool covered(const struct pass *e, int64_t layer)
{
    for (int64_t k = e->first; k < e->stop; k++)
        if (e->chosen[k] && e->schedule.window[k].first <= layer && layer <= e->schedule.window[k].last)
            return true;
    return false;
}

static bool has_kind(const struct sq_params *p, enum sq_param_kind kind)
{
    for (int64_t i = 0; i < p->nparam; i++)
        if (p->param[i].kind == kind)
            return true;
    return false;
}

/* What a layer lacks of the plan's parameters joins what it has: so `--learn none --init act` can be followed
 * by another stage that learns lora. */
static int extend(struct pass *e, struct held *h, int64_t index, const struct sq_input_stats *stats)
{
    struct sq_params_spec spec = e->plan->params;
    struct sq_params all = {0};
    const struct sq_member m = {.w = &h->w, .p = &all};
    const bool fresh = h->p.nparam == 0, clip = has_kind(&h->p, SQ_P_CLIP);
    int rc;
    spec.lora |= has_kind(&h->p, SQ_P_LORA);
    spec.clip |= clip;
    spec.scaling |= has_kind(&h->p, SQ_P_ALPHA);
    if (has_kind(&h->p, SQ_P_LORA))
        spec.rank = h->p.rank;
    SQ_TRY(sq_params_new(&all, &e->cfg, &e->plan->scheme, &spec, index));
    for (int64_t i = 0; i < all.nparam; i++)
        for (int64_t k = 0; k < h->p.nparam; k++)
            if (strcmp(all.param[i].name, h->p.param[k].name) == 0)
                memcpy(all.param[i].x, h->p.param[k].x, (size_t)all.param[i].n * sizeof(float));
    if (e->plan->init != SQ_INIT_MINMAX && !clip && !e->all_kept) {
        if (!fresh)
            SQ_TRY(sq_fail(
                SQ_E_ARG, "it was learned without clipping; learn lwc from the start, or use --init minmax"));
        SQ_TRY(sq_trainer_search(e->trainer, &m, &e->plan->scheme, stats));
    }
    sq_params_release(&h->p);
    h->p = all;
    all = (struct sq_params){0};
    h->quantized = h->changed = true;
out:
    sq_params_release(&all);
    return rc < 0 ? sq_fail_in(rc, "layer %" PRId64, index) : 0;
}

static int float_layer(struct pass *e, int64_t index)
{
    struct held *h = pass_held(e, index);
    struct sq_input_stats stats = {0};
    const struct acts *a = &e->acts;
    const int64_t train = a->samples - a->heldout;
    const bool wanted = covered(e, index);
    const bool search = wanted && e->plan->init == SQ_INIT_ACT && !has_kind(&h->p, SQ_P_CLIP);
    int rc = 0;
    if (search)
        SQ_TRY(sq_input_stats_new(&stats, &e->cfg, e->ops->host));
    if (!e->all_kept) {
        SQ_TRY(sq_trainer_float(e->trainer, a->xf, train, &h->w, search ? &stats : NULL));
        SQ_TRY(sq_trainer_float(e->trainer, sq_floats_from(a->xf, train * a->tokens * a->hidden), a->heldout, &h->w,
                                NULL));
    }
    if (wanted)
        SQ_TRY(extend(e, h, index, search ? &stats : NULL));
    e->xf_at = index + 1;
out:
    sq_input_stats_release(&stats);
    return rc;
}

/* A layer that Xf had left in front of the cursor: it was learned, though perhaps not all that is learned here. */
static int left_layer(struct pass *e, int64_t index)
{
    const int rc = pass_need(e, index);
    if (rc < 0 || !covered(e, index))
        return rc;
    struct held *h = pass_held(e, index);
    if (h->p.nparam == 0)
        return sq_fail(SQ_E_FORMAT, "layer %" PRId64 " behind the cursor has not learned what its activations say; use "
                       "--no-cursor to start from the tokens", index);
    return extend(e, h, index, NULL);
}

int pass_advance_float(struct pass *e, int64_t n)
{
    int rc = 0;
    while (rc == 0 && e->read < SQ_MIN(n, e->xf_at))
        rc = left_layer(e, e->read);
    while (rc == 0 && e->xf_at < n) {
        rc = pass_need(e, e->xf_at);
        if (rc == 0)
            rc = float_layer(e, e->xf_at);
    }
    return rc;
}

static int quantized_layer(struct pass *e, struct held *h)
{
    const struct sq_member m = {.w = &h->w, .p = &h->p};
    struct sq_scheme s = e->plan->scheme;
    s.rate = pass_rate_behind(e);
    if (e->all_kept)
        return sq_stop_check();
    return h->quantized ? sq_trainer_rounded(e->trainer, e->acts.xq, e->acts.samples, &m, &s)
                        : sq_trainer_float(e->trainer, e->acts.xq, e->acts.samples, &h->w, NULL);
}

int pass_advance(struct pass *e, int64_t n)
{
    int rc;
    while (e->xq_at < n) {
        const int64_t i = e->xq_at;
        SQ_TRY(pass_need(e, i));
        SQ_TRY(pass_advance_float(e, i + 1));
        SQ_TRY(quantized_layer(e, pass_held(e, i)));
        SQ_TRY(pass_emit(e, i, true));
    }
    return 0;
out:
    return rc;
}

/* ---- the run ---- */

/* Layers that a cursor lets us skip, then the cursor. */
static int resume(struct pass *e)
{
    int rc;
    while (e->read < e->offer.layer) {
        struct sq_layer l = SQ_LAYER_INIT;
        rc = pass_read_layer(e, &l, e->read);
        if (rc == 0)
            rc = pass_write_layer(e, &l);
        sq_layer_release(&l);
        if (rc < 0)
            return rc;
        e->xq_at = ++e->read;
    }
    while ((rc = sq_stream_next(e->in, &e->rec)) > 0 && e->rec.kind != SQ_REC_CURSOR &&
           e->rec.kind != SQ_REC_LAYER)
        if ((rc = pass_on(e)) < 0)
            return rc;
    if (rc < 0)
        return rc;
    if (rc == 0 || e->rec.kind != SQ_REC_CURSOR)
        return sq_fail(SQ_E_FORMAT,
                       "the cursor announced in front of layer %" PRId64 " is missing; use --no-cursor",
                       e->offer.layer);
    return use_cursor(e);
}

/* Layers that no window changes any more, and all that follows them, cursors left out. */
static int flush(struct pass *e, bool last)
{
    int rc = 0;
    while (rc == 0 && e->xq_at < e->read)
        rc = pass_emit(e, e->xq_at, last);
    while (rc == 0 && (e->pending || (rc = sq_stream_next(e->in, &e->rec)) > 0)) {
        e->pending = false;
        rc = e->rec.kind == SQ_REC_CURSOR ? 0 : pass_on(e);
    }
    return rc;
}

static int mark_layer(struct pass *e, struct sq_layer *l, int64_t index)
{
    struct sq_scheme s;
    int rc = pass_read_layer(e, l, index);
    if (rc == 0 && covered(e, index)) {
        if (l->scheme && (rc = pass_check_scheme(&s, e, l)) < 0)
            return sq_fail_in(rc, "layer %" PRId64, index);
        s = e->plan->scheme;
        s.rate = pass_rate_behind(e);
        json_decref(l->scheme);
        l->scheme = NULL;
        l->state = s.rate == 1.0 ? SQ_FINAL : SQ_LEARNING;
        rc = sq_scheme_to_json(&l->scheme, &s);
    }
    return rc < 0 ? rc : pass_write_layer(e, l);
}

/* Nothing is learned and nothing searched: layers only get their scheme, sq-merge rounds them. */
static int mark_layers(struct pass *e)
{
    int rc = 0;
    for (int64_t i = 0; rc == 0 && i < e->cfg.layers; i++) {
        struct sq_layer l = SQ_LAYER_INIT;
        rc = mark_layer(e, &l, i);
        sq_layer_release(&l);
        if (rc == 0)
            rc = sq_stop_check();
    }
    return rc < 0 ? rc : flush(e, true);
}

/* layer-steps of all stages, for the time left */
static double work_ahead(const struct pass *e)
{
    const int64_t epoch = e->acts.samples - e->acts.heldout;
    const struct sq_window_job job = {.picks = pass_picks(e), .epoch = epoch, .batch = e->plan->batch};
    double layers = 0.0;
    for (int64_t k = e->first; k < e->stop; k++)
        if (e->chosen[k])
            layers += (double)(e->schedule.window[k].last - e->schedule.window[k].first + 1);
    return layers * (double)(sq_window_steps(&job) * e->plan->nrate);
}

/* What a work folder's files are bound to, but for the layers, which are noted as they come. */
static int note_input(struct pass *e)
{
    const struct acts *a = &e->acts;
    const size_t bytes = acts_bytes(a);
    char ids[SQ_HASH_TEXT], xf[SQ_HASH_TEXT], xq[SQ_HASH_TEXT], config[SQ_HASH_TEXT];
    json_t *model = NULL;
    char *text = NULL;
    int rc;
    SQ_TRY(sq_config_to_json(&model, &e->cfg));
    text = json_dumps(model, JSON_COMPACT);
    if (!text)
        SQ_TRY(sq_fail(SQ_E_NOMEM, "no memory for what a window is made of"));
    sq_hash_text(config, sq_hash_of(text, strlen(text)));
    sq_hash_text(ids, sq_hash_of(a->ids, (size_t)(a->samples * a->tokens) * sizeof *a->ids));
    sq_hash_text(xf, sq_hash_of(a->xf.x, bytes));
    sq_hash_text(xq, sq_hash_of(a->xq.x, bytes));
    SQ_TRY(made_note(e->made, "model", "%s", config));
    SQ_TRY(made_note(e->made, "samples", "%" PRId64 " of %" PRId64 " tokens, %" PRId64 " held out, %s", a->samples,
                       a->tokens, a->heldout, ids));
    SQ_TRY(made_note(e->made, "activations", "%s %s", xf, xq));
out:
    free(text);
    json_decref(model);
    return rc;
}

static int run_windows(struct pass *e)
{
    int rc;
    if (e->tally->total == 0.0)
        e->tally->total = work_ahead(e);
    e->all_kept = pass_is_kept(e) && !writes_cursor(e);
    if (e->waiting)
        SQ_TRY(resume(e));
    if (e->made)
        SQ_TRY(note_input(e));
    for (int64_t k = e->first; k < e->stop; k++) {
        const struct sq_window *w = &e->schedule.window[k];
        if (e->chosen[k]) {
            SQ_TRY(pass_advance(e, w->first));
            SQ_TRY(pass_advance_float(e, w->last + 1));
            SQ_TRY(pass_learn(e, k));
        }
        if (k + 1 < e->schedule.n)
            SQ_TRY(pass_advance(e, e->schedule.window[k + 1].first));
    }
    if (writes_cursor(e)) {
        const struct cursor c = next_cursor(e);
        if (e->out)
            SQ_TRY(cursor_write(e->out, &c, &e->acts, e->ops, &e->seen));
    }
    SQ_TRY(flush(e, e->stop == e->schedule.n));
out:
    return rc;
}

int pass_run(struct pass *e)
{
    int rc = pass_prelude(e);
    if (rc < 0)
        return rc;
    if (!e->plan->needs_acts)
        return mark_layers(e);
    rc = sq_trainer_new(&e->trainer, &e->cfg, e->ops, &e->plan->scheme, pass_widest(e), pass_part(e), e->acts.tokens);
    if (rc < 0)
        return sq_fail_in(rc, "windows of %" PRId64 " layers, batches in parts of %" PRId64, pass_widest(e), pass_part(e));
    SQ_TRY(sq_alloc(&e->weight, e->acts.samples * e->acts.tokens));
    SQ_TRY(run_windows(e));
out:
    return rc;
}
