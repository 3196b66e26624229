/* Is a stream a complete model? The digests are checked by reading it; here: the order of its records and,
 * layer by layer, what the config demands. Only one layer is in memory. */
#include <stdlib.h>
#include <string.h>

#include "sq/inspect.h"
#include "sq/json.h"
#include "sq/layer.h"

enum { MAX_TOP = 64 };

struct check {
    struct sq_stream *in;
    struct sq_record rec;
    struct sq_config cfg;
    bool have_model, have_tokens;
    int64_t layers, tensors, merged;
    int64_t ntop;
    char top[MAX_TOP][SQ_NAME_MAX]; /* names of the tensors outside of layers */
};

static bool have_top(const struct check *c, const char *name)
{
    for (int64_t i = 0; i < c->ntop; i++)
        if (strcmp(c->top[i], name) == 0)
            return true;
    return false;
}

static int take_model(struct check *c)
{
    json_t *config, *manifest;
    int rc;
    if (c->have_model)
        return sq_fail(SQ_E_FORMAT, "a second model record");
    SQ_TRY(sq_json_object(&config, c->rec.head, "config"));
    SQ_TRY(sq_json_array(&manifest, c->rec.head, "manifest"));
    SQ_TRY(sq_config_from_json(&c->cfg, config));
    c->have_model = true;
out:
    return rc;
}

static int take_file(struct check *c)
{
    const char *name;
    if (c->ntop || c->layers)
        return sq_fail(SQ_E_FORMAT, "a file record behind the first tensor");
    return sq_json_str(&name, c->rec.head, "name");
}

static int take_tokens(struct check *c)
{
    const char *dtype;
    int64_t samples, length, heldout = 0;
    int32_t *ids = NULL;
    int rc;

    if (c->have_tokens || c->layers)
        return sq_fail(SQ_E_FORMAT,
                       c->have_tokens ? "a second tokens record" : "tokens behind the first layer");
    SQ_TRY(sq_json_int(&samples, c->rec.head, "samples", 1, INT64_C(1) << 24));
    SQ_TRY(sq_json_int(&length, c->rec.head, "length", 1, INT64_C(1) << 20));
    SQ_TRY(sq_json_int_opt(&heldout, c->rec.head, "heldout", 0, samples));
    SQ_TRY(sq_json_str(&dtype, c->rec.head, "dtype"));
    if (strcmp(dtype, "i32") != 0 || c->rec.bytes != 4 * samples * length)
        return sq_fail(SQ_E_FORMAT, "tokens are %s and %" PRId64 " bytes, not i32 and %" PRId64, dtype,
                       c->rec.bytes, 4 * samples * length);
    SQ_TRY(sq_alloc(&ids, length));
    for (int64_t s = 0; s < samples; s++) {
        SQ_TRY(sq_stream_payload(c->in, ids, (size_t)length * sizeof *ids));
        for (int64_t i = 0; i < length; i++)
            if (ids[i] < 0 || ids[i] >= c->cfg.vocab)
                SQ_TRY(sq_fail(SQ_E_FORMAT,
                               "token %" PRId64 " of sample %" PRId64 " is id %" PRId32
                               ", the model has %" PRId64,
                               i, s, ids[i], c->cfg.vocab));
    }
    c->have_tokens = true;
out:
    sq_free(ids);
    return rc;
}

static int take_top(struct check *c)
{
    struct sq_tensor t = SQ_TENSOR_INIT;
    const int rc = sq_record_tensor(&t, &c->rec);
    if (rc < 0)
        return rc;
    if (json_object_get(c->rec.head, "layer"))
        return sq_fail(SQ_E_FORMAT, "tensor '%s' of a layer stands outside of it", t.name);
    if (c->layers && c->layers < c->cfg.layers)
        return sq_fail(SQ_E_FORMAT, "tensor '%s' stands between layers", t.name);
    if (have_top(c, t.name))
        return sq_fail(SQ_E_FORMAT, "tensor '%s' is there twice", t.name);
    if (c->ntop == MAX_TOP)
        return sq_fail(SQ_E_FORMAT, "more than %d tensors outside of layers", MAX_TOP);
    memcpy(c->top[c->ntop++], t.name, sizeof t.name);
    c->tensors++;
    return 0;
}

/* NAME.codes u8 [R,K], NAME.scales f16 or f32 [R,G], NAME.zeros u8 [R,G], or a float NAME.weight */
static int check_merged_linear(const struct check *c, const struct sq_layer *l, int64_t i)
{
    char linear[SQ_LINEAR_NAME], name[3][SQ_NAME_MAX];
    static const char *const part[] = {"codes", "scales", "zeros"};
    const struct sq_tensor *t[3];
    int64_t rows, cols;

    sq_linear_name(linear, &c->cfg, i);
    sq_linear_shape(&rows, &cols, &c->cfg, i);
    snprintf(name[0], sizeof name[0], "%s.weight", linear);
    if ((t[0] = sq_layer_find(l, name[0])))
        return t[0]->ndim == 2 && t[0]->dim[0] == rows && t[0]->dim[1] == cols
                   ? 0
                   : sq_fail(SQ_E_FORMAT, "layer %" PRId64 ": tensor '%s' has a wrong shape", l->index,
                             name[0]);
    for (int k = 0; k < 3; k++) {
        snprintf(name[k], sizeof name[k], "%s.%s", linear, part[k]);
        if (!(t[k] = sq_layer_find(l, name[k])))
            return sq_fail(SQ_E_FORMAT, "layer %" PRId64 " has no tensor '%s'", l->index, name[k]);
        if (t[k]->ndim != 2 || t[k]->dim[0] != rows || (k == 0 && t[k]->dim[1] != cols))
            return sq_fail(SQ_E_FORMAT, "layer %" PRId64 ": tensor '%s' has a wrong shape", l->index,
                           name[k]);
    }
    if (t[0]->dtype != SQ_U8 || t[2]->dtype != SQ_U8 || (t[1]->dtype != SQ_F16 && t[1]->dtype != SQ_F32) ||
        t[1]->dim[1] != t[2]->dim[1] || t[1]->dim[1] < 1)
        return sq_fail(SQ_E_FORMAT,
                       "layer %" PRId64 ": codes, scales and zeros of '%s' do not belong together", l->index,
                       linear);
    return 0;
}

static int take_layer(struct check *c)
{
    struct sq_layer l = SQ_LAYER_INIT;
    int rc;

    SQ_TRY(sq_layer_read(&l, c->in, &c->rec));
    if (l.index != c->layers || l.index >= c->cfg.layers)
        SQ_TRY(sq_fail(SQ_E_FORMAT, "layer %" PRId64 " comes where layer %" PRId64 " of %" PRId64 " is due",
                       l.index, c->layers, c->cfg.layers));
    if (l.state != SQ_FLOAT && !l.scheme)
        SQ_TRY(sq_fail(SQ_E_FORMAT, "layer %" PRId64 " is %s and has no scheme", l.index,
                       sq_state_name(l.state)));
    if (l.state != SQ_MERGED)
        SQ_TRY(sq_layer_check(&l, &c->cfg));
    for (int64_t i = 0; l.state == SQ_MERGED && i < sq_config_linears(&c->cfg); i++)
        SQ_TRY(check_merged_linear(c, &l, i));
    c->layers++;
    c->tensors += l.ntensor;
    c->merged += l.state == SQ_MERGED;
out:
    sq_layer_release(&l);
    return rc;
}

static int take(struct check *c)
{
    if (!c->have_model && c->rec.kind != SQ_REC_MODEL)
        return c->rec.kind == SQ_REC_OTHER ? 0
                                           : sq_fail(SQ_E_FORMAT, "a %s record in front of the model record",
                                                     sq_kind_name(c->rec.kind));
    switch (c->rec.kind) {
    case SQ_REC_MODEL: return take_model(c);
    case SQ_REC_FILE: return take_file(c);
    case SQ_REC_TOKENS: return take_tokens(c);
    case SQ_REC_TENSOR: return take_top(c);
    case SQ_REC_LAYER: return take_layer(c);
    default: return 0; /* windows, cursors, records of later versions */
    }
}

/* An embedding may be merged to codes, scales and zeros; whatever it is now, its name begins so. */
static bool have_part(const struct check *c, const char *name)
{
    char codes[SQ_NAME_MAX];
    const size_t n = strlen(name) - strlen(".weight");
    snprintf(codes, sizeof codes, "%.*s.codes", (int)n, name);
    return have_top(c, name) || have_top(c, codes);
}

static int complete(const struct check *c)
{
    if (!c->have_model)
        return sq_fail(SQ_E_FORMAT, "the stream has no model record");
    if (c->layers < c->cfg.layers)
        return sq_fail(SQ_E_FORMAT, "layer %" PRId64 " of %" PRId64 " is missing", c->layers, c->cfg.layers);
    if (!have_part(c, SQ_EMBED_NAME) || !have_top(c, SQ_FINAL_NORM_NAME) ||
        (!c->cfg.tied && !have_part(c, SQ_HEAD_NAME)))
        return sq_fail(SQ_E_FORMAT, "tensor '%s' is missing",
                       !have_part(c, SQ_EMBED_NAME) ? SQ_EMBED_NAME
                       : !have_top(c, SQ_FINAL_NORM_NAME) ? SQ_FINAL_NORM_NAME : SQ_HEAD_NAME);
    return 0;
}

int sq_inspect_check(FILE *f, const char *spec)
{
    struct check *c = NULL;
    int rc;

    SQ_TRY(sq_alloc(&c, 1));
    c->rec = (struct sq_record)SQ_RECORD_INIT;
    SQ_TRY(sq_stream_open(&c->in, spec, SQ_READ));
    while ((rc = sq_stream_next(c->in, &c->rec)) > 0)
        SQ_TRY(take(c));
    if (rc == 0)
        rc = complete(c);
    if (rc == 0)
        rc = sq_stream_finish(&c->in);
    if (rc == 0)
        fprintf(f, "%s: %" PRId64 " layers (%" PRId64 " merged), %" PRId64 " tensors, tokens %s: complete\n",
                c->cfg.arch, c->layers, c->merged, c->tensors, c->have_tokens ? "yes" : "no");
out:
    if (c) {
        sq_record_release(&c->rec);
        sq_stream_abort(&c->in, rc);
    }
    sq_free(c);
    return rc == SQ_E_FORMAT || rc == SQ_E_VALUE || rc == SQ_E_UNSUP ? sq_fail_in(SQ_E_CHECK, "check failed")
                                                                     : rc;
}
