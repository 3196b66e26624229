/* A layer's parameters on a device: the table is the host's, its arrays are there. */
#include <string.h>

#include "fold_device.h"

/* Shapes of a map: how many uses there are of how many scales. */
static void map_shape(int64_t *uses, int64_t *scales, const struct sq_config *c, enum fold_map map, int64_t widest)
{
    const int64_t D = c->head_dim, Q = c->heads * D, KV = c->kv_heads * D;
    const int64_t shape[FOLD_MAPS][2] = {[FOLD_SAME] = {widest, widest},
                                         [FOLD_HEADS] = {Q, KV},
                                         [FOLD_PAIRS] = {KV, KV / 2},
                                         [FOLD_QUERY] = {Q, KV / 2},
                                         [FOLD_HEAD] = {D, D / 2},
                                         [FOLD_ROWS] = {c->experts * c->hidden, c->hidden}};
    *uses = shape[map][0];
    *scales = shape[map][1];
}

/* at, first, from of one map, on the host */
static void map_fill(int32_t *at, int32_t *first, int32_t *from, const struct sq_config *c, enum fold_map map,
                     int64_t uses, int64_t scales)
{
    for (int64_t i = 0; i < uses; i++) {
        at[i] = (int32_t)fold_map_at(c, map, i);
        first[at[i] + 1]++;
    }
    for (int64_t k = 0; k < scales; k++)
        first[k + 1] += first[k];
    for (int64_t i = 0; i < uses; i++)
        from[first[at[i]]++] = (int32_t)i;
    memmove(first + 1, first, (size_t)scales * sizeof *first); /* each start has moved to its end */
    first[0] = 0;
}

static int64_t lay_out(struct fold_maps *m, int32_t *base, const struct sq_config *c, int64_t widest)
{
    int64_t at = 0;
    for (int k = 0; k < FOLD_MAPS; k++) {
        struct fold_map_table *t = &m->map[k];
        map_shape(&t->uses, &t->scales, c, (enum fold_map)k, widest);
        if (base) {
            t->at = base + at;
            t->from = t->at + t->uses;
            t->first = t->from + t->uses;
        }
        at += 2 * t->uses + t->scales + 1;
    }
    return at;
}

static int maps_new(struct fold_maps *m, const struct sq_params *p, const struct sq_config *c,
                    const struct sq_ops *device)
{
    const int64_t widest = SQ_MAX(p->cols_max, p->rows_max), floats = p->cols_max + 2 * p->rows_max;
    int32_t *host = NULL;
    void *x = NULL;
    int rc;
    SQ_TRY(device->alloc(&x, (size_t)floats * sizeof(float)));
    m->sums = m->dc = x;
    m->dr = m->dc + p->cols_max;
    m->product = m->dr + p->rows_max;
    const int64_t n = lay_out(m, NULL, c, widest);
    SQ_TRY(sq_alloc(&host, n));
    lay_out(m, host, c, widest);
    for (int k = 0; k < FOLD_MAPS; k++)
        map_fill(m->map[k].at, m->map[k].first, m->map[k].from, c, (enum fold_map)k, m->map[k].uses, m->map[k].scales);
    SQ_TRY(device->alloc(&x, (size_t)n * sizeof *host));
    m->all = x;
    lay_out(m, m->all, c, widest);
    device->put(m->all, host, (size_t)n * sizeof *host);
    rc = device->wait();
out:
    sq_free(host);
    return rc;
}

static struct sq_param *same(const struct sq_params *p, const struct sq_params *from, const struct sq_param *x)
{
    return x ? p->param + (x - from->param) : NULL;
}

static int mirror_table(struct sq_params *p, const struct sq_params *from)
{
    const int64_t n = from->nlinear;
    int rc;
    SQ_TRY(sq_alloc(&p->param, SQ_MAX(from->nparam, 1)));
    SQ_TRY(sq_alloc(&p->a, 4 * n));
    p->b = p->a + n;
    p->u = p->b + n;
    p->l = p->u + n;
    for (int64_t i = 0; i < n; i++) {
        p->a[i] = same(p, from, from->a[i]);
        p->b[i] = same(p, from, from->b[i]);
        p->u[i] = same(p, from, from->u[i]);
        p->l[i] = same(p, from, from->l[i]);
    }
    for (int k = 0; k < SQ_PLACES; k++)
        p->alpha[k] = same(p, from, from->alpha[k]);
    for (int64_t i = 0; i < p->nparam; i++) {
        p->param[i] = from->param[i];
        p->param[i].x = p->values + (from->param[i].x - from->values);
        p->param[i].grad = p->param[i].m = p->param[i].v = NULL;
    }
out:
    return rc;
}

int sq_params_mirror(struct sq_params *p, const struct sq_params *from, const struct sq_config *cfg,
                     const struct sq_ops *device)
{
    const size_t bytes = (size_t)sq_params_floats(from) * sizeof(float);
    void *x = NULL;
    int rc;
    *p = (struct sq_params){.nparam = from->nparam,
                            .nlinear = from->nlinear,
                            .rank = from->rank,
                            .home = device,
                            .rows_max = from->rows_max,
                            .cols_max = from->cols_max};
    SQ_TRY(device->alloc(&x, bytes));
    p->values = x;
    SQ_TRY(device->alloc(&x, (size_t)(p->rows_max + p->cols_max + 1) * sizeof(float)));
    p->scales = x;
    p->share = p->scales + p->rows_max + p->cols_max;
    SQ_TRY(sq_alloc(&p->maps, 1));
    SQ_TRY(maps_new(p->maps, p, cfg, device));
    SQ_TRY(mirror_table(p, from));
    device->put(p->values, from->values, bytes);
    device->put(p->share, from->share, sizeof *p->share);
    rc = device->wait();
out:
    if (rc < 0)
        sq_params_release(p);
    return rc;
}

int64_t sq_params_device_bytes(const struct sq_params *p, const struct sq_config *cfg)
{
    struct fold_maps m;
    const int64_t scales = p->rows_max + p->cols_max + 1, sums = p->cols_max + 2 * p->rows_max;
    const int64_t maps = lay_out(&m, NULL, cfg, SQ_MAX(p->cols_max, p->rows_max));
    return (4 * sq_params_floats(p) + scales + sums) * (int64_t)sizeof(float) + maps * (int64_t)sizeof(int32_t);
}

int sq_params_get(struct sq_params *host, const struct sq_params *p)
{
    return p->home->get(host->values, p->values, (size_t)sq_params_floats(p) * sizeof(float));
}

/* All gradients, then all first, all second moments. */
int params_device_train(struct sq_params *p)
{
    const int64_t n = sq_params_floats(p);
    const size_t bytes = (size_t)(3 * n) * sizeof(float);
    void *x = NULL;
    if (!p->moments) {
        const int rc = p->home->alloc(&x, bytes);
        if (rc < 0)
            return rc;
        p->moments = x;
    }
    p->home->clear(p->moments, bytes);
    for (int64_t i = 0; i < p->nparam; i++) {
        struct sq_param *q = &p->param[i];
        q->grad = p->moments + (q->x - p->values);
        q->m = q->grad + n;
        q->v = q->m + n;
    }
    return 0;
}

void params_device_release(struct sq_params *p)
{
    const struct sq_ops *home = p->home;
    if (p->maps) {
        home->release(p->maps->sums);
        home->release(p->maps->all);
    }
    sq_free(p->maps);
    home->release(p->scales);
    home->release(p->moments);
    home->release(p->values);
    p->maps = NULL;
    p->scales = p->moments = p->values = NULL;
}
