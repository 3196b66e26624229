/* Vectors of 8 floats and 4 doubles in GCC's vector extension, so that one kernel source serves the baseline
 * (SSE2 on x86-64, or whatever the compiler targets) and AVX2. Private to op/cpu. Every function is inlined, so gcc's warning
 * about passing vectors (-Wpsabi) is switched off for op/cpu.
 *
 * AVX2 files use fused multiply-add, the baseline does not: results are equal on one instruction set only. */
#ifndef SQ_OP_CPU_VEC_H
#define SQ_OP_CPU_VEC_H

#include <float.h>
#include <string.h>

#include "sq/base.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif

#define VEC_INLINE static inline __attribute__((always_inline, unused))

enum { LANES = 8 };

typedef float v8f __attribute__((vector_size(32)));
typedef int32_t v8i __attribute__((vector_size(32)));
typedef float v4f __attribute__((vector_size(16)));
typedef double v4d __attribute__((vector_size(32)));
typedef int64_t v4l __attribute__((vector_size(32)));

VEC_INLINE v8f vload(const float *p)
{
    v8f v;
    memcpy(&v, p, sizeof v);
    return v;
}

VEC_INLINE void vstore(float *p, v8f v)
{
    memcpy(p, &v, sizeof v);
}

/* n < 8 elements, zeros after them: tails go through the same arithmetic as whole vectors */
VEC_INLINE v8f vload_n(const float *p, int64_t n)
{
    float t[LANES] = {0};
    memcpy(t, p, (size_t)n * sizeof *t);
    return vload(t);
}

VEC_INLINE void vstore_n(float *p, v8f v, int64_t n)
{
    float t[LANES];
    vstore(t, v);
    memcpy(p, t, (size_t)n * sizeof *t);
}

VEC_INLINE v8f vset(float x)
{
    return (v8f){x, x, x, x, x, x, x, x};
}

VEC_INLINE v4d dset(double x)
{
    return (v4d){x, x, x, x};
}

/* a b + c */
VEC_INLINE v8f vfma(v8f a, v8f b, v8f c)
{
#ifdef __FMA__
    return (v8f)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

VEC_INLINE v4d dfma(v4d a, v4d b, v4d c)
{
#ifdef __FMA__
    return (v4d)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
    return a * b + c;
#endif
}

/* lane by lane: m ? a : b */
VEC_INLINE v8f vselect(v8i m, v8f a, v8f b)
{
    return (v8f)((m & (v8i)a) | (~m & (v8i)b));
}

VEC_INLINE v4d dselect(v4l m, v4d a, v4d b)
{
    return (v4d)((m & (v4l)a) | (~m & (v4l)b));
}

/* the larger; b where a is NaN or both are equal */
VEC_INLINE v8f vmax(v8f a, v8f b)
{
#ifdef __AVX__
    return (v8f)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return vselect(a > b, a, b);
#endif
}

VEC_INLINE v8f vsqrt(v8f a)
{
#ifdef __AVX__
    return (v8f)_mm256_sqrt_ps((__m256)a);
#else
    for (int i = 0; i < LANES; i++)
        a[i] = __builtin_sqrtf(a[i]);
    return a;
#endif
}

VEC_INLINE v4d vlow(v8f a)
{
    return __builtin_convertvector(__builtin_shufflevector(a, a, 0, 1, 2, 3), v4d);
}

VEC_INLINE v4d vhigh(v8f a)
{
    return __builtin_convertvector(__builtin_shufflevector(a, a, 4, 5, 6, 7), v4d);
}

VEC_INLINE double dsum(v4d a)
{
    return (a[0] + a[2]) + (a[1] + a[3]);
}

/* Sum of products in double: one term of each lane. */
VEC_INLINE void vdot(v4d acc[2], v8f a, v8f b)
{
    acc[0] = dfma(vlow(a), vlow(b), acc[0]);
    acc[1] = dfma(vhigh(a), vhigh(b), acc[1]);
}

/* e^x, relative error below 2e-7 in [-87, 88]; 0 below, e^88 above; NaN stays NaN. x = n ln 2 + r, |r| <= ln 2 / 2,
 * the polynomial is that of Cephes' expf. */
VEC_INLINE v8f vexp(v8f x)
{
    const v8f low = vset(-87.33f), high = vset(88.0f), magic = vset(12582912.0f); /* 1.5 * 2^23: rounds to integer */
    const v8i zero = x < low;
    v8f t = vselect(x > high, high, vselect(zero, low, x));
    const v8f shifted = vfma(t, vset(1.44269504f), magic), n = shifted - magic;
    const v8f r = vfma(n, vset(2.12194440e-4f), vfma(n, vset(-0.693359375f), t));
    v8f p = vset(1.9875691500e-4f);
    p = vfma(p, r, vset(1.3981999507e-3f));
    p = vfma(p, r, vset(8.3334519073e-3f));
    p = vfma(p, r, vset(4.1665795894e-2f));
    p = vfma(p, r, vset(1.6666665459e-1f));
    p = vfma(p, r, vset(5.0000001201e-1f));
    p = vfma(p, r * r, r + vset(1.0f));
    const v8f scale = (v8f)(((v8i)shifted - (v8i)magic + 127) << 23);
    return vselect(zero, vset(0.0f), p * scale);
}

/* The same in double, by the Taylor series to degree 13 (its rest is below 5e-18); 0 below -708, e^709 above. */
VEC_INLINE v4d dexp(v4d x)
{
    static const double inv[] = {1. / 6227020800, 1. / 479001600, 1. / 39916800, 1. / 3628800, 1. / 362880,
                                 1. / 40320,      1. / 5040,      1. / 720,      1. / 120,     1. / 24,
                                 1. / 6,          1. / 2,         1,             1};
    const v4d low = dset(-708), high = dset(709), magic = dset(6755399441055744.0); /* 1.5 * 2^52 */
    const v4l zero = x < low;
    const v4d t = dselect(x > high, high, dselect(zero, low, x));
    const v4d shifted = dfma(t, dset(1.4426950408889634), magic), n = shifted - magic;
    const v4d r = dfma(n, dset(-1.90821492927058770002e-10), dfma(n, dset(-6.93147180369123816490e-01), t));
    v4d p = dset(inv[0]);
    for (int i = 1; i < SQ_COUNT(inv); i++)
        p = dfma(p, r, dset(inv[i]));
    const v4d scale = (v4d)(((v4l)shifted - (v4l)magic + 1023) << 52);
    return dselect(zero, dset(0), p * scale);
}

/* To bf16 and back, to nearest even, as sq_f32_to_bf16; a NaN stays one. */
VEC_INLINE v8f vround_bf16(v8f x)
{
    const v8i u = (v8i)x;
    const v8i r = (u + 0x7fff + ((u >> 16) & 1)) & (v8i){-65536, -65536, -65536, -65536, -65536, -65536, -65536, -65536};
    return vselect(x == x, (v8f)r, x);
}

#endif
