/* The tensors of a model in order, each looked up in the checkpoint and its shape compared before any of
 * them is given out: a wrong file fails at once, not after an hour. */
#include "checkpoint.h"

#include <stdio.h>
#include <string.h>

struct plan {
    struct sq_source *s;
    bool *used;
    char prefix[48]; /* "model.layers.3.", "" */
    int64_t layer, cap;
};

static int shape_text(char *buf, size_t size, int ndim, const int64_t *dim)
{
    int n = snprintf(buf, size, "[");
    for (int i = 0; i < ndim && n > 0 && (size_t)n < size; i++)
        n += snprintf(buf + n, size - (size_t)n, "%s%" PRId64, i ? ", " : "", dim[i]);
    if (n > 0 && (size_t)n < size)
        n += snprintf(buf + n, size - (size_t)n, "]");
    return n;
}

static int check_info(const struct sq_tensor *t, const char *stored, int ndim, const int64_t *dim)
{
    char have[96], want[96];
    if (t->dtype != SQ_F32 && t->dtype != SQ_F16 && t->dtype != SQ_BF16)
        return sq_fail(SQ_E_UNSUP, "tensor '%s' is %s, not f32, f16 or bf16", stored,
                       sq_dtype_name(t->dtype));
    if (t->ndim == ndim && memcmp(t->dim, dim, (size_t)ndim * sizeof *dim) == 0)
        return 0;
    shape_text(have, sizeof have, t->ndim, t->dim);
    shape_text(want, sizeof want, ndim, dim);
    return sq_fail(SQ_E_FORMAT, "tensor '%s' has shape %s, the config says %s", stored, have, want);
}

static int add_stored(struct plan *p, const char *name, const char *stored, int ndim, const int64_t *dim)
{
    struct sq_source *s = p->s;
    const int64_t id = s->format->find(s->impl, stored);
    if (id < 0)
        return sq_fail(SQ_E_FORMAT, "tensor '%s' is missing", stored);
    const struct sq_tensor *info = s->format->info(s->impl, id);
    int rc = check_info(info, stored, ndim, dim);
    if (rc < 0)
        return rc;
    SQ_ASSERT(s->nitem < p->cap);
    struct sq_item *it = &s->item[s->nitem];
    rc = sq_tensor_shape(&it->t, name, info->dtype, ndim, dim);
    if (rc < 0)
        return rc;
    it->id = id;
    it->layer = p->layer;
    s->nitem++;
    s->bytes += (int64_t)sq_tensor_bytes(&it->t);
    p->used[id] = true;
    return 0;
}

/* rows 0: a vector */
static int add(struct plan *p, const char *local, int64_t rows, int64_t cols)
{
    char name[SQ_NAME_MAX];
    const int64_t dim[2] = {rows ? rows : cols, cols};
    snprintf(name, sizeof name, "%s%s", p->prefix, local);
    return add_stored(p, name, name, rows ? 2 : 1, dim);
}

static int add_gain(struct plan *p, enum sq_gain_id gain)
{
    const int64_t n = sq_gain_size(&p->s->cfg, gain);
    return n ? add(p, sq_gain_name(gain), 0, n) : 0;
}

static int add_linear(struct plan *p, int64_t linear)
{
    const struct sq_config *c = &p->s->cfg;
    char name[SQ_LINEAR_NAME], local[SQ_LINEAR_NAME + 16];
    int64_t rows, cols;

    sq_linear_name(name, c, linear);
    sq_linear_shape(&rows, &cols, c, linear);
    snprintf(local, sizeof local, "%s.weight", name);
    int rc = add(p, local, rows, cols);
    if (rc == 0 && sq_linear_has_bias(c, linear)) {
        snprintf(local, sizeof local, "%s.bias", name);
        rc = add(p, local, 0, rows);
    }
    return rc;
}

static int add_layer(struct plan *p, int64_t layer)
{
    const struct sq_config *c = &p->s->cfg;
    int rc = 0;

    p->layer = layer;
    snprintf(p->prefix, sizeof p->prefix, "model.layers.%" PRId64 ".", layer);
    SQ_TRY(add_gain(p, SQ_NORM1));
    for (int64_t i = SQ_Q; i <= SQ_O; i++)
        SQ_TRY(add_linear(p, i));
    SQ_TRY(add_gain(p, SQ_QNORM));
    SQ_TRY(add_gain(p, SQ_KNORM));
    SQ_TRY(add_gain(p, SQ_NORM2));
    if (c->experts)
        SQ_TRY(add(p, "mlp.gate.weight", c->experts, c->hidden));
    for (int64_t i = SQ_GATE; i < sq_config_linears(c); i++)
        SQ_TRY(add_linear(p, i));
out:
    p->layer = -1;
    p->prefix[0] = 0;
    return rc;
}

/* A tied model may store its one matrix under either name, or under both: then twice the same bytes. */
static int add_embedding(struct plan *p)
{
    struct sq_source *s = p->s;
    const struct sq_config *c = &s->cfg;
    const int64_t dim[2] = {c->vocab, c->hidden};
    const int64_t e = s->format->find(s->impl, SQ_EMBED_NAME),
                  h = s->format->find(s->impl, SQ_HEAD_NAME);
    struct sq_tensor a = SQ_TENSOR_INIT, b = SQ_TENSOR_INIT;
    int rc = 0;

    SQ_TRY(
        add_stored(p, SQ_EMBED_NAME, c->tied && e < 0 && h >= 0 ? SQ_HEAD_NAME : SQ_EMBED_NAME, 2, dim));
    if (c->tied && e >= 0 && h >= 0) {
        SQ_TRY(check_info(s->format->info(s->impl, h), SQ_HEAD_NAME, 2, dim));
        SQ_TRY(s->format->get(&a, s->impl, e));
        SQ_TRY(s->format->get(&b, s->impl, h));
        if (a.dtype != b.dtype || memcmp(a.data, b.data, sq_tensor_bytes(&a)) != 0)
            rc = sq_fail(SQ_E_FORMAT,
                         "the config ties head and embedding, but tensor '%s' differs from '%s'",
                         SQ_HEAD_NAME, SQ_EMBED_NAME);
        s->format->drop(s->impl, e);
        s->format->drop(s->impl, h);
        p->used[h] = true;
    }
out:
    sq_tensor_release(&a);
    sq_tensor_release(&b);
    return rc;
}

/* What nobody asked for would change the model if it were meant: refused, but for tables that older
 * versions stored although they are computed. */
static int check_left_over(const struct plan *p)
{
    static const char *const known[] = {"rotary_emb.inv_freq", "rotary_emb.cos_cached",
                                        "rotary_emb.sin_cached", "self_attn.masked_bias"};
    const struct sq_source *s = p->s;
    for (int64_t i = 0; i < s->format->count(s->impl); i++) {
        const char *name = s->format->info(s->impl, i)->name;
        bool ok = p->used[i];
        for (int k = 0; k < SQ_COUNT(known) && !ok; k++)
            ok = strstr(name, known[k]) != NULL;
        if (!ok)
            return sq_fail(SQ_E_UNSUP, "tensor '%s' is not part of a %s of this config", name,
                           s->cfg.model_type);
    }
    return 0;
}

static int make_manifest(struct sq_source *s)
{
    s->manifest = json_array();
    bool bad = !s->manifest;
    for (int64_t i = 0; i < s->nitem; i++) {
        const struct sq_tensor *t = &s->item[i].t;
        json_t *shape = json_array();
        for (int k = 0; k < t->ndim; k++)
            bad |= json_array_append_new(shape, json_integer(t->dim[k])) != 0;
        bad |=
            json_array_append_new(s->manifest, json_pack("{s:s, s:s, s:o}", "name", t->name, "dtype",
                                                         sq_dtype_name(t->dtype), "shape", shape)) != 0;
    }
    return bad ? sq_fail(SQ_E_NOMEM, "no memory for the manifest") : 0;
}

int sq_source_plan(struct sq_source *s)
{
    const struct sq_config *c = &s->cfg;
    struct plan p = {
        .s = s, .layer = -1, .cap = 3 + c->layers * (SQ_GAINS + 1 + 2 * sq_config_linears(c))};
    int rc = 0;

    SQ_TRY(sq_alloc(&s->item, p.cap));
    SQ_TRY(sq_alloc(&p.used, s->format->count(s->impl)));
    SQ_TRY(add_embedding(&p));
    for (int64_t i = 0; i < c->layers; i++)
        SQ_TRY(add_layer(&p, i));
    SQ_TRY(add(&p, SQ_FINAL_NORM_NAME, 0, c->hidden));
    if (!c->tied)
        SQ_TRY(add(&p, SQ_HEAD_NAME, c->vocab, c->hidden));
    SQ_TRY(check_left_over(&p));
    SQ_TRY(make_manifest(s));
out:
    sq_free(p.used);
    return rc;
}
