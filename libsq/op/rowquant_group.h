/* One group of a row, the scalar part that the reference and the vector kernels share: from its extremes to
 * the grid, and from the gradient of the scale back to clipping and extremes. Private to op. */
#ifndef SQ_ROWQUANT_GROUP_H
#define SQ_ROWQUANT_GROUP_H

#include <math.h>

#include "sq/rowquant.h"

#ifdef __CUDACC__
#define RQ_INLINE static inline __host__ __device__ /* kernels share it: libsq/op/cuda */
#else
#define RQ_INLINE static inline
#endif

enum { RQ_ERROR_CHUNK = 256 }; /* channels whose squared errors are summed in float */

struct rq_grid {
    double su, sl; /* sigma(u), sigma(l) */
    float max, min, hi, lo;
    float s, zp;
    bool moves; /* s is inside its bounds, so hi and lo have a gradient */
};

/* clamp that also sends NaN to low: what follows is converted to an integer */
RQ_INLINE float rq_clamp(float x, float low, float high)
{
    return !(x >= low) ? low : x > high ? high : x;
}

/* In double, so that the rounded factor does not depend on the C library. */
RQ_INLINE double rq_sigmoid(const float *u)
{
    return u ? 1.0 / (1.0 + exp(-(double)*u)) : 1.0;
}

RQ_INLINE float rq_low(const struct sq_rowq *p)
{
    return p->sym ? -(float)(1 << (p->bits - 1)) : 0.0f;
}

RQ_INLINE float rq_high(const struct sq_rowq *p)
{
    return (float)((1 << (p->sym ? p->bits - 1 : p->bits)) - 1);
}

/* From the clipped extremes in g to scale and zero point. */
RQ_INLINE void rq_grid_finish(struct rq_grid *g, const struct sq_rowq *p)
{
    if (p->zero) {
        g->hi = g->hi > 0 ? g->hi : 0;
        g->lo = g->lo < 0 ? g->lo : 0;
    }
    const float width = p->sym ? fmaxf(fabsf(g->hi), fabsf(g->lo)) : g->hi - g->lo;
    const float s = width / rq_high(p);
    g->s = rq_clamp(s, SQ_SCALE_MIN, SQ_SCALE_MAX);
    g->moves = s >= SQ_SCALE_MIN && s <= SQ_SCALE_MAX;
    g->zp = p->sym ? 0 : rintf(rq_clamp(-g->lo / g->s, -SQ_ZERO_MAX, SQ_ZERO_MAX)) + 0.0f; /* no -0 */
}

RQ_INLINE struct rq_grid rq_grid_of(const struct sq_rowq *p, float max, float min, const float *u,
                                        const float *l)
{
    /* + 0: which of 0 and -0 was found first must not show */
    struct rq_grid g;
    g.su = rq_sigmoid(u);
    g.sl = rq_sigmoid(l);
    g.max = max + 0.0f;
    g.min = min + 0.0f;
    g.hi = (float)g.su * g.max;
    g.lo = (float)g.sl * g.min;
    rq_grid_finish(&g, p);
    return g;
}

/* The 8 partial sums of a reduction (element j goes to sum j % 8) in the one order that every kernel uses. */
RQ_INLINE double rq_sum8(const double a[8])
{
    return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]));
}

/* From ds, the gradient of the scale: of hi and lo before clipping (to be shared by the extremes of z), and
 * of u, l. */
struct rq_back {
    double max, min, u, l;
};

RQ_INLINE struct rq_back rq_back_of(const struct sq_rowq *p, const struct rq_grid *g, double ds)
{
    double dhi = 0, dlo = 0;
    if (g->moves && !p->sym) {
        dhi = ds / rq_high(p);
        dlo = -dhi;
    } else if (g->moves) {
        const double d = ds / rq_high(p), a = fabsf(g->hi), b = fabsf(g->lo);
        dhi = a < b ? 0 : (a > b ? d : d / 2) * (g->hi > 0 ? 1 : g->hi < 0 ? -1 : 0);
        dlo = a > b ? 0 : (a < b ? d : d / 2) * (g->lo > 0 ? 1 : g->lo < 0 ? -1 : 0);
    }
    if (p->zero && (float)g->su * g->max < 0)
        dhi = 0;
    if (p->zero && (float)g->sl * g->min > 0)
        dlo = 0;
    const struct rq_back b = {dhi * g->su, dlo * g->sl, dhi * (double)g->max * (g->su * (1 - g->su)),
                              dlo * (double)g->min * (g->sl * (1 - g->sl))};
    return b;
}

/* Group g of a row of cols: [first, first + n), of which the first `covered` are rounded. */
struct rq_span {
    int64_t first, n, covered;
};

static inline struct rq_span rq_span_of(const struct sq_rowq *p, int64_t g, int64_t groups, int64_t cols)
{
    const int64_t width = p->group ? p->group : cols, first = g * width, n = SQ_MIN(width, cols - first);
    const int64_t covered = p->group ? (g < sq_rowq_covered(groups, p->rate) ? n : 0) : sq_rowq_covered(cols, p->rate);
    const struct rq_span s = {first, n, covered};
    return s;
}

#endif
