/* Vectors of LANES floats and LANES / 2 doubles in GCC's vector extension, so that one kernel source serves the baseline
 * (SSE2 on x86-64, or whatever the compiler targets), AVX2 and AVX-512. Private to op/cpu. The including file says how wide
 * they are; a width that the target lacks is lowered to narrower registers, with the same bits. Every function is inlined,
 * so gcc's warning about passing vectors (-Wpsabi) is switched off for op/cpu.
 *
 * AVX2 and AVX-512 files use fused multiply-add, the baseline does not, and sums run over LANES partial sums: results are
 * equal on one instruction set only. */
#ifndef SQ_OP_CPU_VEC_H
#define SQ_OP_CPU_VEC_H

#include <float.h>
#include <string.h>

#include "sq/base.h"

#define VEC_INLINE static inline __attribute__((always_inline, unused))

enum { HALF = LANES / 2 };

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef int16_t vh __attribute__((vector_size(2 * LANES)));
typedef uint8_t vb __attribute__((vector_size(LANES)));
typedef double vd __attribute__((vector_size(4 * LANES))); /* of HALF */
typedef int64_t vl __attribute__((vector_size(4 * LANES)));

/* EVERY4: in every four lanes, some of the four of a (0-3) and of b (4-7). FOURS: whole fours of a, and behind them of b.
 * REG(op): the intrinsic for a whole vector, rf and rd what it takes; only where the target has registers as wide. */
#define OF(i, at) ((i) < 4 ? (i) + (at) : (i) - 4 + LANES + (at))
#define FOUR(i) 4 * (i), 4 * (i) + 1, 4 * (i) + 2, 4 * (i) + 3
#if LANES == 16
#define COUNTED {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
#define LOWER 0, 1, 2, 3, 4, 5, 6, 7
#define UPPER 8, 9, 10, 11, 12, 13, 14, 15
#define EVERY4(a, b, i, j, k, l)                                                                                \
    __builtin_shufflevector(a, b, OF(i, 0), OF(j, 0), OF(k, 0), OF(l, 0), OF(i, 4), OF(j, 4), OF(k, 4), OF(l, 4), \
                            OF(i, 8), OF(j, 8), OF(k, 8), OF(l, 8), OF(i, 12), OF(j, 12), OF(k, 12), OF(l, 12))
#define FOURS(a, b, i, j, k, l) __builtin_shufflevector(a, b, FOUR(i), FOUR(j), FOUR(k), FOUR(l))
#if defined __AVX512F__
#include <immintrin.h>
#define REG(op) _mm512_##op
#define LOAD_N(p, n) _mm512_maskz_loadu_ps((__mmask16)((1u << (n)) - 1), p)
#define STORE_N(p, v, n) _mm512_mask_storeu_ps(p, (__mmask16)((1u << (n)) - 1), (rf)(v))
typedef __m512 rf;
typedef __m512d rd;
#endif
#else
#define COUNTED {0, 1, 2, 3, 4, 5, 6, 7}
#define LOWER 0, 1, 2, 3
#define UPPER 4, 5, 6, 7
#define EVERY4(a, b, i, j, k, l) \
    __builtin_shufflevector(a, b, OF(i, 0), OF(j, 0), OF(k, 0), OF(l, 0), OF(i, 4), OF(j, 4), OF(k, 4), OF(l, 4))
#define FOURS(a, b, i, j) __builtin_shufflevector(a, b, FOUR(i), FOUR(j))
#if defined __AVX2__ && defined __FMA__
#include <immintrin.h>
#define REG(op) _mm256_##op
#define LOAD_N(p, n) _mm256_maskload_ps(p, (__m256i)vbelow(n))
#define STORE_N(p, v, n) _mm256_maskstore_ps(p, (__m256i)vbelow(n), (rf)(v))
typedef __m256 rf;
typedef __m256d rd;
#endif
#endif

/* x in every lane: x - 0 is x, also where it is -0 or NaN */
VEC_INLINE vf vset(float x)
{
    return x - (vf){0};
}

VEC_INLINE vi iset(int32_t x)
{
    return x - (vi){0};
}

/* the first n lanes */
VEC_INLINE vi vbelow(int64_t n)
{
    return (vi)COUNTED < iset((int32_t)n);
}

VEC_INLINE vf vload(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

VEC_INLINE void vstore(float *p, vf v)
{
    memcpy(p, &v, sizeof v);
}

/* n < LANES elements, zeros after them: tails go through the same arithmetic as whole vectors */
VEC_INLINE vf vload_n(const float *p, int64_t n)
{
#if defined REG
    return (vf)LOAD_N(p, n);
#else
    float t[LANES] = {0};
    memcpy(t, p, (size_t)n * sizeof *t);
    return vload(t);
#endif
}

VEC_INLINE void vstore_n(float *p, vf v, int64_t n)
{
#if defined REG
    STORE_N(p, v, n);
#else
    float t[LANES];
    vstore(t, v);
    memcpy(p, t, (size_t)n * sizeof *t);
#endif
}

VEC_INLINE vd dset(double x)
{
    return x - (vd){0};
}

/* a b + c */
VEC_INLINE vf vfma(vf a, vf b, vf c)
{
#if defined REG
    return (vf)REG(fmadd_ps)((rf)a, (rf)b, (rf)c);
#elif defined __FMA__
    for (int i = 0; i < LANES; i++)
        c[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return c;
#else
    return a * b + c;
#endif
}

VEC_INLINE vd dfma(vd a, vd b, vd c)
{
#if defined REG
    return (vd)REG(fmadd_pd)((rd)a, (rd)b, (rd)c);
#elif defined __FMA__
    for (int i = 0; i < HALF; i++)
        c[i] = __builtin_fma(a[i], b[i], c[i]);
    return c;
#else
    return a * b + c;
#endif
}

/* lane by lane: m ? a : b */
VEC_INLINE vf vselect(vi m, vf a, vf b)
{
    return (vf)((m & (vi)a) | (~m & (vi)b));
}

VEC_INLINE vd dselect(vl m, vd a, vd b)
{
    return (vd)((m & (vl)a) | (~m & (vl)b));
}

/* bit i: lane i of a mask */
VEC_INLINE unsigned vbits(vi m)
{
#if LANES == 16 && defined REG
    return _mm512_movepi32_mask((__m512i)m);
#elif defined REG
    return (unsigned)_mm256_movemask_ps((rf)m);
#else
    unsigned bits = 0;
    for (int i = 0; i < LANES; i++)
        bits |= (unsigned)(m[i] & 1) << i;
    return bits;
#endif
}

/* the larger; b where a is NaN or both are equal */
VEC_INLINE vf vmax(vf a, vf b)
{
#if defined REG
    return (vf)REG(max_ps)((rf)a, (rf)b);
#else
    return vselect(a > b, a, b);
#endif
}

/* the smaller; b likewise */
VEC_INLINE vf vmin(vf a, vf b)
{
#if defined REG
    return (vf)REG(min_ps)((rf)a, (rf)b);
#else
    return vselect(a < b, a, b);
#endif
}

/* of lanes without NaN, or with nothing else */
VEC_INLINE float vlargest(vf a)
{
    for (int n = LANES / 2; n; n /= 2)
        for (int i = 0; i < n; i++)
            a[i] = a[i] > a[i + n] ? a[i] : a[i + n];
    return a[0];
}

VEC_INLINE vf vsqrt(vf a)
{
#if defined REG
    return (vf)REG(sqrt_ps)((rf)a);
#else
    for (int i = 0; i < LANES; i++)
        a[i] = __builtin_sqrtf(a[i]);
    return a;
#endif
}

/* to whole numbers, ties to even */
VEC_INLINE vf vrint(vf a)
{
#if LANES == 16 && defined REG
    return (vf)_mm512_roundscale_ps((rf)a, _MM_FROUND_TO_NEAREST_INT);
#elif defined REG
    return (vf)_mm256_round_ps((rf)a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    for (int i = 0; i < LANES; i++)
        a[i] = __builtin_rintf(a[i]);
    return a;
#endif
}

VEC_INLINE vd vlow(vf a)
{
    return __builtin_convertvector(__builtin_shufflevector(a, a, LOWER), vd);
}

VEC_INLINE vd vhigh(vf a)
{
    return __builtin_convertvector(__builtin_shufflevector(a, a, UPPER), vd);
}

/* (0 + 2) + (1 + 3), and of twice as many likewise: halves onto each other */
VEC_INLINE double dsum(vd a)
{
    for (int n = HALF / 2; n; n /= 2)
        for (int i = 0; i < n; i++)
            a[i] += a[i + n];
    return a[0];
}

/* Sum of products in double: one term of each lane. */
VEC_INLINE void vdot(vd acc[2], vf a, vf b)
{
    acc[0] = dfma(vlow(a), vlow(b), acc[0]);
    acc[1] = dfma(vhigh(a), vhigh(b), acc[1]);
}

/* e^x, relative error below 2e-7 in [-87, 88]; 0 below, e^88 above; NaN stays NaN. x = n ln 2 + r, |r| <= ln 2 / 2,
 * the polynomial is that of Cephes' expf. */
VEC_INLINE vf vexp(vf x)
{
    const vf low = vset(-87.33f), high = vset(88.0f), magic = vset(12582912.0f); /* 1.5 * 2^23: rounds to integer */
    const vi zero = x < low;
    vf t = vselect(x > high, high, vselect(zero, low, x));
    const vf shifted = vfma(t, vset(1.44269504f), magic), n = shifted - magic;
    const vf r = vfma(n, vset(2.12194440e-4f), vfma(n, vset(-0.693359375f), t));
    vf p = vset(1.9875691500e-4f);
    p = vfma(p, r, vset(1.3981999507e-3f));
    p = vfma(p, r, vset(8.3334519073e-3f));
    p = vfma(p, r, vset(4.1665795894e-2f));
    p = vfma(p, r, vset(1.6666665459e-1f));
    p = vfma(p, r, vset(5.0000001201e-1f));
    p = vfma(p, r * r, r + vset(1.0f));
    const vf scale = (vf)(((vi)shifted - (vi)magic + 127) << 23);
    return vselect(zero, vset(0.0f), p * scale);
}

/* The same in double, by the Taylor series to degree 13 (its rest is below 5e-18); 0 below -708, e^709 above. */
VEC_INLINE vd dexp(vd x)
{
    static const double inv[] = {1. / 6227020800, 1. / 479001600, 1. / 39916800, 1. / 3628800, 1. / 362880,
                                 1. / 40320,      1. / 5040,      1. / 720,      1. / 120,     1. / 24,
                                 1. / 6,          1. / 2,         1,             1};
    const vd low = dset(-708), high = dset(709), magic = dset(6755399441055744.0); /* 1.5 * 2^52 */
    const vl zero = x < low;
    const vd t = dselect(x > high, high, dselect(zero, low, x));
    const vd shifted = dfma(t, dset(1.4426950408889634), magic), n = shifted - magic;
    const vd r = dfma(n, dset(-1.90821492927058770002e-10), dfma(n, dset(-6.93147180369123816490e-01), t));
    vd p = dset(inv[0]);
    for (int i = 1; i < SQ_COUNT(inv); i++)
        p = dfma(p, r, dset(inv[i]));
    const vd scale = (vd)(((vl)shifted - (vl)magic + 1023) << 52);
    return dselect(zero, dset(0), p * scale);
}

/* To bf16 and back, to nearest even, as sq_f32_to_bf16; a NaN stays one. */
VEC_INLINE vf vround_bf16(vf x)
{
    const vi u = (vi)x;
    const vi r = (u + 0x7fff + ((u >> 16) & 1)) & -65536;
    return vselect(x == x, (vf)r, x);
}

/* for (whole vectors) body(i, LANES); then once body(i, rest). A macro, so that the body sees constants. */
#define EACH(n, body)                                         \
    do {                                                      \
        int64_t at_ = 0;                                      \
        for (; at_ + LANES <= (n); at_ += LANES)              \
            body(at_, LANES);                                 \
        if (at_ < (n))                                        \
            body(at_, (n) - at_);                             \
    } while (0)

VEC_INLINE vf get(const float *p, int64_t n)
{
    return n == LANES ? vload(p) : vload_n(p, n);
}

VEC_INLINE void put(float *p, vf v, int64_t n)
{
    if (n == LANES)
        vstore(p, v);
    else
        vstore_n(p, v, n);
}

#endif
