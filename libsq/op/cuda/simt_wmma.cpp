/* The emulated products of simt_wmma.h: the lane of a warp that comes last computes for all. */
#include "simt_wmma.h"

#include <bit>

/* It stands for hardware: no business of sanitizers, and slow with them. */
#define HIDDEN __attribute__((no_sanitize("thread", "address", "undefined")))

namespace simt
{

enum { LANES = 32, SIDE = 16, DEEP = 8 };
static const uint64_t BEYOND_F32 = (1ull << 29) - 1; /* bits of a double */

struct matrix_args {
    const float *x;
    unsigned ld;
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

HIDDEN void matrix(const float *x, unsigned ld, unsigned row, where at)
{
    matrix_args mine = {x, ld};
    together(agree, &mine, at);
    if (ld < row || ld % 4 != 0)
        die("a matrix of which no warp can load or store the rows");
    if ((uintptr_t)x % 32 != 0)
        die("a matrix at an address that is not a multiple of 32 bytes");
}

struct product {
    float *d;
    const float *a, *b, *c;
};

/* of the sums of all lanes, in their places */
HIDDEN static void gather(double *to, const float *from, int l)
{
    for (int e = 0; e < SIDE * SIDE / LANES; e++)
        to[place(l, e, SIDE * SIDE)] = (double)from[e];
}

/* of the operands: without the bits that tf32 has not */
HIDDEN static void gather_tf32(double *to, const float *from, int l)
{
    for (int e = 0; e < SIDE * DEEP / LANES; e++) {
        const uint32_t u = __float_as_uint(from[e]);
        const bool finite = (~u & 0x7f800000) != 0;
        if (finite && (u & TF32_REST) != tf32_rest)
            die("an operand of mma_sync is not rounded to tf32");
        to[place(l, e, SIDE * DEEP)] = (double)__uint_as_float(finite ? u & ~TF32_REST : u);
    }
}

/* What finite parts, the largest of them `most`, come to, as an A100 has it: all cut to 25 bits of the largest, and
 * their sum, which is exact, to 24. */
HIDDEN static inline double cut_sum(const double *part, double most)
{
    const uint64_t exponent = std::bit_cast<uint64_t>(most) >> 52, bias = 1023;
    const double unit = std::bit_cast<double>((exponent - 24) << 52),
                 scale = std::bit_cast<double>((2 * bias + 24 - exponent) << 52);
    int32_t units = 0;
    for (int k = 0; k < 5; k++)
        units += (int32_t)(part[k] * scale);
    return std::bit_cast<double>(std::bit_cast<uint64_t>(units * unit) & ~BEYOND_F32);
}

/* sum[j] += the four products x[k] y[k,j] */
HIDDEN static void add_four(double *sum, const double *x, const double *y)
{
    for (int j = 0; j < SIDE; j++) {
        double part[5] = {sum[j]}, all = sum[j], most = fabs(sum[j]);
        for (int k = 0; k < 4; k++) {
            part[1 + k] = x[k] * y[k * SIDE + j];
            all += part[1 + k];
            most = most > fabs(part[1 + k]) ? most : fabs(part[1 + k]);
        }
        sum[j] = most > 0 && fabs(all) < HUGE_VAL ? cut_sum(part, most) : all;
    }
}

HIDDEN static void products(void *const *lane)
{
    double a[SIDE * DEEP], b[DEEP * SIDE], c[SIDE * SIDE];
    for (int l = 0; l < LANES; l++) {
        const product *p = static_cast<const product *>(lane[l]);
        gather_tf32(a, p->a, l);
        gather_tf32(b, p->b, l);
        gather(c, p->c, l);
    }
    for (int i = 0; i < SIDE; i++)
        for (int k = 0; k < DEEP; k += 4)
            add_four(c + i * SIDE, a + i * DEEP + k, b + k * SIDE);
    for (int l = 0; l < LANES; l++)
        for (int e = 0; e < SIDE * SIDE / LANES; e++)
            static_cast<const product *>(lane[l])->d[e] = (float)c[place(l, e, SIDE * SIDE)];
}

HIDDEN void multiply(fragment<16, 16> &d, const fragment<16, 8> &a, const fragment<8, 16> &b, const fragment<16, 16> &c,
                     where at)
{
    product mine = {d.x, a.x, b.x, c.x};
    together(products, &mine, at);
}

} // namespace simt
