#include "sq/join.h"

#include <string.h>

#include "sq/json.h"

struct source {
    const char *path;
    struct sq_stream *in;
    struct sq_record rec; /* of the layer that comes next */
    int64_t next;         /* its index; -1: the stream has ended */
};

struct sq_join {
    struct source *source;
    int n;
};

/* To the next layer's record. */
static int advance(struct source *s)
{
    int64_t index;
    int rc;
    while ((rc = sq_stream_next(s->in, &s->rec)) > 0 && s->rec.kind != SQ_REC_LAYER)
        ;
    if (rc > 0)
        rc = sq_json_int(&index, s->rec.head, "index", 0, 1023);
    else if (rc == 0)
        index = -1;
    if (rc == 0 && index >= 0 && index <= s->next)
        rc = sq_fail(SQ_E_FORMAT, "layer %" PRId64 " comes behind layer %" PRId64, index, s->next);
    if (rc == 0)
        s->next = index;
    return rc < 0 ? sq_fail_in(rc, "'%s'", s->path) : 0;
}

int sq_join_open(struct sq_join **out, char *const *path, int n)
{
    struct sq_join *j = NULL;
    int rc;
    *out = NULL;
    SQ_TRY(sq_alloc(&j, 1));
    SQ_TRY(sq_alloc(&j->source, n));
    for (int i = 0; i < n; i++) {
        struct source *s = &j->source[j->n++];
        *s = (struct source){.path = path[i], .rec = SQ_RECORD_INIT, .next = -1};
        SQ_TRY(sq_stream_open(&s->in, s->path, SQ_READ));
        SQ_TRY(advance(s));
    }
    *out = j;
    return 0;
out:
    sq_join_abort(&j, rc);
    return rc;
}

void sq_join_abort(struct sq_join **j, int code)
{
    if (!*j)
        return;
    for (int i = 0; i < (*j)->n; i++) {
        sq_record_release(&(*j)->source[i].rec);
        sq_stream_abort(&(*j)->source[i].in, code);
    }
    sq_free((*j)->source);
    sq_free(*j);
    *j = NULL;
}

int sq_join_finish(struct sq_join **j)
{
    int rc = 0;
    for (int i = 0; rc == 0 && i < (*j)->n; i++) {
        struct source *s = &(*j)->source[i];
        rc = s->next >= 0 ? sq_fail(SQ_E_FORMAT, "'%s': layer %" PRId64 " has no place in this model", s->path, s->next)
                          : sq_stream_finish(&s->in);
    }
    sq_join_abort(j, rc);
    return rc;
}

static bool equal(const struct sq_tensor *a, const struct sq_tensor *b)
{
    return a->dtype == b->dtype && a->ndim == b->ndim &&
           memcmp(a->dim, b->dim, (size_t)a->ndim * sizeof *a->dim) == 0 &&
           memcmp(a->data, b->data, sq_tensor_bytes(a)) == 0;
}

/* What learning leaves alone has to be the model's. */
static int check_origin(const struct sq_layer *got, const struct sq_layer *l)
{
    static const char *const original[] = {"weight", "bias", "gain", "router"};
    for (int64_t i = 0; i < l->ntensor; i++) {
        const struct sq_tensor *t = &l->tensor[i], *other = sq_layer_find(got, t->name);
        const char *role = sq_layer_role(t->name);
        bool fixed = false;
        for (int k = 0; k < SQ_COUNT(original); k++)
            fixed |= strcmp(role, original[k]) == 0;
        if (fixed && (!other || !equal(t, other)))
            return sq_fail(SQ_E_FORMAT, "'%s' is not that of this model", t->name);
    }
    return 0;
}

static int check_same(const struct sq_layer *a, const struct sq_layer *b, const char *path)
{
    uint64_t x, y;
    int rc;
    SQ_TRY(sq_layer_digest(&x, a));
    SQ_TRY(sq_layer_digest(&y, b));
    if (x != y || a->state != b->state || !json_equal(a->scheme, b->scheme))
        SQ_TRY(sq_fail(SQ_E_FORMAT, "it is not as '%s' has it: which one is meant?", path));
out:
    return rc;
}

/* The layer that s has next: into *l, or compared with what is there from `first`. */
static int take(struct source *s, struct sq_layer *l, const struct source *first, const struct sq_layer *model)
{
    struct sq_layer got = SQ_LAYER_INIT;
    int rc;
    SQ_TRY(sq_layer_read(&got, s->in, &s->rec));
    SQ_TRY(first ? check_same(&got, l, first->path) : check_origin(&got, model));
    if (!first) {
        *l = got;
        got = (struct sq_layer)SQ_LAYER_INIT;
    }
    SQ_TRY(advance(s));
out:
    sq_layer_release(&got);
    return rc;
}

int sq_join_layer(struct sq_join *j, struct sq_layer *l)
{
    struct sq_layer got = SQ_LAYER_INIT;
    const struct source *first = NULL;
    for (int i = 0; i < j->n; i++) {
        struct source *s = &j->source[i];
        if (s->next != l->index)
            continue;
        const int rc = take(s, &got, first, l);
        if (rc < 0) {
            sq_layer_release(&got);
            return sq_fail_in(rc, "'%s': layer %" PRId64, s->path, l->index);
        }
        first = first ? first : s;
    }
    if (!first)
        return 0;
    sq_layer_release(l);
    *l = got;
    return 1;
}
