#include "sq/params.h"

#include <math.h>

/* Where clipping starts. The error of a row as a function of its two factors has many dips (the zero point is
 * an integer; a few channels may carry most of the weight): so all pairs of twentieths, and from the best few
 * of these a descent that halves its step down to the lattice of 1/160. Ties keep the larger factors: a side
 * that has no effect stays unclipped. */

enum {
    ROWS = 64, /* at a time */
    LATTICE = 160,
    COARSE = 8,
    COARSE_SYM = 2,
    STARTS = 3,
    TRIES = (LATTICE / COARSE) * (LATTICE / COARSE)
};

#define U_MAX 8.0

struct lattice {
    float u[LATTICE + 1], factor[LATTICE + 1]; /* [0] is not used */
};

static void lattice_init(struct lattice *t)
{
    for (int i = 1; i <= LATTICE; i++) {
        const double f = (double)i / LATTICE;
        t->u[i] = i == LATTICE ? (float)U_MAX : (float)log(f / (1 - f));
        t->factor[i] = sq_rowquant_factor(t->u[i]);
    }
}

struct group {
    const struct lattice *t;
    const struct sq_rowq *p;
    const struct sq_ops *ops;
    const float *z, *weight;
    int64_t n;
    float max, min;
};

/* A pair of factors, as places on the lattice, and its error. */
struct
try {
    double err;
    int hi, lo;
};

static void measure(struct try *t, const struct group *g, int64_t tries)
{
    float scale[TRIES] = {0}, zero[TRIES] = {0};
    double err[TRIES];
    for (int64_t i = 0; i < tries; i++)
        sq_rowquant_grid_of(scale + i, zero + i, g->t->factor[t[i].hi] * g->max,
                            g->t->factor[t[i].lo] * g->min, g->p);
    g->ops->rowquant_error(err, g->z, g->weight, g->p, scale, zero, tries, g->n);
    for (int64_t i = 0; i < tries; i++)
        t[i].err = err[i];
}

/* Move best to the best of its neighbours, larger factors first; a symmetric grid moves both factors
 * together. */
static bool step_down(struct try *best, const struct group *g, int step)
{
    struct try t[8];
    int64_t n = 0;
    bool better = false;
    for (int a = 1; a >= -1; a--)
        for (int b = 1; b >= -1; b--) {
            const int hi = best->hi + a * step, lo = best->lo + b * step;
            if ((!a && !b) || (g->p->sym && a != b) || hi < 1 || lo < 1 || hi > LATTICE || lo > LATTICE)
                continue;
            t[n++] = (struct try){.hi = hi, .lo = lo};
        }
    measure(t, g, n);
    for (int64_t i = 0; i < n; i++)
        if (t[i].err < best->err) {
            *best = t[i];
            better = true;
        }
    return better;
}

/* All coarse pairs, larger factors first. */
static int64_t coarse(struct try t[TRIES], bool sym)
{
    const int step = sym ? COARSE_SYM : COARSE;
    int64_t n = 0;
    for (int a = LATTICE; a > 0; a -= step)
        for (int b = sym ? a : LATTICE; b > (sym ? a - 1 : 0); b -= step)
            t[n++] = (struct try){.hi = a, .lo = b};
    return n;
}

static struct try search_group(struct group *g)
{
    struct try t[TRIES], best = {.err = INFINITY, .hi = LATTICE, .lo = LATTICE};
    g->max = g->min = g->z[0];
    for (int64_t j = 1; j < g->n; j++) {
        g->max = SQ_MAX(g->max, g->z[j]);
        g->min = SQ_MIN(g->min, g->z[j]);
    }
    const int64_t n = coarse(t, g->p->sym);
    measure(t, g, n);
    for (int k = 0; k < STARTS && best.err > 0; k++) {
        struct try *from = NULL;
        for (int64_t i = 0; i < n; i++)
            if (t[i].err < (from ? from->err : INFINITY))
                from = &t[i];
        if (!from)
            break;
        struct try end = *from;
        from->err = INFINITY;
        for (int step = (g->p->sym ? COARSE_SYM : COARSE) / 2; step > 0 && end.err > 0; step /= 2)
            for (int moves = 0; moves < 8 && step_down(&end, g, step); moves++)
                ;
        if (end.err < best.err)
            best = end;
    }
    return best;
}

/* Mean squares of a linear's input as float weights of largest value 1; NULL when there are none. */
static const float *weights_of(float *out, const struct sq_input_stats *stats, const struct sq_config *c,
                               int64_t k, int64_t cols)
{
    const int64_t expert = k < SQ_GATE ? 0 : (k - SQ_GATE) / 3;
    const bool down = k >= SQ_GATE && (k - SQ_GATE) % 3 == 2;
    const double *x = !stats      ? NULL
                      : k < SQ_O  ? stats->qkv
                      : k == SQ_O ? stats->out
                      : down      ? stats->fc2
                                  : stats->fc1;
    double top = 0;
    if (x && down)
        x += expert * c->ffn;
    for (int64_t j = 0; x && j < cols; j++)
        top = SQ_MAX(top, x[j]);
    for (int64_t j = 0; top > 0 && j < cols; j++)
        out[j] = (float)(x[j] / top);
    return top > 0 ? out : NULL; /* an expert without tokens: all channels count alike */
}

/* u, l of rows first ... first + rows - 1, whose weights are z [rows, cols]; like: what all groups have in common */
static void search_rows(float *u, float *l, const float *z, const float *weight, int64_t first, int64_t rows,
                        int64_t cols, const struct group *like)
{
    const int64_t groups = sq_rowq_groups(like->p, cols), size = like->p->group ? like->p->group : cols;
#pragma omp parallel for schedule(dynamic, 4)
    for (int64_t i = 0; i < rows * groups; i++) {
        const int64_t j = i % groups * size;
        struct group g = *like;
        g.z = z + i / groups * cols + j;
        g.weight = weight ? weight + j : NULL;
        g.n = SQ_MIN(size, cols - j);
        const struct try best = search_group(&g);
        u[first * groups + i] = g.t->u[best.hi];
        l[first * groups + i] = g.t->u[best.lo];
    }
}

int sq_params_search(struct sq_params *p, const struct sq_ops *ops, const struct sq_block *w,
                     const struct sq_scheme *s, const struct sq_input_stats *stats)
{
    const struct sq_rowq q = sq_scheme_weights(s);
    struct lattice t;
    float *buffer = NULL, *wide = NULL;
    int rc = 0;
    if (q.bits >= 16)
        return 0;
    lattice_init(&t);
    SQ_TRY(sq_alloc(&buffer, p->cols_max));
    SQ_TRY(sq_alloc(&wide, ROWS * p->cols_max));
    for (int64_t k = 0; k < p->nlinear; k++) {
        int64_t rows, cols;
        sq_linear_shape(&rows, &cols, w->cfg, k);
        if (!p->u[k] || !p->l[k])
            continue;
        const float *weight = weights_of(buffer, stats, w->cfg, k, cols);
        for (int64_t r = 0; r < rows; r += ROWS) {
            const int64_t n = SQ_MIN(ROWS, rows - r), at = r * cols;
            const float *z = (const float *)w->w[k] + at;
            if (w->type == SQ_BF16) {
                sq_bf16_widen(wide, (const uint16_t *)w->w[k] + at, n * cols);
                z = wide;
            }
            search_rows(p->u[k]->x, p->l[k]->x, z, weight, r, n, cols, &(struct group){.t = &t, .p = &q, .ops = ops});
        }
    }
out:
    sq_free(wide);
    sq_free(buffer);
    return rc;
}
