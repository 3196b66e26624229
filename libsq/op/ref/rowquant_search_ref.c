#include "../rowquant_search.h"

#include "ref.h"

/* One group of a row, in the type that it has; a chunk of it as f32. */
struct group {
    struct sq_floats z;
    const float *weight;
    int64_t n, held; /* held: where the chunk begins; -1: none */
    float chunk[RQ_ERROR_CHUNK];
};

/* channels [at, at + n), at most a chunk of them */
static const float *chunk_of(struct group *g, int64_t at, int64_t n)
{
    const struct sq_floats z = sq_floats_from(g->z, at);
    if (z.type == SQ_F32)
        return z.x;
    if (at != g->held)
        sq_floats_get(g->chunk, z, n);
    g->held = at;
    return g->chunk;
}

static void extremes(float *max, float *min, struct group *g)
{
    for (int64_t at = 0; at < g->n; at += RQ_ERROR_CHUNK) {
        const int64_t n = SQ_MIN(g->n - at, RQ_ERROR_CHUNK);
        const float *z = chunk_of(g, at, n);
        if (at == 0)
            *max = *min = z[0];
        for (int64_t j = 0; j < n; j++) {
            *max = SQ_MAX(*max, z[j]);
            *min = SQ_MIN(*min, z[j]);
        }
    }
}

/* Errors of the pairs of a round; chunks of a sum are added in double, in order, as the operation itself does. */
static void measure(double err[RQ_ROUND], const struct rq_search *s, rq_error *error, struct group *g, float max,
                    float min, const struct sq_rowq *p, const struct rq_lattice *t)
{
    float scale[RQ_ROUND], zero[RQ_ROUND];
    double part[RQ_ROUND];
    for (int i = 0; i < s->n; i++) {
        const struct rq_try x = rq_search_try(s, i);
        const struct rq_grid grid = rq_try_grid(&x, t, max, min, p);
        scale[i] = grid.s;
        zero[i] = grid.zp;
        err[i] = 0;
    }
    for (int64_t at = 0; at < g->n; at += RQ_ERROR_CHUNK) {
        const int64_t n = SQ_MIN(g->n - at, RQ_ERROR_CHUNK);
        error(part, chunk_of(g, at, n), g->weight ? g->weight + at : NULL, p, scale, zero, s->n, n);
        for (int i = 0; i < s->n; i++)
            err[i] += part[i];
    }
}

void rq_search_group(float *u, float *l, int64_t i, rq_error *error, struct sq_floats z, const float *weight,
                     const struct sq_rowq *p, int64_t cols, const struct rq_lattice *t)
{
    const int64_t groups = sq_rowq_groups(p, cols);
    const struct rq_span span = rq_span_of(p, i % groups, groups, cols);
    struct rq_search s;
    struct group g;
    double err[RQ_ROUND];
    float max = 0, min = 0;
    g.z = sq_floats_from(z, i / groups * cols + span.first);
    g.weight = weight ? weight + span.first : NULL;
    g.n = span.n;
    g.held = -1;
    extremes(&max, &min, &g);
    rq_search_init(&s, p->sym);
    while (rq_search_next(&s) > 0) {
        measure(err, &s, error, &g, max, min, p, t);
        rq_search_take(&s, err);
    }
    u[i] = t->u[s.best.hi];
    l[i] = t->u[s.best.lo];
}

void sq_rowquant_search_ref(float *u, float *l, struct sq_floats z, const float *weight, const struct sq_rowq *p,
                            int64_t rows, int64_t cols)
{
    const int64_t n = cols > 0 ? rows * sq_rowq_groups(p, cols) : 0;
    struct rq_lattice t;
    rq_lattice_init(&t);
    for (int64_t i = 0; i < n; i++)
        rq_search_group(u, l, i, sq_rowquant_error_ref, z, weight, p, cols, &t);
}
