/* The emulated products of simt_tensor.h: the lane of a warp that comes last computes for all. */
#include "simt_tensor.h"

#include <bit>

/* It stands for hardware: no business of sanitizers, and slow with them. */
#define HIDDEN __attribute__((no_sanitize("thread", "address", "undefined")))

namespace simt
{

enum { LANES = 32, SIDE = 16, DEEP = 8, COLUMNS = 8 };
enum { MOST = 8, MOST_TF32 = 4 }; /* products that are added at once */
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

HIDDEN static double value(float v) /* without the bits that tf32 has not */
{
    const uint32_t u = __float_as_uint(v);
    const bool finite = (~u & 0x7f800000) != 0;
    if (finite && (u & TF32_REST) != tf32_rest)
        die("an operand of mma_sync is not rounded to tf32");
    return (double)__uint_as_float(finite ? u & ~TF32_REST : u);
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

/* sum[j] += the n products x[k] y[k,j], j < columns */
HIDDEN static void add_products(double *sum, const double *x, const double *y, int n, int columns)
{
    for (int j = 0; j < columns; j++) {
        double part[1 + MOST] = {sum[j]}, all = sum[j], most = fabs(sum[j]);
        for (int k = 0; k < n; k++) {
            part[1 + k] = x[k] * y[k * columns + j];
            all += part[1 + k];
            most = most > fabs(part[1 + k]) ? most : fabs(part[1 + k]);
        }
        sum[j] = most > 0 && fabs(all) < HUGE_VAL ? cut_sum(part, 1 + n, most) : all;
    }
}

/* ---- wmma, in tf32 ---- */

struct product {
    float *d;
    const float *a, *b, *c;
};

/* an operand, in its places */
HIDDEN static void gather(double *to, const float *from, int l)
{
    for (int e = 0; e < SIDE * DEEP / LANES; e++)
        to[place(l, e, SIDE * DEEP)] = value(from[e]);
}

HIDDEN static void products(void *const *lane)
{
    double a[SIDE * DEEP], b[DEEP * SIDE], c[SIDE * SIDE];
    for (int l = 0; l < LANES; l++) {
        const product *p = static_cast<const product *>(lane[l]);
        gather(a, p->a, l);
        gather(b, p->b, l);
        for (int e = 0; e < SIDE * SIDE / LANES; e++)
            c[place(l, e, SIDE * SIDE)] = (double)p->c[e];
    }
    for (int i = 0; i < SIDE; i++)
        for (int k = 0; k < DEEP; k += MOST_TF32)
            add_products(c + i * SIDE, a + i * DEEP + k, b + k * SIDE, MOST_TF32, SIDE);
    for (int l = 0; l < LANES; l++)
        for (int e = 0; e < SIDE * SIDE / LANES; e++)
            static_cast<const product *>(lane[l])->d[e] = (float)c[place(l, e, SIDE * SIDE)];
}

HIDDEN void multiply(float *d, const float *a, const float *b, const float *c, where at)
{
    product mine = {d, a, b, c};
    together(products, &mine, at);
}

/* ---- mma.sync and ldmatrix, in bf16 ---- */

enum { ROW_BYTES = 16 };

struct product16 {
    float *sum;
    const uint32_t *a, *b;
};

HIDDEN static double half_of(uint32_t word, int k)
{
    return (double)__uint_as_float(k ? word & 0xffff0000u : word << 16);
}

HIDDEN static void products16(void *const *lane)
{
    double a[SIDE][SIDE], b[SIDE][COLUMNS], c[SIDE][COLUMNS];
    for (int l = 0; l < LANES; l++) {
        const product16 *p = static_cast<const product16 *>(lane[l]);
        const int g = l / 4, t = l % 4;
        for (int e = 0; e < 4; e++) {
            c[g + e / 2 * 8][2 * t + e % 2] = (double)p->sum[e];
            for (int k = 0; k < 2; k++)
                a[g + e % 2 * 8][2 * t + e / 2 * 8 + k] = half_of(p->a[e], k);
        }
        for (int e = 0; e < 2; e++)
            for (int k = 0; k < 2; k++)
                b[2 * t + e * 8 + k][g] = half_of(p->b[e], k);
    }
    for (int i = 0; i < SIDE; i++)
        for (int k = 0; k < SIDE; k += MOST)
            add_products(c[i], &a[i][k], b[k], MOST, COLUMNS);
    for (int l = 0; l < LANES; l++)
        for (int e = 0; e < 4; e++)
            static_cast<const product16 *>(lane[l])->sum[e] = (float)c[l / 4 + e / 2 * 8][2 * (l % 4) + e % 2];
}

HIDDEN void multiply(float *sum, const uint32_t *a, const uint32_t *b, where at)
{
    product16 mine = {sum, a, b};
    together(products16, &mine, at);
}

struct rows_args {
    const void *mine, *of[LANES];
};

HIDDEN static void exchange(void *const *lane)
{
    for (int l = 0; l < LANES; l++)
        for (int k = 0; k < LANES; k++)
            static_cast<rows_args *>(lane[l])->of[k] = static_cast<const rows_args *>(lane[k])->mine;
}

static uint32_t half_at(const void *row, int i)
{
    uint16_t half;
    memcpy(&half, static_cast<const char *>(row) + i * (int)sizeof half, sizeof half);
    return half;
}

/* Every lane reads its words by itself, so the sanitizers see it. */
void load_rows(uint32_t *to, const void *row, bool across, where at)
{
    rows_args r = {row, {}};
    const int g = lane() / 4, t = lane() % 4;
    together(exchange, &r, at);
    if ((uintptr_t)row % ROW_BYTES != 0)
        die("a row of ldmatrix at an address that is not a multiple of 16 bytes");
    if (!is_shared(row, ROW_BYTES))
        die("a row of ldmatrix that does not lie in shared memory");
    for (int m = 0; m < 4; m++) {
        const void *const *rows = r.of + 8 * m;
        to[m] = across ? half_at(rows[2 * t], g) | half_at(rows[2 * t + 1], g) << 16
                       : half_at(rows[g], 2 * t) | half_at(rows[g], 2 * t + 1) << 16;
    }
}

} // namespace simt
