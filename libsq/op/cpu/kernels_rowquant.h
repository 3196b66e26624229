/* The row quantizers: the reference with LANES channels at a time, the same IEEE operations on every channel, and sums over
 * channels in the reference's 8 partial sums, so that every output has the same bits. Channels that a tail lacks read as
 * zero and add nothing to a sum. Included by the kernel files of each instruction set. */
#include "../rowquant_group.h"
#include "cpu.h"
#include "vec.h"

enum { PARTS = 8 / HALF }; /* vectors of partial sums */

/* a grid in every lane, or one for each */
struct grids {
    vf s, zp, low, high;
};

VEC_INLINE struct grids spread(const struct sq_rowq *p, const struct rq_grid *g)
{
    return (struct grids){vset(g->s), vset(g->zp), vset(rq_low(p)), vset(rq_high(p))};
}

/* max(x, low) gives low for NaN, as rq_clamp does */
VEC_INLINE vf clamped(vf x, const struct grids *g)
{
    return vmin(vmax(x, g->low), g->high);
}

VEC_INLINE vf on_grid(vf z, const struct grids *g)
{
    return (clamped(vrint(z / g->s) + g->zp, g) - g->zp) * g->s;
}

static struct rq_grid grid_of(const struct sq_rowq *p, const float *z, int64_t n, const float *u, const float *l)
{
    if (!n)
        return rq_grid_of(p, 0, 0, u, l);
    const vf first = vset(z[0]);
    vf max[2] = {first, first}, min[2] = {first, first};
    int64_t j = 0;
    for (; j + 2 * LANES <= n; j += 2 * LANES)
        for (int i = 0; i < 2; i++) {
            const vf a = vload(z + j + i * LANES);
            max[i] = vmax(a, max[i]);
            min[i] = vmin(a, min[i]);
        }
    for (; j < n; j += LANES) {
        const int64_t some = SQ_MIN(n - j, LANES);
        const vf a = vselect(vbelow(some), get(z + j, some), first);
        max[0] = vmax(a, max[0]);
        min[0] = vmin(a, min[0]);
    }
    return rq_grid_of(p, vlargest(vmax(max[0], max[1])), -vlargest(-vmin(min[0], min[1])), u, l);
}

static void round_group(float *y, const float *z, const struct sq_rowq *p, struct rq_span s, const float *u,
                        const float *l)
{
    if (s.covered) {
        const struct rq_grid one = grid_of(p, z, s.n, u, l);
        const struct grids g = spread(p, &one);
#define ROUND(j, c) put(y + (j), on_grid(get(z + (j), c), &g), c)
        EACH(s.covered, ROUND);
    }
    if (y != z && s.covered < s.n)
        memcpy(y + s.covered, z + s.covered, (size_t)(s.n - s.covered) * sizeof *y);
}

static void rowquant(float *y, const float *z, const struct sq_rowq *p, const float *u, const float *l, int64_t rows,
                     int64_t cols)
{
    const int64_t groups = sq_rowq_groups(p, cols);
    if (p->bits >= 16) {
        sq_rowquant_ref(y, z, p, u, l, rows, cols);
        return;
    }
    for (int64_t i = 0; i < rows; i++, z += cols, y += cols)
        for (int64_t k = 0; k < groups; k++) {
            const struct rq_span s = rq_span_of(p, k, groups, cols);
            const int64_t ig = i * groups + k;
            round_group(y + s.first, z + s.first, p, s, u ? u + ig : NULL, l ? l + ig : NULL);
        }
}

static void rowquant_encode(struct sq_codes *to, const float *z, const struct sq_rowq *p, const float *u,
                            const float *l, int64_t rows, int64_t cols)
{
    SQ_ASSERT(!p->group && p->bits <= 8);
    to->bits = p->bits;
    to->cols = sq_rowq_covered(cols, p->rate);
    for (int64_t i = 0; i < rows; i++) {
        const float *zi = z + i * cols;
        const struct rq_grid one = grid_of(p, zi, cols, u ? u + i : NULL, l ? l + i : NULL);
        const struct grids g = spread(p, &one);
        vi sum = {0};
        uint8_t *q = to->q + i * to->ld;
#define ENCODE(j, c)                                                                                \
    do {                                                                                            \
        const vf code_ = clamped(vrint(get(zi + (j), c) / g.s) + g.zp, &g) - g.low;                 \
        const vi x_ = __builtin_convertvector(code_, vi) & vbelow(c);                               \
        const vb bytes_ = __builtin_convertvector(__builtin_convertvector(x_, vh), vb);                                          \
        sum += x_;                                                                                  \
        memcpy(q + (j), &bytes_, (size_t)(c));                                                      \
    } while (0)
        EACH(to->cols, ENCODE);
        to->sum[i] = 0;
        for (int k = 0; k < LANES; k++)
            to->sum[i] += sum[k];
        to->scale[i] = one.s;
        to->zero[i] = one.zp - rq_low(p);
    }
}

static void to_extremes(float *dz, const float *z, int64_t n, const struct rq_grid *g, const struct rq_back *b)
{
    const vf max = vset(g->max), min = vset(g->min);
    int64_t nmax = 0, nmin = 0;
#define EQUAL(x, j, c) (vbits(get(z + (j), c) == (x)) & ((1u << (c)) - 1))
#define COUNT(j, c)                                  \
    do {                                             \
        nmax += __builtin_popcount(EQUAL(max, j, c)); \
        nmin += __builtin_popcount(EQUAL(min, j, c)); \
    } while (0)
    EACH(n, COUNT);
    const float dmax = nmax ? (float)(b->max / (double)nmax) : 0, dmin = nmin ? (float)(b->min / (double)nmin) : 0;
#define SHARE(j, c)                                                                   \
    do {                                                                              \
        for (unsigned top_ = EQUAL(max, j, c); top_; top_ &= top_ - 1)                \
            dz[(j) + __builtin_ctz(top_)] += dmax;                                    \
        for (unsigned bottom_ = EQUAL(min, j, c); bottom_; bottom_ &= bottom_ - 1)    \
            dz[(j) + __builtin_ctz(bottom_)] += dmin;                                 \
    } while (0)
    EACH(n, SHARE);
}

/* dz; dy * ds goes into the partial sums, of 16 lanes the lower 8 first */
VEC_INLINE vf grad_of(vd sum[PARTS], vf dy, vf z, const struct grids *g)
{
    const vf r = z / g->s, whole = vrint(r) + g->zp;
    const vi in = (whole >= g->low) & (whole <= g->high);
    const vf ds = vselect(in, (whole - g->zp) - r, clamped(whole, g) - g->zp);
    sum[0] += vlow(dy) * vlow(ds);
    sum[PARTS - 1] += vhigh(dy) * vhigh(ds);
    return (vf)((vi)dy & in);
}

static struct rq_back grad_group(float *dz, const float *dy, const float *z, const struct sq_rowq *p, struct rq_span s,
                                 const float *u, const float *l)
{
    const struct rq_grid one = grid_of(p, z, s.n, u, l);
    const struct grids g = spread(p, &one);
    vd sum[PARTS] = {{0}};
    double part[8];
#define GRAD(j, c) put(dz + (j), grad_of(sum, get(dy + (j), c), get(z + (j), c), &g), c)
    EACH(s.covered, GRAD);
    if (dz != dy && s.covered < s.n)
        memcpy(dz + s.covered, dy + s.covered, (size_t)(s.n - s.covered) * sizeof *dz);
    memcpy(part, sum, sizeof part);
    const struct rq_back b = rq_back_of(p, &one, rq_sum8(part));
    if (b.max != 0 || b.min != 0)
        to_extremes(dz, z, s.n, &one, &b);
    return b;
}

static void rowquant_grad(float *dz, float *du, float *dl, const float *dy, const float *z, const struct sq_rowq *p,
                          const float *u, const float *l, int64_t rows, int64_t cols)
{
    const int64_t groups = sq_rowq_groups(p, cols);
    if (p->bits >= 16) {
        sq_rowquant_grad_ref(dz, du, dl, dy, z, p, u, l, rows, cols);
        return;
    }
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < groups; k++) {
            const struct rq_span s = rq_span_of(p, k, groups, cols);
            const int64_t ig = i * groups + k, at = i * cols + s.first;
            const struct rq_back b = grad_group(dz + at, dy + at, z + at, p, s, u ? u + ig : NULL, l ? l + ig : NULL);
            if (du)
                du[ig] = (float)b.u;
            if (dl)
                dl[ig] = (float)b.l;
        }
}

/* Lanes are grids here, so that groups of 32 channels are as fast as long rows. */
static void rowquant_error(double *err, const float *z, const float *weight, const struct sq_rowq *p, const float *scale,
                           const float *zero, int64_t tries, int64_t n)
{
    for (int64_t t = 0; t < tries; t += LANES) {
        const int64_t some = SQ_MIN(tries - t, LANES);
        const struct grids g = {vselect(vbelow(some), get(scale + t, some), vset(1)), get(zero + t, some),
                                vset(rq_low(p)), vset(rq_high(p))};
        vd sum[2] = {{0}, {0}};
        for (int64_t j = 0; j < n;) {
            const int64_t end = SQ_MIN(n, j + RQ_ERROR_CHUNK);
            vf part = {0};
            for (; j < end; j++) {
                const vf a = vset(z[j]), e = a - on_grid(a, &g), e2 = e * e;
                part += weight ? e2 * vset(weight[j]) : e2;
            }
            sum[0] += vlow(part);
            sum[1] += vhigh(part);
        }
        memcpy(err + t, sum, (size_t)some * sizeof *err);
    }
}
