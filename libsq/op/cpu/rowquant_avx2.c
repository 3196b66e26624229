#include "rowquant_cpu.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#include "../rowquant_group.h"

/* The reference with 8 channels at a time: the same IEEE operations on every channel, and sums over channels
 * in the reference's 8 partial sums, so that every output has the same bits. Tails are masked: the missing
 * channels read as zero and add nothing to a sum. */

enum { NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };

struct grid8 {
    __m256 s, zp, low, high;
};

static inline struct grid8 spread(const struct sq_rowq *p, float s, float zp)
{
    return (struct grid8){_mm256_set1_ps(s), _mm256_set1_ps(zp), _mm256_set1_ps(rq_low(p)),
                          _mm256_set1_ps(rq_high(p))};
}

static inline __m256i mask_of(int64_t n)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane);
}

/* max(x, low) gives low for NaN, as rq_clamp does */
static inline __m256 clamp8(__m256 x, const struct grid8 *g)
{
    return _mm256_min_ps(_mm256_max_ps(x, g->low), g->high);
}

static inline __m256 round8(__m256 z, const struct grid8 *g)
{
    const __m256 q = clamp8(_mm256_add_ps(_mm256_round_ps(_mm256_div_ps(z, g->s), NEAREST), g->zp), g);
    return _mm256_mul_ps(_mm256_sub_ps(q, g->zp), g->s);
}

static inline float max_of(__m256 x)
{
    const __m128 a = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 b = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}

static inline float min_of(__m256 x)
{
    const __m128 a = _mm_min_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 b = _mm_min_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_min_ss(b, _mm_movehdup_ps(b)));
}

static struct rq_grid grid_of(const struct sq_rowq *p, const float *z, int64_t n, const float *u,
                              const float *l)
{
    if (!n)
        return rq_grid_of(p, 0, 0, u, l);
    __m256 max = _mm256_set1_ps(z[0]), min = max, max2 = max, min2 = max;
    int64_t j = 0;
    for (; j + 16 <= n; j += 16) {
        const __m256 a = _mm256_loadu_ps(z + j), b = _mm256_loadu_ps(z + j + 8);
        max = _mm256_max_ps(a, max), min = _mm256_min_ps(a, min);
        max2 = _mm256_max_ps(b, max2), min2 = _mm256_min_ps(b, min2);
    }
    for (; j < n; j += 8) {
        const __m256i m = mask_of(n - j);
        const __m256 a = _mm256_blendv_ps(max, _mm256_maskload_ps(z + j, m), _mm256_castsi256_ps(m));
        const __m256 b = _mm256_blendv_ps(min, a, _mm256_castsi256_ps(m));
        max = _mm256_max_ps(a, max), min = _mm256_min_ps(b, min);
    }
    return rq_grid_of(p, max_of(_mm256_max_ps(max, max2)), min_of(_mm256_min_ps(min, min2)), u, l);
}

void sq_rowquant_avx2(float *y, const float *z, const struct sq_rowq *p, const float *u, const float *l,
                      int64_t rows, int64_t cols)
{
    const int64_t groups = sq_rowq_groups(p, cols);
    if (p->bits >= 16) {
        sq_rowquant_ref(y, z, p, u, l, rows, cols);
        return;
    }
    for (int64_t i = 0, at = 0; i < rows; i++, at += cols)
        for (int64_t k = 0; k < groups; k++) {
            const struct rq_span s = rq_span_of(p, k, groups, cols);
            const float *zi = z + at + s.first;
            float *yi = y + at + s.first;
            if (s.covered) {
                const struct rq_grid g = grid_of(p, zi, s.n, u ? u + i * groups + k : NULL,
                                                 l ? l + i * groups + k : NULL);
                const struct grid8 g8 = spread(p, g.s, g.zp);
                int64_t j = 0;
                for (; j + 8 <= s.covered; j += 8)
                    _mm256_storeu_ps(yi + j, round8(_mm256_loadu_ps(zi + j), &g8));
                if (j < s.covered) {
                    const __m256i m = mask_of(s.covered - j);
                    _mm256_maskstore_ps(yi + j, m, round8(_mm256_maskload_ps(zi + j, m), &g8));
                }
            }
            if (y != z && s.covered < s.n)
                memcpy(yi + s.covered, zi + s.covered, (size_t)(s.n - s.covered) * sizeof *yi);
        }
}

void sq_rowquant_encode_avx2(struct sq_codes *to, const float *z, const struct sq_rowq *p, const float *u,
                             const float *l, int64_t rows, int64_t cols)
{
    SQ_ASSERT(!p->group && p->bits <= 8);
    to->bits = p->bits;
    to->cols = sq_rowq_covered(cols, p->rate);
    for (int64_t i = 0; i < rows; i++) {
        const float *zi = z + i * cols, low = rq_low(p);
        const struct rq_grid g = grid_of(p, zi, cols, u ? u + i : NULL, l ? l + i : NULL);
        const struct grid8 g8 = spread(p, g.s, g.zp);
        const __m256 offset = _mm256_set1_ps(low);
        __m256i sum = _mm256_setzero_si256();
        uint8_t *q = to->q + i * to->ld;
        for (int64_t j = 0; j < to->cols; j += 8) {
            const __m256i m = mask_of(to->cols - j);
            const __m256 whole = _mm256_round_ps(_mm256_div_ps(_mm256_maskload_ps(zi + j, m), g8.s), NEAREST);
            const __m256 code = _mm256_sub_ps(clamp8(_mm256_add_ps(whole, g8.zp), &g8), offset);
            const __m256i x = _mm256_and_si256(_mm256_cvtps_epi32(code), m);
            const __m128i half = _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
            const __m128i bytes = _mm_packus_epi16(half, half);
            sum = _mm256_add_epi32(sum, x);
            memcpy(q + j, &bytes, (size_t)SQ_MIN(8, to->cols - j));
        }
        int32_t part[8];
        _mm256_storeu_si256((__m256i *)part, sum);
        to->sum[i] = ((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7]));
        to->scale[i] = g.s;
        to->zero[i] = g.zp - low;
    }
}

static void to_extremes(float *dz, const float *z, int64_t n, const struct rq_grid *g,
                        const struct rq_back *b)
{
    const __m256 max = _mm256_set1_ps(g->max), min = _mm256_set1_ps(g->min);
    int64_t nmax = 0, nmin = 0;
    for (int64_t j = 0; j < n; j += 8) {
        const __m256i m = mask_of(n - j);
        const int bits = _mm256_movemask_ps(_mm256_castsi256_ps(m));
        const __m256 a = _mm256_maskload_ps(z + j, m);
        nmax += __builtin_popcount((unsigned)(bits & _mm256_movemask_ps(_mm256_cmp_ps(a, max, _CMP_EQ_OQ))));
        nmin += __builtin_popcount((unsigned)(bits & _mm256_movemask_ps(_mm256_cmp_ps(a, min, _CMP_EQ_OQ))));
    }
    const float dmax = nmax ? (float)(b->max / (double)nmax) : 0,
                dmin = nmin ? (float)(b->min / (double)nmin) : 0;
    for (int64_t j = 0; j < n; j += 8) {
        const __m256i m = mask_of(n - j);
        const int bits = _mm256_movemask_ps(_mm256_castsi256_ps(m));
        const __m256 a = _mm256_maskload_ps(z + j, m);
        int top = bits & _mm256_movemask_ps(_mm256_cmp_ps(a, max, _CMP_EQ_OQ));
        int bottom = bits & _mm256_movemask_ps(_mm256_cmp_ps(a, min, _CMP_EQ_OQ));
        for (; top; top &= top - 1)
            dz[j + __builtin_ctz((unsigned)top)] += dmax;
        for (; bottom; bottom &= bottom - 1)
            dz[j + __builtin_ctz((unsigned)bottom)] += dmin;
    }
}

struct sums {
    __m256d a, b; /* partial sums 0-3 and 4-7 */
};

/* dz of 8 channels; dy * ds goes into the sums */
static inline __m256 grad8(struct sums *sum, __m256 dy, __m256 z, const struct grid8 *g)
{
    const __m256 r = _mm256_div_ps(z, g->s);
    const __m256 whole = _mm256_add_ps(_mm256_round_ps(r, NEAREST), g->zp);
    const __m256 in = _mm256_and_ps(_mm256_cmp_ps(whole, g->low, _CMP_GE_OQ),
                                    _mm256_cmp_ps(whole, g->high, _CMP_LE_OQ));
    const __m256 inside = _mm256_sub_ps(_mm256_sub_ps(whole, g->zp), r);
    const __m256 ds = _mm256_blendv_ps(_mm256_sub_ps(clamp8(whole, g), g->zp), inside, in);
    const __m256d d0 = _mm256_cvtps_pd(_mm256_castps256_ps128(dy)),
                  d1 = _mm256_cvtps_pd(_mm256_extractf128_ps(dy, 1));
    sum->a = _mm256_add_pd(sum->a, _mm256_mul_pd(d0, _mm256_cvtps_pd(_mm256_castps256_ps128(ds))));
    sum->b = _mm256_add_pd(sum->b, _mm256_mul_pd(d1, _mm256_cvtps_pd(_mm256_extractf128_ps(ds, 1))));
    return _mm256_and_ps(dy, in);
}

static struct rq_back grad_group(float *dz, const float *dy, const float *z, const struct sq_rowq *p,
                                 struct rq_span s, const float *u, const float *l)
{
    const struct rq_grid g = grid_of(p, z, s.n, u, l);
    const struct grid8 g8 = spread(p, g.s, g.zp);
    struct sums sum = {_mm256_setzero_pd(), _mm256_setzero_pd()};
    double part[8];
    int64_t j = 0;
    for (; j + 8 <= s.covered; j += 8)
        _mm256_storeu_ps(dz + j, grad8(&sum, _mm256_loadu_ps(dy + j), _mm256_loadu_ps(z + j), &g8));
    if (j < s.covered) {
        const __m256i m = mask_of(s.covered - j);
        _mm256_maskstore_ps(dz + j, m,
                            grad8(&sum, _mm256_maskload_ps(dy + j, m), _mm256_maskload_ps(z + j, m), &g8));
    }
    if (dz != dy && s.covered < s.n)
        memcpy(dz + s.covered, dy + s.covered, (size_t)(s.n - s.covered) * sizeof *dz);
    _mm256_storeu_pd(part, sum.a);
    _mm256_storeu_pd(part + 4, sum.b);
    const struct rq_back b = rq_back_of(p, &g, rq_sum8(part));
    if (b.max != 0 || b.min != 0)
        to_extremes(dz, z, s.n, &g, &b);
    return b;
}

void sq_rowquant_grad_avx2(float *dz, float *du, float *dl, const float *dy, const float *z,
                           const struct sq_rowq *p, const float *u, const float *l, int64_t rows,
                           int64_t cols)
{
    const int64_t groups = sq_rowq_groups(p, cols);
    if (p->bits >= 16) {
        sq_rowquant_grad_ref(dz, du, dl, dy, z, p, u, l, rows, cols);
        return;
    }
    for (int64_t i = 0, at = 0; i < rows; i++, at += cols)
        for (int64_t k = 0; k < groups; k++) {
            const struct rq_span s = rq_span_of(p, k, groups, cols);
            const int64_t ig = i * groups + k, first = at + s.first;
            const struct rq_back b = grad_group(dz + first, dy + first, z + first, p, s, u ? u + ig : NULL,
                                                l ? l + ig : NULL);
            if (du)
                du[ig] = (float)b.u;
            if (dl)
                dl[ig] = (float)b.l;
        }
}

/* Lanes are grids here, so that groups of 32 channels are as fast as long rows. */
void sq_rowquant_error_avx2(double *err, const float *z, const float *weight, const struct sq_rowq *p,
                            const float *scale, const float *zero, int64_t tries, int64_t n)
{
    for (int64_t t = 0; t < tries; t += 8) {
        const __m256i m = mask_of(tries - t);
        const __m256 one = _mm256_set1_ps(1);
        const struct grid8 g = {
            _mm256_blendv_ps(one, _mm256_maskload_ps(scale + t, m), _mm256_castsi256_ps(m)),
            _mm256_maskload_ps(zero + t, m), _mm256_set1_ps(rq_low(p)), _mm256_set1_ps(rq_high(p))};
        struct sums sum = {_mm256_setzero_pd(), _mm256_setzero_pd()};
        for (int64_t j = 0; j < n;) {
            const int64_t end = SQ_MIN(n, j + RQ_ERROR_CHUNK);
            __m256 part = _mm256_setzero_ps();
            for (; j < end; j++) {
                const __m256 a = _mm256_broadcast_ss(z + j), e = _mm256_sub_ps(a, round8(a, &g));
                const __m256 e2 = _mm256_mul_ps(e, e);
                part = _mm256_add_ps(part, weight ? _mm256_mul_ps(e2, _mm256_broadcast_ss(weight + j)) : e2);
            }
            sum.a = _mm256_add_pd(sum.a, _mm256_cvtps_pd(_mm256_castps256_ps128(part)));
            sum.b = _mm256_add_pd(sum.b, _mm256_cvtps_pd(_mm256_extractf128_ps(part, 1)));
        }
        double out[8];
        _mm256_storeu_pd(out, sum.a);
        _mm256_storeu_pd(out + 4, sum.b);
        memcpy(err + t, out, (size_t)SQ_MIN(8, tries - t) * sizeof *err);
    }
}

#else
typedef int sq_rowquant_avx2_needs_x86; /* a translation unit may not be empty */
#endif
