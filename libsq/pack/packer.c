/* The driver: tensors as they come from the stream, each encoded, decoded again, compared and written before the
 * next one is taken. Rows are worked on in runs of whole heads, so that a permutation stays inside a run. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "blocks.h"
#include "packer.h"
#include "values.h"
#include "sq/gguf.h"
#include "sq/hash.h"

/* ---- which type ---- */

/* The type with blocks of 256 columns that holds any codes of so many bits. */
static enum sq_pack_type wide_type(int bits)
{
    return bits <= 2 ? SQ_PACK_Q2_K : bits <= 4 ? SQ_PACK_Q4_K : SQ_PACK_Q5_K;
}

static void count_narrow(struct packer *p, const struct plan_entry *e, const struct sq_grid *g, enum sq_pack_type t)
{
    const int64_t wide = sq_pack_row_bytes(wide_type(p->wbits), 256);
    const int i = g->cols % 256 != 0 ? 0 : 1;
    if (p->wbits > 5 || sq_pack_info(t)->block == 256 || sq_pack_info(t)->bytes * 256 <= wide * sq_pack_info(t)->block)
        return;
    if (p->narrow[i]++ == 0)
        p->first_narrow[i] = e;
}

static int choose_type(enum sq_pack_type *t, enum sq_pack_loss *loss, struct packer *p, const struct plan_entry *e,
                       const struct values *v)
{
    int rc;
    *loss = SQ_PACK_EXACT;
    *t = SQ_PACK_F32;
    if (p->o->format == SQ_PACK_HF) {
        if (p->o->dtype == SQ_BF16) {
            *t = SQ_PACK_BF16;
            *loss = SQ_PACK_ROUNDED;
        }
        return 0;
    }
    if (e->vector)
        return 0;
    if (v->weight)
        return values_float_type(t, v);
    if (e->kind != PLAN_LINEAR)
        return sq_pack_choose(t, loss, &v->grid, SQ_PACK_AUTO, p->o->lossy);
    rc = sq_pack_choose(t, loss, &v->grid, p->o->type, p->o->lossy);
    if (rc == 0 && p->o->type == SQ_PACK_AUTO)
        count_narrow(p, e, &v->grid, *t);
    return rc;
}

/* ---- encode, compare, write ---- */

void pack_digest(struct sq_hash *h, float *w, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        w[i] += 0.0f;
    sq_hash_add(h, w, (size_t)n * sizeof *w);
}

/* Buffers of one run of rows. */
struct run {
    float *w, *y; /* the stream's values, the file's */
    uint8_t *out;
    int64_t rows; /* capacity */
};

static int run_new(struct run *b, const struct plan_entry *e, const struct values *v, int64_t row_bytes)
{
    const int64_t unit = e->head_dim ? e->head_dim : 1;
    int rc;
    b->rows = SQ_MIN(v->rows, SQ_MAX(1, RUN_VALUES / (unit * v->cols)) * unit);
    SQ_TRY(sq_alloc(&b->w, b->rows * v->cols));
    SQ_TRY(sq_alloc(&b->y, b->rows * v->cols));
    SQ_TRY(sq_alloc(&b->out, b->rows * row_bytes));
out:
    return rc;
}

static void run_release(struct run *b)
{
    sq_free(b->out);
    sq_free(b->y);
    sq_free(b->w);
}

/* Rows [first, first + n) into b: blocks in the file's order, values in the stream's. Returns the largest
 * difference, NaN when a row did not take its type. */
static double encode_run(struct run *b, const struct packer *p, const struct plan_entry *e, const struct values *v,
                         int64_t first, int64_t n, enum sq_pack_loss loss)
{
    const enum sq_pack_type t = (enum sq_pack_type)e->type;
    const int64_t bytes = sq_pack_row_bytes(t, v->cols);
    const bool permute = p->o->format == SQ_PACK_GGUF;
    double worst = 0;
    bool ok = true;

#pragma omp parallel for schedule(static) reduction(max : worst) reduction(&& : ok)
    for (int64_t r = 0; r < n; r++) {
        const int64_t at = permute ? plan_gguf_row(e, first + r) - first : r;
        const float *w = b->w + r * v->cols;
        float *y = b->y + r * v->cols;
        ok = ok && (v->weight ? pack_floats(b->out + at * bytes, w, v->cols, t, loss)
                              : sq_pack_row(b->out + at * bytes, &v->grid, first + r, t, loss));
        sq_gguf_dequant(y, (int)t, b->out + at * bytes, v->cols);
        for (int64_t i = 0; i < v->cols; i++)
            worst = fmax(worst, fabs((double)y[i] - (double)w[i]));
    }
    return ok ? worst : (double)NAN;
}

static void count_entry(struct packer *p, const struct plan_entry *e, const struct values *v, enum sq_pack_loss loss)
{
    struct sq_pack_report *rep = p->rep;
    struct sq_pack_tally *t = &(e->kind == PLAN_LINEAR ? rep->linear : rep->other)[e->type];
    t->tensors++;
    t->values += v->rows * v->cols;
    t->bytes += e->bytes;
    t->lossy += loss != SQ_PACK_EXACT;
    rep->values += v->rows * v->cols;
}

static int write_values(struct packer *p, struct plan_entry *e, const struct values *v, enum sq_pack_loss loss)
{
    const int64_t bytes = sq_pack_row_bytes((enum sq_pack_type)e->type, v->cols);
    struct sq_hash h = {NULL};
    struct run b = {0};
    int rc, fd = -1;

    SQ_TRY(sq_hash_init(&h));
    SQ_TRY(run_new(&b, e, v, bytes));
    if (!p->o->dry_run)
        SQ_TRY(p->format->file(&fd, p, e));
    for (int64_t r = 0; r < v->rows; r += b.rows) {
        const int64_t n = SQ_MIN(b.rows, v->rows - r);
        SQ_TRY(values_read(b.w, v, r, n));
        const double diff = encode_run(&b, p, e, v, r, n, loss);
        if (isnan(diff)) {
            rc = sq_fail(SQ_E_VALUE, "a value is too large for %s", sq_pack_info((enum sq_pack_type)e->type)->name);
            goto out;
        }
        if (diff > p->rep->max_diff) {
            p->rep->max_diff = diff;
            snprintf(p->rep->max_name, sizeof p->rep->max_name, "%s", e->hf);
        }
        pack_digest(&h, b.y, n * v->cols);
        if (fd >= 0)
            SQ_TRY(pack_write(p, fd, b.out, (size_t)(n * bytes), e->offset + r * bytes));
    }
    e->digest = sq_hash_value(&h);
out:
    run_release(&b);
    sq_hash_release(&h);
    return rc;
}

static int pack_entry(struct packer *p, struct plan_entry *e, const struct sq_layer *bag)
{
    enum sq_pack_loss loss;
    enum sq_pack_type t;
    struct values v;
    int rc;

    SQ_TRY(values_open(&v, e, bag, p->group));
    SQ_TRY(choose_type(&t, &loss, p, e, &v));
    e->type = (int)t;
    e->bytes = v.rows * sq_pack_row_bytes(t, v.cols);
    SQ_TRY(p->format->place(p, e));
    rc = write_values(p, e, &v, loss);
    if (rc < 0) {
        sq_fail_in(rc, "tensor '%s'", e->hf);
        goto out;
    }
    count_entry(p, e, &v, loss);
    e->done = true;
    p->done++;
    if (p->app)
        sq_app_progress(p->app, (double)p->done, (double)p->plan.n, "%s", e->hf);
out:
    values_close(&v);
    return rc;
}

/* ---- the model, from front to back ---- */

/* A tensor outside of layers: a float one goes out at once, a merged one when its three parts are there. */
static int take_top(struct packer *p, struct sq_tensor *t)
{
    static const char *const part[] = {"codes", "scales", "zeros"};
    char base[SQ_NAME_MAX], name[SQ_NAME_MAX + 8];
    int rc;

    snprintf(base, sizeof base, "%s", t->name);
    char *dot = strrchr(base, '.');
    const bool whole = dot && strcmp(dot, ".weight") == 0;
    SQ_TRY(sq_layer_add(&p->top, t));
    if (dot)
        *dot = '\0';
    for (int i = 0; !whole && i < 3; i++) {
        snprintf(name, sizeof name, "%s.%s", base, part[i]);
        if (!sq_layer_find(&p->top, name))
            return 0;
    }
    snprintf(name, sizeof name, "%s.weight", base);
    struct plan_entry *e = plan_find(&p->plan, -1, name);
    if (!e || e->done) {
        rc = sq_fail(SQ_E_FORMAT, "tensor '%s' %s", name, e ? "comes twice" : "is none of the model's");
        goto out;
    }
    SQ_TRY(pack_entry(p, e, &p->top));
    sq_layer_release(&p->top);
out:
    return rc;
}

static int take_scheme(struct packer *p)
{
    struct sq_pack_report *rep = p->rep;
    const struct sq_layer *l = &p->layer;
    char name[SQ_SCHEME_NAME];
    struct sq_scheme s;
    int rc;

    if (l->state != SQ_MERGED)
        return sq_fail(SQ_E_ARG, "layer %" PRId64 " is not merged but '%s': run sq-merge first", l->index,
                       sq_state_name(l->state));
    if (!l->scheme)
        return sq_fail(SQ_E_FORMAT, "layer %" PRId64 " has no scheme", l->index);
    SQ_TRY(sq_scheme_from_json(&s, l->scheme));
    p->group = s.group;
    p->wbits = s.wbits;
    sq_scheme_name(name, &s);
    rep->mixed |= rep->scheme[0] && strcmp(rep->scheme, name) != 0;
    if (!rep->scheme[0])
        snprintf(rep->scheme, sizeof rep->scheme, "%s", name);
    if (s.abits < 16 && !p->said_acts) {
        const int abits = s.abits;
        s.abits = 16;
        p->said_acts = true;
        pack_note(rep, "activations of %d bits cannot be expressed: %s runs as %s", abits, rep->scheme,
                  sq_scheme_name(name, &s));
    }
out:
    return rc;
}

static int take_layer(struct packer *p)
{
    const int64_t index = p->layer.index;
    int64_t n = 0;
    int rc;

    SQ_TRY(take_scheme(p));
    for (int64_t i = 0; i < p->plan.n; i++) {
        struct plan_entry *e = &p->plan.entry[i];
        if (e->layer != index)
            continue;
        SQ_TRY(pack_entry(p, e, &p->layer));
        n++;
    }
    if (n == 0)
        rc = sq_fail(SQ_E_FORMAT, "layer %" PRId64 " is none of the model's %" PRId64, index, p->cfg->layers);
out:
    return rc;
}

static int take_tops(struct packer *p)
{
    struct sq_tensor t = SQ_TENSOR_INIT;
    int rc;
    while ((rc = sq_source_top(p->in, &t)) > 0)
        SQ_TRY(take_top(p, &t));
out:
    sq_tensor_release(&t);
    return rc;
}

/* What could make the file smaller. */
static void give_advice(struct packer *p)
{
    const struct sq_pack_tally *other = p->rep->other;
    const int64_t floats = other[SQ_PACK_F32].bytes + other[SQ_PACK_F16].bytes + other[SQ_PACK_BF16].bytes;

    for (int i = 0; i < 2; i++)
        if (p->narrow[i])
            pack_note(p->rep, "%" PRId64 " linears have %s that are no multiple of 256 (first: '%s'), so the smaller %s "
                      "does not hold them", p->narrow[i], i ? "groups" : "columns", p->first_narrow[i]->hf,
                      sq_pack_info(wide_type(p->wbits))->name);
    if (p->o->format == SQ_PACK_GGUF && floats * 4 > p->rep->file_bytes)
        pack_note(p->rep, "embedding and head in float are %.0f %% of the file: sq-merge --embed W8g32 makes it smaller",
                  100.0 * (double)floats / (double)p->rep->file_bytes);
}

static int take_all(struct packer *p)
{
    int rc;
    SQ_TRY(take_tops(p));
    while ((rc = sq_source_layer(p->in, &p->layer)) > 0)
        SQ_TRY(take_layer(p));
    if (rc < 0)
        goto out;
    SQ_TRY(take_tops(p));
    if (p->top.ntensor > 0)
        rc = sq_fail(SQ_E_FORMAT, "tensor '%s' comes without its companions", p->top.tensor[0].name);
    for (int64_t i = 0; rc == 0 && i < p->plan.n; i++)
        if (!p->plan.entry[i].done)
            rc = sq_fail(SQ_E_FORMAT, "the stream has no tensor '%s'", p->plan.entry[i].hf);
out:
    return rc;
}

int sq_pack_model(struct sq_pack_report *rep, struct sq_source *in, const struct sq_pack_opts *o, struct sq_app *app)
{
    struct packer p = {.o = o, .in = in, .app = app, .cfg = sq_source_config(in), .rep = rep, .fd = -1, .shard = -1,
                       .format = o->format == SQ_PACK_GGUF ? &pack_gguf : &pack_hf, .layer = SQ_LAYER_INIT,
                       .top = SQ_LAYER_INIT};
    int rc;

    *rep = (struct sq_pack_report){0};
    SQ_TRY(plan_new(&p.plan, p.cfg));
    SQ_TRY(p.format->begin(&p));
    SQ_TRY(take_all(&p));
    SQ_TRY(p.format->finish(&p));
    give_advice(&p);
    if (!o->dry_run) {
        SQ_TRY(pack_verify(&p));
        SQ_TRY(sq_temp_finish(&p.temp));
    } else {
        SQ_TRY(sq_pack_room(o->out, o->format == SQ_PACK_HF, rep->file_bytes));
    }
out:
    pack_remove(&p);
    bytes_release(&p.keys);
    sq_free(p.shard_bytes);
    sq_free(p.order);
    sq_layer_release(&p.top);
    sq_layer_release(&p.layer);
    plan_release(&p.plan);
    return rc;
}
