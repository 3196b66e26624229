#include "sq/rowquant.h"

#include <string.h>

#include "../rowquant_group.h"

/* Codes are defined by float32 in the order of docs/method.md 1: divide (never times 1/s), rintf to nearest
 * even, add the zero point, clamp, and only then convert. Sums run in double over 8 interleaved partial sums,
 * the order a vector kernel can keep, so that all backends agree bit for bit (the products of two floats are
 * exact in double). */

enum { SMALL = 1 << 17 }; /* values that are not worth waking other threads */

int64_t sq_rowq_groups(const struct sq_rowq *p, int64_t cols)
{
    return p->group && cols ? (cols - 1) / p->group + 1 : 1;
}

int64_t sq_rowq_covered(int64_t n, double rate)
{
    return SQ_MIN(n, (int64_t)ceil(rate * (double)n - 1e-9));
}

static struct rq_grid grid_of(const struct sq_rowq *p, const float *z, int64_t n, const float *u,
                              const float *l)
{
    float max = n ? z[0] : 0, min = max;
    for (int64_t j = 1; j < n; j++) {
        max = z[j] > max ? z[j] : max;
        min = z[j] < min ? z[j] : min;
    }
    return rq_grid_of(p, max, min, u, l);
}

void sq_rowquant_ref(float *y, const float *z, const struct sq_rowq *p, const float *u, const float *l,
                     int64_t rows, int64_t cols)
{
    const int64_t groups = sq_rowq_groups(p, cols);
    if (p->bits >= 16) {
        if (y != z && rows > 0 && cols > 0)
            memcpy(y, z, (size_t)(rows * cols) * sizeof *y);
        return;
    }
    const float low = rq_low(p), high = rq_high(p);
    for (int64_t i = 0; i < rows * groups; i++) {
        const struct rq_span s = rq_span_of(p, i % groups, groups, cols);
        const float *zi = z + i / groups * cols + s.first;
        float *yi = y + i / groups * cols + s.first;
        const struct rq_grid g = grid_of(p, zi, s.n, u ? u + i : NULL, l ? l + i : NULL);
        for (int64_t j = 0; j < s.covered; j++)
            yi[j] = (rq_clamp(rintf(zi[j] / g.s) + g.zp, low, high) - g.zp) * g.s;
        for (int64_t j = s.covered; j < s.n; j++)
            yi[j] = zi[j];
    }
}

void sq_rowquant_encode_ref(struct sq_codes *to, const float *z, const struct sq_rowq *p, const float *u,
                            const float *l, int64_t rows, int64_t cols)
{
    SQ_ASSERT(!p->group && p->bits <= 8);
    const float low = rq_low(p), high = rq_high(p);
    to->bits = p->bits;
    to->cols = sq_rowq_covered(cols, p->rate);
    for (int64_t i = 0; i < rows; i++) {
        const struct rq_grid g = grid_of(p, z + i * cols, cols, u ? u + i : NULL, l ? l + i : NULL);
        int32_t sum = 0;
        for (int64_t j = 0; j < to->cols; j++) {
            const uint8_t q = (uint8_t)(rq_clamp(rintf(z[i * cols + j] / g.s) + g.zp, low, high) - low);
            to->q[i * to->ld + j] = q;
            sum += q;
        }
        to->scale[i] = g.s;
        to->zero[i] = g.zp - low;
        to->sum[i] = sum;
    }
}

/* Equal extremes share their gradient evenly. */
static void to_extremes(float *dz, const float *z, int64_t n, const struct rq_grid *g,
                        const struct rq_back *b)
{
    int64_t nmax = 0, nmin = 0;
    for (int64_t j = 0; j < n; j++) {
        nmax += z[j] == g->max;
        nmin += z[j] == g->min;
    }
    const float dmax = nmax ? (float)(b->max / (double)nmax) : 0,
                dmin = nmin ? (float)(b->min / (double)nmin) : 0;
    for (int64_t j = 0; j < n; j++) {
        if (z[j] == g->max)
            dz[j] += dmax;
        if (z[j] == g->min)
            dz[j] += dmin;
    }
}

void sq_rowquant_grad_ref(float *dz, float *du, float *dl, const float *dy, const float *z,
                          const struct sq_rowq *p, const float *u, const float *l, int64_t rows, int64_t cols)
{
    const int64_t groups = sq_rowq_groups(p, cols);
    if (p->bits >= 16) {
        if (dz != dy && rows > 0 && cols > 0)
            memcpy(dz, dy, (size_t)(rows * cols) * sizeof *dz);
        for (int64_t i = 0; i < rows * groups; i++) {
            if (du)
                du[i] = 0;
            if (dl)
                dl[i] = 0;
        }
        return;
    }
    const float low = rq_low(p), high = rq_high(p);
    for (int64_t i = 0; i < rows * groups; i++) {
        const struct rq_span s = rq_span_of(p, i % groups, groups, cols);
        const int64_t at = i / groups * cols + s.first;
        const float *zi = z + at, *dyi = dy + at;
        float *dzi = dz + at;
        const struct rq_grid g = grid_of(p, zi, s.n, u ? u + i : NULL, l ? l + i : NULL);
        double sum[8] = {0};
        for (int64_t j = 0; j < s.covered; j++) {
            const float r = zi[j] / g.s, whole = rintf(r) + g.zp;
            const bool in = whole >= low && whole <= high;
            const float ds = in ? (whole - g.zp) - r : rq_clamp(whole, low, high) - g.zp;
            sum[j % 8] += (double)dyi[j] * (double)ds;
            dzi[j] = in ? dyi[j] : 0;
        }
        for (int64_t j = s.covered; j < s.n; j++)
            dzi[j] = dyi[j];
        const struct rq_back b = rq_back_of(p, &g, rq_sum8(sum));
        if (b.max != 0 || b.min != 0)
            to_extremes(dzi, zi, s.n, &g, &b);
        if (du)
            du[i] = (float)b.u;
        if (dl)
            dl[i] = (float)b.l;
    }
}

void sq_rowquant_grid(float *scale, float *zero, const float *z, const struct sq_rowq *p, const float *u,
                      const float *l, int64_t rows, int64_t cols)
{
    const int64_t groups = sq_rowq_groups(p, cols);
#pragma omp parallel for schedule(static) if (rows * cols > SMALL)
    for (int64_t i = 0; i < rows * groups; i++) {
        const struct rq_span s = rq_span_of(p, i % groups, groups, cols);
        const struct rq_grid g = grid_of(p, z + i / groups * cols + s.first, s.n, u ? u + i : NULL,
                                         l ? l + i : NULL);
        scale[i] = g.s;
        zero[i] = g.zp;
    }
}

void sq_rowquant_grid_of(float *scale, float *zero, float hi, float lo, const struct sq_rowq *p)
{
    struct rq_grid g = {.hi = hi + 0.0f, .lo = lo + 0.0f};
    rq_grid_finish(&g, p);
    *scale = g.s;
    *zero = g.zp;
}

float sq_rowquant_factor(float u)
{
    return (float)rq_sigmoid(&u);
}

void sq_rowquant_codes(uint8_t *q, const float *z, const float *scale, const float *zero,
                       const struct sq_rowq *p, int64_t rows, int64_t cols)
{
    const int64_t groups = sq_rowq_groups(p, cols);
    const float low = rq_low(p), high = rq_high(p);
#pragma omp parallel for schedule(static) if (rows * cols > SMALL)
    for (int64_t i = 0; i < rows * groups; i++) {
        const struct rq_span s = rq_span_of(p, i % groups, groups, cols);
        const int64_t at = i / groups * cols + s.first;
        for (int64_t j = 0; j < s.n; j++)
            q[at + j] = (uint8_t)(rq_clamp(rintf(z[at + j] / scale[i]) + zero[i], low, high) - low);
    }
}

void sq_rowquant_dequant(float *y, const uint8_t *q, const float *scale, const uint8_t *zero,
                         const struct sq_rowq *p, int64_t rows, int64_t cols)
{
    const int64_t groups = sq_rowq_groups(p, cols);
#pragma omp parallel for schedule(static) if (rows * cols > SMALL)
    for (int64_t i = 0; i < rows * groups; i++) {
        const struct rq_span s = rq_span_of(p, i % groups, groups, cols);
        const int64_t at = i / groups * cols + s.first;
        for (int64_t j = 0; j < s.n; j++)
            y[at + j] = (float)((int)q[at + j] - (int)zero[i]) * scale[i];
    }
}

/* Sums of a chunk in float: a choice among grids needs no more, and every backend makes the same one. */
void sq_rowquant_error_ref(double *err, const float *z, const float *weight, const struct sq_rowq *p,
                           const float *scale, const float *zero, int64_t tries, int64_t n)
{
    const float low = rq_low(p), high = rq_high(p);
    for (int64_t t = 0; t < tries; t++) {
        err[t] = 0;
        for (int64_t j = 0; j < n;) {
            const int64_t end = SQ_MIN(n, j + RQ_ERROR_CHUNK);
            float part = 0;
            for (; j < end; j++) {
                const float e = z[j] -
                                (rq_clamp(rintf(z[j] / scale[t]) + zero[t], low, high) - zero[t]) * scale[t];
                part += weight ? e * e * weight[j] : e * e;
            }
            err[t] += (double)part;
        }
    }
}
