/* The proof: the written model is opened like any other and every tensor's values must be those that were sent. The
 * stream has passed by then, so what is compared is the digest of the values, tensor by tensor. */
#include <math.h>
#include <string.h>

#include "packer.h"
#include "values.h"
#include "sq/hash.h"

enum { BLOCK = 32 };

static void widen(float *w, const struct sq_tensor *t, int64_t first, int64_t n)
{
    const uint16_t *h = t->data;
    if (t->dtype == SQ_F32)
        memcpy(w, (const float *)t->data + first, (size_t)n * sizeof *w);
    else
        for (int64_t i = 0; i < n; i++)
            w[i] = t->dtype == SQ_F16 ? sq_f16_to_f32(h[first + i]) : sq_bf16_to_f32(h[first + i]);
}

static void count_odd(struct sq_pack_report *rep, const float *w, int64_t n, bool linear)
{
    for (int64_t i = 0; i < n; i++) {
        rep->nan += isnan(w[i]) != 0;
        rep->inf += isinf(w[i]) != 0;
    }
    for (int64_t i = 0; linear && i + BLOCK <= n; i += BLOCK) {
        int64_t k = 0;
        while (k < BLOCK && w[i + k] == 0)
            k++;
        rep->zero_blocks += k == BLOCK;
    }
}

static int verify_tensor(struct packer *p, int64_t layer, const struct sq_tensor *t)
{
    struct plan_entry *e = plan_find(&p->plan, layer, t->name);
    const int64_t n = sq_tensor_count(t);
    struct sq_hash h = {NULL};
    float *w = NULL;
    int rc;

    if (!e || !e->done || n != e->rows * e->cols ||
        (t->dtype != SQ_F32 && t->dtype != SQ_F16 && t->dtype != SQ_BF16))
        return sq_fail(SQ_E_CHECK, "'%s' was read back with a tensor '%s' that was not written", p->o->out, t->name);
    SQ_TRY(sq_hash_init(&h));
    SQ_TRY(sq_alloc(&w, SQ_MIN(n, RUN_VALUES)));
    for (int64_t i = 0; i < n; i += RUN_VALUES) {
        const int64_t m = SQ_MIN(RUN_VALUES, n - i);
        widen(w, t, i, m);
        count_odd(p->rep, w, m, e->kind == PLAN_LINEAR);
        pack_digest(&h, w, m);
    }
    p->rep->checked++;
    if (sq_hash_value(&h) != e->digest)
        rc = sq_fail(SQ_E_CHECK, "'%s' was read back with other values in tensor '%s' than were sent", p->o->out, e->hf);
out:
    sq_free(w);
    sq_hash_release(&h);
    return rc;
}

static int verify_tops(struct packer *p, struct sq_source *s)
{
    struct sq_tensor t = SQ_TENSOR_INIT;
    int rc;
    while ((rc = sq_source_top(s, &t)) > 0)
        SQ_TRY(verify_tensor(p, -1, &t));
out:
    sq_tensor_release(&t);
    return rc;
}

int pack_verify(struct packer *p)
{
    struct sq_layer l = SQ_LAYER_INIT;
    struct sq_source *s = NULL;
    int64_t want = 0;
    int rc;

    SQ_TRY(sq_source_open(&s, p->temp.path));
    SQ_TRY(verify_tops(p, s));
    while ((rc = sq_source_layer(s, &l)) > 0)
        for (int64_t i = 0; i < l.ntensor; i++)
            SQ_TRY(verify_tensor(p, l.index, &l.tensor[i]));
    if (rc < 0)
        goto out;
    SQ_TRY(verify_tops(p, s));
    for (int64_t i = 0; i < p->plan.n; i++)
        want += p->plan.entry[i].hf[0] != '\0';
    if (p->rep->checked != want)
        rc = sq_fail(SQ_E_CHECK, "'%s' was read back with %" PRId64 " tensors of %" PRId64, p->o->out, p->rep->checked,
                     want);
    else if (p->rep->nan || p->rep->inf)
        rc = sq_fail(SQ_E_CHECK, "'%s' was read back with %" PRId64 " NaN and %" PRId64 " infinite values", p->o->out,
                     p->rep->nan, p->rep->inf);
out:
    sq_layer_release(&l);
    sq_source_close(&s);
    return rc;
}
