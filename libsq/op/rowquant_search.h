/* Where clipping starts: the search over pairs of factors of one group, which the processor and the device share.
 *
 * The error of a group as a function of its two factors has many dips (the zero point is an integer; a few channels may
 * carry most of the weight): so all pairs of twentieths, and from the best few of these a descent that halves its step
 * down to the lattice of 1/160. Ties keep the larger factors: a side that has no effect stays unclipped.
 *
 * It goes in rounds: rq_search_next() says how many pairs it wants the errors of, rq_search_try() which,
 * rq_search_take() gets the errors. Private to op. */
#ifndef SQ_ROWQUANT_SEARCH_H
#define SQ_ROWQUANT_SEARCH_H

#include "rowquant_group.h"

enum {
    RQ_LATTICE = 160,
    RQ_COARSE = 8,
    RQ_COARSE_SYM = 2, /* a symmetric grid moves both factors together */
    RQ_STARTS = 3,
    RQ_NEAR = 8,
    RQ_MOVES = 8,   /* of a descent before its step is halved all the same */
    RQ_ROUND = 128, /* pairs of a round at most */
};

#define RQ_U_MAX 8.0

struct rq_lattice {
    float u[RQ_LATTICE + 1], factor[RQ_LATTICE + 1]; /* [0] is not used */
};

static inline void rq_lattice_init(struct rq_lattice *t)
{
    t->u[0] = t->factor[0] = 0;
    for (int i = 1; i <= RQ_LATTICE; i++) {
        const double f = i / (double)RQ_LATTICE;
        t->u[i] = i == RQ_LATTICE ? (float)RQ_U_MAX : (float)log(f / (1 - f));
        t->factor[i] = (float)rq_sigmoid(&t->u[i]);
    }
}

/* A pair of factors, as places on the lattice, and its error. */
struct rq_try {
    double err;
    int hi, lo;
};

RQ_INLINE struct rq_grid rq_try_grid(const struct rq_try *x, const struct rq_lattice *t, float max, float min,
                                     const struct sq_rowq *p)
{
    struct rq_grid g;
    g.hi = t->factor[x->hi] * max + 0.0f;
    g.lo = t->factor[x->lo] * min + 0.0f;
    rq_grid_finish(&g, p);
    return g;
}

struct rq_search {
    bool sym;
    int n;           /* pairs of this round */
    int seen;        /* coarse pairs whose errors are known */
    int descents;    /* begun */
    int step, moves; /* of the descent at hand, which is at `at` */
    struct rq_try at, best;
    struct rq_try near[RQ_NEAR];    /* the pairs of its round */
    struct rq_try start[RQ_STARTS]; /* the best coarse pairs, earlier ones first where they tie */
};

RQ_INLINE void rq_search_init(struct rq_search *s, bool sym)
{
    const struct rq_try none = {HUGE_VAL, RQ_LATTICE, RQ_LATTICE};
    s->sym = sym;
    s->n = s->seen = s->descents = s->step = s->moves = 0;
    s->at = s->best = none;
    for (int k = 0; k < RQ_STARTS; k++)
        s->start[k] = none;
}

RQ_INLINE int rq_coarse(bool sym)
{
    return sym ? RQ_LATTICE / RQ_COARSE_SYM : (RQ_LATTICE / RQ_COARSE) * (RQ_LATTICE / RQ_COARSE);
}

/* Neighbours of `at`, larger factors first; returns their number. */
RQ_INLINE int rq_neighbours(struct rq_search *s)
{
    int n = 0;
    for (int a = 1; a >= -1; a--)
        for (int b = 1; b >= -1; b--) {
            const struct rq_try t = {0, s->at.hi + a * s->step, s->at.lo + b * s->step};
            if ((a || b) && (!s->sym || a == b) && SQ_MIN(t.hi, t.lo) >= 1 && SQ_MAX(t.hi, t.lo) <= RQ_LATTICE)
                s->near[n++] = t;
        }
    return n;
}

/* Pair i of this round, without its error. */
RQ_INLINE struct rq_try rq_search_try(const struct rq_search *s, int i)
{
    struct rq_try t = {0, RQ_LATTICE, RQ_LATTICE};
    const int at = s->seen + i, side = RQ_LATTICE / RQ_COARSE;
    if (s->seen == rq_coarse(s->sym)) {
        t = s->near[i];
    } else if (s->sym) {
        t.hi = t.lo = RQ_LATTICE - RQ_COARSE_SYM * at;
    } else {
        t.hi = RQ_LATTICE - RQ_COARSE * (at / side);
        t.lo = RQ_LATTICE - RQ_COARSE * (at % side);
    }
    return t;
}

/* The next start, if it promises anything. */
RQ_INLINE bool rq_descend(struct rq_search *s)
{
    if (s->at.err < s->best.err)
        s->best = s->at;
    if (s->descents == RQ_STARTS || !(s->best.err > 0) || !(s->start[s->descents].err < HUGE_VAL))
        return false;
    s->at = s->start[s->descents++];
    s->step = (s->sym ? RQ_COARSE_SYM : RQ_COARSE) / 2;
    s->moves = 0;
    return true;
}

/* How many pairs the next round has; 0: s->best is the result. */
RQ_INLINE int rq_search_next(struct rq_search *s)
{
    s->n = SQ_MIN(rq_coarse(s->sym) - s->seen, (int)RQ_ROUND);
    if (s->n > 0)
        return s->n;
    while (s->step == 0 || !(s->at.err > 0))
        if (!rq_descend(s))
            return 0;
    return s->n = rq_neighbours(s);
}

RQ_INLINE void rq_take_start(struct rq_search *s, struct rq_try t)
{
    int k = RQ_STARTS;
    for (; k > 0 && t.err < s->start[k - 1].err; k--)
        if (k < RQ_STARTS)
            s->start[k] = s->start[k - 1];
    if (k < RQ_STARTS)
        s->start[k] = t;
}

/* err: of the pairs of this round */
RQ_INLINE void rq_search_take(struct rq_search *s, const double *err)
{
    const bool descending = s->seen == rq_coarse(s->sym);
    struct rq_try to = s->at;
    for (int i = 0; i < s->n; i++) {
        if (!(err[i] < (descending ? to.err : s->start[RQ_STARTS - 1].err)))
            continue;
        struct rq_try t = rq_search_try(s, i);
        t.err = err[i];
        if (descending)
            to = t;
        else
            rq_take_start(s, t);
    }
    if (!descending) {
        s->seen += s->n;
        return;
    }
    const bool better = to.err < s->at.err;
    s->at = to;
    if (!better || ++s->moves == RQ_MOVES) {
        s->step /= 2;
        s->moves = 0;
    }
}

/* ---- on the processor ---- */

#ifndef __cplusplus
#include "sq/tensor.h"

/* sq_rowquant_error_ref, or a kernel of the same bits */
typedef void rq_error(double *err, const float *z, const float *weight, const struct sq_rowq *p, const float *scale,
                      const float *zero, int64_t tries, int64_t n);

/* u[i], l[i] of group i of rows z [rows, cols] */
void rq_search_group(float *u, float *l, int64_t i, rq_error *error, struct sq_floats z, const float *weight,
                     const struct sq_rowq *p, int64_t cols, const struct rq_lattice *t);
#endif
#endif
