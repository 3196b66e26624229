/* The emulated products of simt_wmma.h: the lane of a warp that comes last computes for all. */
#include "simt_wmma.h"

#include <bit>

/* It stands for hardware: no business of sanitizers, and slow with them. */
#define HIDDEN __attribute__((no_sanitize("thread", "address", "undefined")))

namespace simt
{

enum { LANES = 32, SIDE = 16, MOST = 8 }; /* MOST: products that are added at once */
static const uint64_t BEYOND_F32 = (1ull << 29) - 1; /* bits of a double */

struct matrix_args {
    const void *x;
    size_t ld;
};

HIDDEN static void agree(void *const *lane)
{
    const matrix_args *first = static_cast<const matrix_args *>(lane[0]);
    for (int l = 1; l < LANES; l++) {
        const matrix_args *m = static_cast<const matrix_args *>(lane[l]);
        if (m->x != first->x || m->ld != first->ld)
            die("lanes of a warp load or store different matrices");
    }
}

HIDDEN void matrix(const void *x, size_t ld, size_t row, where at)
{
    matrix_args mine = {x, ld};
    together(agree, &mine, at);
    if (ld < row || ld % 16 != 0)
        die("a matrix of which no warp can load or store the rows");
    if ((uintptr_t)x % 32 != 0)
        die("a matrix at an address that is not a multiple of 32 bytes");
}

template <class T> struct product {
    float *d;
    const T *a, *b;
    const float *c;
};

HIDDEN static double value(float v) /* without the bits that tf32 has not */
{
    const uint32_t u = __float_as_uint(v);
    const bool finite = (~u & 0x7f800000) != 0;
    if (finite && (u & TF32_REST) != tf32_rest)
        die("an operand of mma_sync is not rounded to tf32");
    return (double)__uint_as_float(finite ? u & ~TF32_REST : u);
}

HIDDEN static double value(__nv_bfloat16 v)
{
    return (double)(float)v;
}

/* n of an operand, in their places */
template <class T> HIDDEN static void gather(double *to, const T *from, int l, int n)
{
    for (int e = 0; e < n / LANES; e++)
        to[place(l, e, (unsigned)n)] = value(from[e]);
}

/* What finite parts, the largest of them `most`, come to, as an A100 has it: all cut to 25 bits of the largest, and
 * their sum, which is exact, to 24. */
HIDDEN static inline double cut_sum(const double *part, int n, double most)
{
    const uint64_t exponent = std::bit_cast<uint64_t>(most) >> 52, bias = 1023;
    const double unit = std::bit_cast<double>((exponent - 24) << 52),
                 scale = std::bit_cast<double>((2 * bias + 24 - exponent) << 52);
    int32_t units = 0;
    for (int k = 0; k < n; k++)
        units += (int32_t)(part[k] * scale);
    return std::bit_cast<double>(std::bit_cast<uint64_t>(units * unit) & ~BEYOND_F32);
}

/* sum[j] += the n products x[k] y[k,j] */
HIDDEN static void add_products(double *sum, const double *x, const double *y, int n)
{
    for (int j = 0; j < SIDE; j++) {
        double part[1 + MOST] = {sum[j]}, all = sum[j], most = fabs(sum[j]);
        for (int k = 0; k < n; k++) {
            part[1 + k] = x[k] * y[k * SIDE + j];
            all += part[1 + k];
            most = most > fabs(part[1 + k]) ? most : fabs(part[1 + k]);
        }
        sum[j] = most > 0 && fabs(all) < HUGE_VAL ? cut_sum(part, 1 + n, most) : all;
    }
}

/* DEEP products an element, so many AT_ONCE */
template <class T, int DEEP, int AT_ONCE> HIDDEN static void products(void *const *lane)
{
    double a[SIDE * DEEP], b[DEEP * SIDE], c[SIDE * SIDE];
    for (int l = 0; l < LANES; l++) {
        const product<T> *p = static_cast<const product<T> *>(lane[l]);
        gather(a, p->a, l, SIDE * DEEP);
        gather(b, p->b, l, SIDE * DEEP);
        for (int e = 0; e < SIDE * SIDE / LANES; e++)
            c[place(l, e, SIDE * SIDE)] = (double)p->c[e];
    }
    for (int i = 0; i < SIDE; i++)
        for (int k = 0; k < DEEP; k += AT_ONCE)
            add_products(c + i * SIDE, a + i * DEEP + k, b + k * SIDE, AT_ONCE);
    for (int l = 0; l < LANES; l++)
        for (int e = 0; e < SIDE * SIDE / LANES; e++)
            static_cast<const product<T> *>(lane[l])->d[e] = (float)c[place(l, e, SIDE * SIDE)];
}

HIDDEN void multiply(float *d, const float *a, const float *b, const float *c, where at)
{
    product<float> mine = {d, a, b, c};
    together(products<float, 8, 4>, &mine, at);
}

HIDDEN void multiply(float *d, const __nv_bfloat16 *a, const __nv_bfloat16 *b, const float *c, where at)
{
    product<__nv_bfloat16> mine = {d, a, b, c};
    together(products<__nv_bfloat16, 16, MOST>, &mine, at);
}

} // namespace simt
