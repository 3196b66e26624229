#include "sq/stats.h"

#include <string.h>

#include "acts.h"
#include "sq/json.h"
#include "sq/layer.h"
#include "sq/window.h"

enum { BATCH = 4 };

struct sq_stats_pass {
    struct sq_config cfg;
    const struct sq_ops *ops;
    struct sq_trainer *trainer;
    struct acts acts;
    int64_t layer; /* the next one */
};

int sq_stats_new(struct sq_stats_pass **out, const struct sq_config *cfg, const struct sq_samples *samples,
                 const struct sq_app *app)
{
    struct sq_stats_pass *p = NULL;
    int rc;
    SQ_TRY(sq_alloc(&p, 1));
    p->cfg = *cfg;
    p->acts = (struct acts){
        .samples = samples->samples - samples->heldout, .tokens = samples->length, .hidden = cfg->hidden};
    const int64_t n = p->acts.samples * p->acts.tokens;
    SQ_TRY(sq_alloc(&p->acts.ids, n));
    memcpy(p->acts.ids, samples->id, (size_t)n * sizeof(*p->acts.ids));
    SQ_TRY(sq_ops_of(&p->ops, app, (enum sq_precision)app->precision));
    acts_type(&p->acts, p->ops);
    SQ_TRY(sq_trainer_new(&p->trainer, cfg, p->ops, NULL, 1, SQ_MIN(BATCH, p->acts.samples), p->acts.tokens));
out:
    if (rc < 0)
        sq_stats_free(&p);
    *out = p;
    return rc;
}

void sq_stats_free(struct sq_stats_pass **out)
{
    struct sq_stats_pass *p = *out;
    if (!p)
        return;
    sq_trainer_free(&p->trainer);
    acts_release(&p->acts);
    sq_free(p);
    *out = NULL;
}

static int add_mean(struct sq_layer *l, const char *name, const double *sum, int64_t rows, int64_t cols, int64_t tokens)
{
    struct sq_tensor t = SQ_TENSOR_INIT;
    const int64_t dim[2] = {rows ? rows : cols, cols};
    const int rc = sq_tensor_new(&t, name, SQ_F32, rows ? 2 : 1, dim);
    if (rc < 0)
        return rc;
    for (int64_t i = 0; i < sq_tensor_count(&t); i++)
        ((float *)t.owned)[i] = (float)(sum[i] / (double)SQ_MAX(tokens, 1));
    return sq_layer_add(l, &t);
}

/* x through the layer; what entered its linears becomes tensors of it */
static int measure(struct sq_stats_pass *p, struct sq_layer *l)
{
    const struct sq_config *c = &p->cfg;
    struct sq_input_stats s = {0};
    struct sq_block w = {0};
    int rc;
    SQ_TRY(sq_input_stats_new(&s, c, p->ops->host));
    SQ_TRY(sq_block_view(&w, c, l));
    SQ_TRY(sq_trainer_float(p->trainer, p->acts.xf, p->acts.samples, &w, &s));
    SQ_TRY(add_mean(l, "input_sq.qkv", s.qkv, 0, c->hidden, s.tokens));
    SQ_TRY(add_mean(l, "input_sq.out", s.out, 0, c->heads * c->head_dim, s.tokens));
    SQ_TRY(add_mean(l, "input_sq.fc1", s.fc1, 0, c->hidden, s.tokens));
    SQ_TRY(add_mean(l, "input_sq.fc2", s.fc2, c->experts, c->ffn, s.tokens));
out:
    sq_block_release(&w);
    sq_input_stats_release(&s);
    return rc;
}

static int layer(struct sq_stats_pass *p, struct sq_stream *out, struct sq_stream *in, const struct sq_record *rec)
{
    struct sq_layer l = SQ_LAYER_INIT;
    int rc = sq_layer_read(&l, in, rec);
    if (rc == 0 && l.index != p->layer)
        rc = sq_fail(SQ_E_FORMAT, "it comes where layer %" PRId64 " should", p->layer);
    if (rc == 0 && l.state != SQ_FLOAT)
        rc = sq_fail(SQ_E_ARG, "it is %s; statistics are of the float model", sq_state_name(l.state));
    if (rc == 0 && !p->acts.embedded)
        rc = sq_fail(SQ_E_FORMAT, "it comes before the tensor '" SQ_EMBED_NAME "'");
    if (rc == 0)
        rc = sq_layer_check(&l, &p->cfg);
    if (rc == 0)
        rc = measure(p, &l);
    rc = rc < 0 ? sq_fail_in(rc, "layer %" PRId64, l.index) : sq_layer_write(out, &l);
    sq_layer_release(&l);
    p->layer++;
    return rc;
}

int sq_stats_pass_on(struct sq_stats_pass *p, struct sq_stream *out, struct sq_stream *in, const struct sq_record *rec)
{
    const char *name = json_string_value(json_object_get(rec->head, "name"));
    if (rec->kind == SQ_REC_LAYER)
        return layer(p, out, in, rec);
    if (rec->kind == SQ_REC_TENSOR && name && strcmp(name, SQ_EMBED_NAME) == 0 && !p->acts.embedded)
        return acts_embed(&p->acts, out, in, rec, &p->cfg);
    return sq_stream_copy(out, in, rec);
}
