/* rowquant_warp.h - the quantizer on one group of a row by one warp, for arrays (rowquant_cuda.cu) and for weights that
 * are made as they are read (fold_cuda.cu). Private to op/cuda.
 *
 * The formula is that of docs/method.md 1, in the reference's order of operations (op/rowquant_group.h), so codes and
 * rounded values have its bits: extremes do not depend on an order, the rest is per element. A source has rows, a row
 * gives the values of EACH columns, neighbours, a sink takes (row, column, values). Values are made twice (extremes,
 * rounding): the second time they come from the caches. */
#ifndef SQ_ROWQUANT_WARP_H
#define SQ_ROWQUANT_WARP_H

#include "gpu.h"

#include "../rowquant_group.h"

/* Rows and how they are rounded; u, l [rows, groups] or NULL. */
struct warp_rows {
    struct sq_rowq p;
    const float *u, *l;
    int64_t rows, cols, groups, covered; /* covered channels of a row, or groups if p.group */
};

static inline warp_rows warp_rows_of(const struct sq_rowq *p, const float *u, const float *l, int64_t rows,
                                     int64_t cols)
{
    const int64_t groups = p->group && cols ? (cols - 1) / p->group + 1 : 1, n = p->group ? groups : cols;
    return {*p, u, l, rows, cols, groups, SQ_MIN(n, (int64_t)ceil(p->rate * (double)n - 1e-9))};
}

/* Group i of all: channels [first, first + n) of a row, of which `covered` are rounded. */
struct warp_group {
    int64_t row, first, n, covered;
};

static __device__ inline warp_group warp_group_of(const warp_rows &r, int64_t i)
{
    const int64_t row = i / r.groups, k = i % r.groups, width = r.p.group ? r.p.group : r.cols;
    const int64_t n = SQ_MIN(width, r.cols - k * width);
    const int64_t covered = r.p.bits >= 16 ? 0 : r.p.group ? (k < r.covered ? n : 0) : r.covered;
    return {row, k * width, n, covered};
}

/* The columns of a row of z that a lane takes at once, neighbours. */
template <class Z> static constexpr int EACH_LANE = decltype(std::declval<Z>().row(0))::EACH;

struct warp_ends {
    float max, min;
};

/* of group i, in every lane; 0 where nothing is rounded */
template <class Z> static __device__ warp_ends warp_ends_of(const warp_rows &r, int64_t i, const Z &z)
{
    const warp_group s = warp_group_of(r, i);
    if (r.p.bits >= 16 || s.n == 0)
        return {};
    float max = -HUGE_VALF, min = HUGE_VALF;
    const auto value = z.row(s.row);
    GPU_LANES_LOOP (j, s.n, EACH_LANE<Z>) {
        for (const float v : value(s.first + j).v) {
            max = v > max ? v : max;
            min = v < min ? v : min;
        }
    }
    max = warp_max(max);
    min = warp_min(min);
    return {max + 0.0f, min + 0.0f}; /* never -0, which is as large as 0 */
}

static __device__ inline rq_grid warp_grid(const warp_rows &r, int64_t i, const warp_ends &e)
{
    return rq_grid_of(&r.p, e.max, e.min, r.u ? r.u + i : nullptr, r.l ? r.l + i : nullptr);
}

/* A value rounded, and the whole number that stands for it: the code is whole - rq_low(). */
struct warp_value {
    float rounded, whole;
};

static __device__ inline warp_value warp_value_of(float v, const rq_grid &g, float low, float high)
{
    const float whole = fminf(fmaxf(rintf(v / g.s) + g.zp, low), high); /* rq_clamp, as that is never -0 */
    return {(whole - g.zp) * g.s, whole};
}

/* to(row, column, values), code(row, column, whole number from 0 on) for group i with its extremes; returns its grid */
template <class Z, class Y, class Q>
static __device__ rq_grid warp_round(const warp_rows &r, int64_t i, const Z &z, const warp_ends &e, const Y &to,
                                     const Q &code)
{
    const warp_group s = warp_group_of(r, i);
    const float low = rq_low(&r.p), high = rq_high(&r.p);
    rq_grid g = {};
    if (r.p.bits < 16)
        g = warp_grid(r, i, e);
    const auto value = z.row(s.row);
    GPU_LANES_LOOP (j, s.n, EACH_LANE<Z>) {
        gpu_few<EACH_LANE<Z>> v = value(s.first + j);
        for (int k = 0; k < EACH_LANE<Z>; k++) {
            if (j + k < s.covered) {
                const warp_value w = warp_value_of(v.v[k], g, low, high);
                v.v[k] = w.rounded;
                code(s.row, s.first + j + k, w.whole - low);
            }
        }
        to(s.row, s.first + j, v);
    }
    return g;
}

/* dz = the gradient at z from dy at the rounded value, of group i with its extremes; du, dl [rows, groups] or
 * NULL. dz may be dy. seen(column, gradients) is called for every EACH columns, with 0 in place of an extreme's
 * gradient; an extreme's own follows, alone, once it is complete. */
template <class Z, class S>
static __device__ void warp_unround(const warp_rows &r, int64_t i, const Z &z, const warp_ends &e, float *dz, float *du,
                                    float *dl, const float *dy, const S &seen)
{
    const warp_group s = warp_group_of(r, i);
    const int64_t at = s.row * r.cols + s.first;
    constexpr int EACH = EACH_LANE<Z>;
    rq_back b = {};
    if (r.p.bits < 16) {
        const float low = rq_low(&r.p), high = rq_high(&r.p);
        const rq_grid g = warp_grid(r, i, e);
        const auto value = z.row(s.row);
        double sum = 0;
        int64_t jmax = 0, jmin = 0; /* the lane's last extremes */
        int nmax = 0, nmin = 0;
        GPU_LANES_LOOP (j, s.n, EACH) {
            const gpu_few<EACH> v = value(s.first + j);
            gpu_few<EACH> d = gpu_few_at<EACH>(dy + at + j), inner;
            for (int k = 0; k < EACH; k++) {
                const bool top = v.v[k] == g.max, bottom = v.v[k] == g.min;
                if (j + k < s.covered) {
                    const float x = v.v[k] / g.s, whole = rintf(x) + g.zp;
                    const bool in = whole >= low && whole <= high;
                    const float ds = in ? (whole - g.zp) - x : rq_clamp(whole, low, high) - g.zp;
                    sum = fma((double)d.v[k], (double)ds, sum); /* the product is exact */
                    d.v[k] = in ? d.v[k] : 0;
                }
                inner.v[k] = top || bottom ? 0 : d.v[k];
                if (top)
                    jmax = j + k, nmax++;
                if (bottom)
                    jmin = j + k, nmin++;
            }
            seen(s.first + j, inner); /* before the store, so that what made v need not be loaded again */
            *reinterpret_cast<gpu_few<EACH> *>(dz + at + j) = d;
        }
        b = rq_back_of(&r.p, &g, warp_sum(sum));
        const int maxima = warp_sum(nmax), minima = warp_sum(nmin);
        const float dmax = maxima ? (float)(b.max / maxima) : 0, dmin = minima ? (float)(b.min / minima) : 0;
        const auto give = [&](int64_t j, bool top, bool bottom) {
            if (top)
                dz[at + j] += dmax;
            if (bottom)
                dz[at + j] += dmin;
            if (top || bottom)
                seen(s.first + j, gpu_few<1>{{dz[at + j]}});
        };
        if (nmax <= 1 && nmin <= 1) { /* as nearly always: no second look at the values */
            const bool both = nmax && nmin && jmax == jmin;
            give(jmax, nmax, both);
            give(jmin, false, nmin && !both);
        } else {
            GPU_LANES_LOOP (j, s.n, EACH) {
                const gpu_few<EACH> v = value(s.first + j);
                for (int k = 0; k < EACH; k++)
                    give(j + k, v.v[k] == g.max, v.v[k] == g.min);
            }
        }
    } else {
        GPU_LANES_LOOP (j, s.n, EACH) {
            const gpu_few<EACH> d = gpu_few_at<EACH>(dy + at + j);
            seen(s.first + j, d);
            *reinterpret_cast<gpu_few<EACH> *>(dz + at + j) = d;
        }
    }
    if (threadIdx.x % GPU_LANES == 0 && du)
        du[i] = (float)b.u;
    if (threadIdx.x % GPU_LANES == 0 && dl)
        dl[i] = (float)b.l;
}

#endif
