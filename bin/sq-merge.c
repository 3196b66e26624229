/* sq-merge.c - absorb everything that was learned: layers become codes, scales and zero points */
#include <string.h>

#include "sq/app.h"
#include "sq/join.h"
#include "sq/json.h"
#include "sq/merge.h"

struct merge {
    struct sq_app app;
    struct sq_stream *in, *out;
    struct sq_join *results;
    const struct sq_ops *ops;
    struct sq_config cfg;
    bool model;
    int64_t layers, joined, tables, partial; /* partial: layers whose last --rate was below 1 */
    const char *scheme_name;         /* NULL: the layers' own */
    struct sq_scheme scheme, embed;
    bool round_embed;
    enum sq_dtype scale;
    struct sq_merge_counts counts, embed_counts;
};

/* -s names the scheme of layers that have none; with others it has to agree. */
static int set_scheme(struct sq_layer *l, struct merge *m)
{
    struct sq_scheme s;
    char name[SQ_SCHEME_NAME];
    if (!l->scheme)
        return m->scheme_name ? sq_scheme_to_json(&l->scheme, &m->scheme)
                              : sq_fail(SQ_E_ARG, "layer %" PRId64 " has no scheme: give -s", l->index);
    const int rc = sq_scheme_from_json(&s, l->scheme);
    if (rc < 0)
        return sq_fail_in(rc, "layer %" PRId64, l->index);
    m->partial += s.rate < 1;
    if (m->scheme_name && (s.wbits != m->scheme.wbits || s.abits != m->scheme.abits ||
                           s.group != m->scheme.group || s.sym != m->scheme.sym))
        return sq_fail(SQ_E_ARG, "layer %" PRId64 " was made for %s, not for %s", l->index,
                       sq_scheme_name(name, &s), m->scheme_name);
    return 0;
}

static int merge_layer(struct merge *m, const struct sq_record *rec)
{
    struct sq_layer l = SQ_LAYER_INIT;
    int rc;
    if (!m->model)
        SQ_TRY(sq_fail(SQ_E_FORMAT, "a layer comes before the model record"));
    SQ_TRY(sq_layer_read(&l, m->in, rec));
    if (l.index != m->layers || l.index >= m->cfg.layers)
        SQ_TRY(sq_fail(SQ_E_FORMAT, "layer %" PRId64 " where layer %" PRId64 " of %" PRId64 " should come",
                       l.index, m->layers, m->cfg.layers));
    rc = sq_join_layer(m->results, &l);
    if (rc < 0)
        goto out;
    m->joined += rc;
    SQ_TRY(set_scheme(&l, m));
    if (l.state != SQ_MERGED)
        SQ_TRY(sq_layer_merge(&l, &m->cfg, m->scale, m->ops));
    SQ_TRY(sq_merge_count(&m->counts, &l, &m->cfg));
    SQ_TRY(sq_layer_write(m->out, &l));
    m->layers++;
    sq_app_progress(&m->app, (double)m->layers, (double)m->cfg.layers, "layer %" PRId64, l.index);
out:
    sq_layer_release(&l);
    return rc;
}

static int read_model(struct merge *m, const struct sq_record *rec)
{
    json_t *config = NULL;
    int rc;
    if (m->model)
        SQ_TRY(sq_fail(SQ_E_FORMAT, "a second model record: two models in one stream"));
    SQ_TRY(sq_json_object(&config, rec->head, "config"));
    SQ_TRY(sq_config_from_json(&m->cfg, config));
    m->model = true;
    SQ_TRY(sq_stream_copy(m->out, m->in, rec));
out:
    return rc;
}

static int pass_tensor(struct merge *m, const struct sq_record *rec)
{
    const char *name = json_string_value(json_object_get(rec->head, "name"));
    if (!m->round_embed || !name || (strcmp(name, SQ_EMBED_NAME) && strcmp(name, SQ_HEAD_NAME)))
        return sq_stream_copy(m->out, m->in, rec);
    m->tables++;
    return sq_table_round(m->out, m->in, rec, &m->embed, m->scale, &m->embed_counts);
}

static int run(struct merge *m)
{
    struct sq_record rec = SQ_RECORD_INIT;
    int rc;
    SQ_TRY(sq_stream_begin(m->out, m->in, &m->app));
    while ((rc = sq_stream_next(m->in, &rec)) > 0) {
        if (rec.kind == SQ_REC_LAYER)
            SQ_TRY(merge_layer(m, &rec));
        else if (rec.kind == SQ_REC_MODEL)
            SQ_TRY(read_model(m, &rec));
        else if (rec.kind == SQ_REC_TENSOR)
            SQ_TRY(pass_tensor(m, &rec));
        else if (rec.kind != SQ_REC_CURSOR) /* nothing is learned after this: activations of no use */
            SQ_TRY(sq_stream_copy(m->out, m->in, &rec));
    }
    if (rc < 0)
        goto out;
    if (!m->model || m->layers != m->cfg.layers)
        SQ_TRY(sq_fail(SQ_E_FORMAT,
                       m->model ? "the stream ends after layer %" PRId64 " of %" PRId64
                                : "the stream has no model record",
                       m->layers - 1, m->cfg.layers));
    SQ_TRY(sq_join_finish(&m->results));
    if (m->joined)
        sq_log(SQ_INFO, "%" PRId64 " of %" PRId64 " layers are from other streams", m->joined, m->layers);
    if (m->partial)
        sq_log(SQ_WARNING,
               "%" PRId64 " layers were learned with --rate below 1 only; they are rounded as a whole",
               m->partial);
    if (m->round_embed && !m->tables)
        SQ_TRY(sq_fail(SQ_E_FORMAT, "--embed: the stream has neither embedding nor head as floats"));
    rc = 0;
out:
    sq_record_release(&rec);
    return rc;
}

static int report(struct merge *m, const char *event, const struct sq_merge_counts *c)
{
    sq_log(SQ_INFO,
           "%s: %" PRId64 " codes, %.2f %% at the ends, %" PRId64 " groups, %" PRId64 " all zero, %" PRId64
           " scales raised",
           event, c->codes, 100.0 * (double)(c->low + c->high) / (double)SQ_MAX(1, c->codes), c->groups,
           c->zero_groups, c->small_scales);
    return sq_app_metric(&m->app, event,
                         json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "layers", (json_int_t)m->layers,
                                   "codes", (json_int_t)c->codes, "low", (json_int_t)c->low, "high",
                                   (json_int_t)c->high, "groups", (json_int_t)c->groups, "zero_groups",
                                   (json_int_t)c->zero_groups, "raised_scales", (json_int_t)c->small_scales));
}

int main(int argc, char **argv)
{
    struct merge m = {.scale = SQ_F16};
    const char *embed = NULL;
    int scale = 0, rc;
    const struct sq_opt opts[] = {
        SQ_OPT_STR('s', "scheme", &m.scheme_name, "SCHEME",
                   "of layers without one, which are rounded as they are: W4A16g128, W2A16"),
        SQ_OPT_ENUM(0, "scale", &scale, "f16|f32",
                    "type in which scales are stored; codes are computed after rounding to it"),
        SQ_OPT_STR(0, "embed", &embed, "SCHEME", "round embedding and head too, symmetric: W8g32, W6, W4g64"),
        SQ_OPT_END,
    };
    sq_app_init(&m.app, "sq-merge", "[RESULT ...]", "absorb what was learned: layers become codes, scales, zero points",
                opts, 1000, argc, argv);
    m.scale = scale ? SQ_F32 : SQ_F16;
    m.round_embed = embed != NULL;
    if (m.scheme_name)
        SQ_TRY(sq_scheme_parse(&m.scheme, m.scheme_name));
    if (embed)
        SQ_TRY(sq_scheme_parse_tensor(&m.embed, embed));
    if (embed && m.embed.wbits >= 16)
        m.round_embed = false;
    SQ_TRY(sq_ops_of(&m.ops, &m.app, (enum sq_precision)m.app.precision));
    if (m.ops != m.ops->host)
        SQ_TRY(sq_fail(SQ_E_ARG, "layers are merged on the processor: leave --backend cuda out"));
    SQ_TRY(sq_join_open(&m.results, m.app.arg, m.app.narg));
    SQ_TRY(sq_stream_open(&m.in, m.app.in, SQ_READ));
    SQ_TRY(sq_stream_open(&m.out, m.app.out, SQ_WRITE));
    SQ_TRY(run(&m));
    SQ_TRY(sq_stream_finish(&m.in));
    SQ_TRY(sq_stream_finish(&m.out));
    SQ_TRY(report(&m, "merged", &m.counts));
    if (m.round_embed)
        SQ_TRY(report(&m, "embed", &m.embed_counts));
out:
    sq_stream_abort(&m.out, rc);
    sq_stream_abort(&m.in, rc);
    sq_join_abort(&m.results, rc);
    return sq_app_exit(&m.app, rc);
}
