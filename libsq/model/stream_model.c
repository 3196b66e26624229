/* A model stream as a source. The header of the next record is read when a caller asks what comes next,
 * its payload when the caller takes it: so a layer is handed on as soon as it is complete, not when the
 * one after it arrives. */
#include <string.h>

#include "checkpoint.h"
#include "map.h"
#include "sq/json.h"
#include "sq/stream.h"

enum { SIDE_MAX = 256 << 20 };

static int read_model(struct sq_source *s)
{
    json_t *config = NULL, *original = NULL, *manifest = NULL, *v;
    size_t i;
    int rc = 0;

    if (s->manifest)
        return sq_fail(SQ_E_FORMAT, "a second model record: two models in one stream");
    SQ_TRY(sq_json_object(&config, s->rec.head, "config"));
    SQ_TRY(sq_json_object(&original, s->rec.head, "original"));
    SQ_TRY(sq_json_array(&manifest, s->rec.head, "manifest"));
    SQ_TRY(sq_config_from_json(&s->cfg, config));
    s->original = json_incref(original);
    s->manifest = json_incref(manifest);
    json_array_foreach(manifest, i, v) {
        const char *name = NULL, *dtype = NULL;
        json_t *shape = NULL, *d;
        enum sq_dtype type = SQ_F32;
        size_t bytes, k;
        SQ_TRY(sq_json_str(&name, v, "name"));
        SQ_TRY(sq_json_str(&dtype, v, "dtype"));
        SQ_TRY(sq_json_array(&shape, v, "shape"));
        SQ_TRY(sq_dtype_parse(&type, dtype));
        bytes = sq_dtype_size(type);
        json_array_foreach(shape, k, d) {
            if (!json_is_integer(d) || json_integer_value(d) < 0)
                return sq_fail(SQ_E_FORMAT,
                               "the shape of tensor '%.100s' in the manifest is no list of sizes", name);
            SQ_TRY(sq_mul_size(&bytes, bytes, (size_t)json_integer_value(d)));
        }
        if (bytes > INT64_MAX || __builtin_add_overflow(s->bytes, (int64_t)bytes, &s->bytes))
            return sq_fail(SQ_E_FORMAT, "the sizes in the manifest overflow");
    }
out:
    return rc;
}

static int read_side(struct sq_source *s)
{
    const char *name = NULL;
    void *data = NULL;
    int rc = sq_json_str(&name, s->rec.head, "name");
    if (rc < 0)
        return rc;
    if (s->rec.bytes > SIDE_MAX)
        return sq_fail(SQ_E_FORMAT, "side file '%.60s' has %" PRId64 " bytes, more than %d", name,
                       s->rec.bytes, SIDE_MAX);
    rc = sq_alloc_bytes(&data, s->rec.bytes, 1);
    if (rc == 0 && s->rec.bytes)
        rc = sq_stream_payload(s->in, data, (size_t)s->rec.bytes);
    if (rc < 0) {
        sq_free(data);
        return rc;
    }
    return sq_source_add_owned(s, name, data, (size_t)s->rec.bytes);
}

/* Move on to the next tensor or layer, unless it is known already; what else a stream may hold is read
 * (model, files) or passed over. */
static int advance(struct sq_source *s)
{
    int rc = 0;
    if (s->ahead || s->ended)
        return 0;
    while ((rc = sq_stream_next(s->in, &s->rec)) > 0) {
        if (s->rec.kind == SQ_REC_TENSOR || s->rec.kind == SQ_REC_LAYER) {
            s->ahead = s->manifest != NULL;
            if (s->ahead)
                return 0;
            return sq_fail(SQ_E_FORMAT, "a tensor comes before the model record");
        }
        if (s->rec.kind == SQ_REC_MODEL)
            SQ_TRY(read_model(s));
        if (s->rec.kind == SQ_REC_FILE)
            SQ_TRY(read_side(s));
    }
    s->ended = rc == 0;
    if (rc == 0 && !s->manifest)
        rc = sq_fail(SQ_E_FORMAT, "the stream has no model record");
out:
    return rc;
}

int sq_source_open_stream(struct sq_source *s)
{
    int rc = sq_stream_open(&s->in, s->spec, SQ_READ);
    if (rc == 0)
        rc = advance(s);
    return rc < 0 ? sq_fail_in(rc, "'%s'", s->spec) : 0;
}

static int check_top(const struct sq_source *s, const struct sq_tensor *t)
{
    const struct sq_config *c = &s->cfg;
    const bool norm = strcmp(t->name, SQ_FINAL_NORM_NAME) == 0;
    if (!norm && strcmp(t->name, SQ_EMBED_NAME) != 0 && strcmp(t->name, SQ_HEAD_NAME) != 0)
        return 0;
    if (norm ? t->ndim == 1 && t->dim[0] == c->hidden
             : t->ndim == 2 && t->dim[0] == c->vocab && t->dim[1] == c->hidden)
        return 0;
    return sq_fail(SQ_E_FORMAT, "tensor '%s' has another shape than the config says", t->name);
}

int sq_source_stream_top(struct sq_source *s, struct sq_tensor *t)
{
    int rc = 0;
    SQ_TRY(advance(s));
    if (s->ended && s->layer < s->cfg.layers) {
        rc =
            sq_fail(SQ_E_FORMAT, "layer %" PRId64 " of %" PRId64 " is missing", s->layer, s->cfg.layers);
        goto out;
    }
    if (s->ended || s->rec.kind == SQ_REC_LAYER)
        return 0;
    s->ahead = false;
    SQ_TRY(sq_stream_tensor(s->in, &s->rec, t));
    SQ_TRY(check_top(s, t));
    return 1;
out:
    return sq_fail_in(rc, "'%s'", s->spec);
}

int sq_source_stream_layer(struct sq_source *s, struct sq_layer *l)
{
    int rc = 0;
    SQ_TRY(advance(s));
    if (s->layer == s->cfg.layers && (s->ended || s->rec.kind != SQ_REC_LAYER))
        return 0;
    if (s->ended || s->rec.kind != SQ_REC_LAYER) {
        rc =
            sq_fail(SQ_E_FORMAT, "layer %" PRId64 " of %" PRId64 " is missing", s->layer, s->cfg.layers);
        goto out;
    }
    s->ahead = false;
    SQ_TRY(sq_layer_read(l, s->in, &s->rec));
    if (l->index != s->layer || s->layer == s->cfg.layers) {
        rc =
            sq_fail(SQ_E_FORMAT, "layer %" PRId64 " comes where layer %" PRId64 " of %" PRId64 " is due",
                    l->index, s->layer, s->cfg.layers);
        goto out;
    }
    if (l->state == SQ_FLOAT || l->state == SQ_LEARNING)
        SQ_TRY(sq_layer_check(l, &s->cfg));
    s->layer++;
    return 1;
out:
    return sq_fail_in(rc, "'%s'", s->spec);
}
