/* Layers in and out of the engine: read when needed, checked, loaded; written with what they learned. */
#include "pass.h"

#include <stdio.h>
#include <string.h>

#include "sq/json.h"

/* The next layer's record; what lies before it is passed on. */
static int find_layer(struct pass *e, int64_t index)
{
    int64_t said;
    for (;;) {
        if (!e->pending) {
            const int rc = sq_stream_next(e->in, &e->rec);
            if (rc < 0)
                return rc;
            if (rc == 0 || e->rec.kind == SQ_REC_TENSOR)
                return sq_fail(SQ_E_FORMAT, "layer %" PRId64 " of %" PRId64 " is missing", index,
                               e->cfg.layers);
        }
        e->pending = false;
        if (e->rec.kind == SQ_REC_LAYER)
            break;
        const int rc = e->rec.kind == SQ_REC_CURSOR ? 0 : pass_on(e);
        if (rc < 0)
            return rc;
    }
    const int rc = sq_json_int(&said, e->rec.head, "index", 0, 1 << 20);
    if (rc == 0 && said != index)
        return sq_fail(SQ_E_FORMAT, "layer %" PRId64 " comes where layer %" PRId64 " should", said, index);
    return rc;
}

/* Its tensors and its scheme, without which it would not be quantized. */
static int note_layer(struct pass *e, const struct sq_layer *l)
{
    char key[40], digest[SQ_HASH_TEXT], rate[MADE_NUMBER];
    struct sq_scheme s;
    uint64_t tensors = 0;
    int rc;
    SQ_TRY(sq_layer_digest(&tensors, l));
    sq_hash_text(digest, tensors);
    snprintf(key, sizeof key, "layer %" PRId64, l->index);
    if (!l->scheme)
        return made_note(e->made, key, "%s", digest);
    SQ_TRY(sq_scheme_from_json(&s, l->scheme));
    rc = made_note(e->made, key, "%s at rate %s", digest, made_number(rate, s.rate));
out:
    return rc;
}

int pass_read_layer(struct pass *e, struct sq_layer *l, int64_t index)
{
    int rc = find_layer(e, index);
    if (rc == 0)
        rc = sq_layer_read(l, e->in, &e->rec);
    if (rc == 0 && l->state == SQ_MERGED)
        rc = sq_fail(SQ_E_UNSUP, "it is merged already; nothing can be learned after sq-merge");
    if (rc == 0)
        rc = sq_layer_check(l, &e->cfg);
    if (rc == 0 && e->made)
        rc = note_layer(e, l);
    return rc < 0 ? sq_fail_in(rc, "layer %" PRId64, index) : 0;
}

int pass_write_layer(struct pass *e, const struct sq_layer *l)
{
    for (int64_t i = 0; i < l->ntensor; i++) {
        const struct sq_tensor *t = &l->tensor[i];
        sq_hash_add(&e->seen, t->name, strlen(t->name) + 1);
        sq_hash_add(&e->seen, t->data, sq_tensor_bytes(t));
    }
    return e->out ? sq_layer_write(e->out, l) : 0;
}

int pass_check_scheme(struct sq_scheme *s, const struct pass *e, const struct sq_layer *l)
{
    char was[SQ_SCHEME_NAME], is[SQ_SCHEME_NAME];
    const int rc = sq_scheme_from_json(s, l->scheme);
    if (rc == 0 && strcmp(sq_scheme_name(was, s), sq_scheme_name(is, &e->plan->scheme)) != 0)
        return sq_fail(SQ_E_ARG, "it was learned as %s, not %s", was, is);
    return rc;
}

static int load_held(struct pass *e, struct held *h, int64_t index)
{
    struct sq_scheme s;
    int rc = pass_read_layer(e, &h->layer, index);
    if (rc < 0)
        return rc;
    SQ_TRY(sq_block_view(&h->w, &e->cfg, &h->layer));
    h->quantized = h->layer.scheme != NULL;
    if (h->quantized) {
        SQ_TRY(pass_check_scheme(&s, e, &h->layer));
        SQ_TRY(sq_params_load(&h->p, &e->cfg, &s, &h->layer));
    }
out:
    return rc < 0 ? sq_fail_in(rc, "layer %" PRId64, index) : 0;
}

int pass_need(struct pass *e, int64_t index)
{
    while (e->read <= index) {
        SQ_ASSERT(e->read - e->xq_at < e->cap);
        const int rc = load_held(e, &e->held[e->read % e->cap], e->read);
        if (rc < 0)
            return rc;
        e->read++;
    }
    return 0;
}

int pass_emit(struct pass *e, int64_t index, bool last)
{
    struct held *h = pass_held(e, index);
    struct sq_scheme s = e->plan->scheme;
    int rc = 0;
    s.rate = pass_rate_behind(e);
    if (h->changed) {
        json_decref(h->layer.scheme);
        h->layer.scheme = NULL;
        SQ_TRY(sq_params_store(&h->layer, &h->p, &e->cfg));
        SQ_TRY(sq_scheme_to_json(&h->layer.scheme, &s));
        h->layer.state = last && s.rate == 1.0 ? SQ_FINAL : SQ_LEARNING;
    }
    SQ_TRY(pass_write_layer(e, &h->layer));
    pass_held_release(h);
    e->xq_at = index + 1;
out:
    return rc;
}
