/* simt_wmma.h - a warp's matrix products (nvcuda::wmma) for both compilers: 16 x 16 x 8 with operands in tf32 and sums
 * in f32, from sm_80 on
 *
 * Emulated, what a GPU leaves undefined is made to show:
 *
 * - lanes: one that does not come to a load, store or product, or names another matrix: a table, abort
 * - addresses: not 32-byte aligned, rows that overlap or lie not 16 bytes apart or a multiple of that: a table, abort
 * - operands: what __float_to_tf32 has not made: a table, abort; bits that it leaves undefined are not zero
 * - poison: a fragment holds NaN until it is loaded or filled
 * - elements: which of a matrix a lane holds changes with SQ_EMU_SEED; what is done must be the same for all
 *
 * Sums are cut as an A100 was seen to cut them: four products and the sum so far to 25 bits of the largest of them, and
 * what they come to, to 24. Later ones keep more. */
#ifndef SQ_SIMT_WMMA_H
#define SQ_SIMT_WMMA_H

#include "simt.h"

/* Is it there for what is being compiled? */
#if defined __CUDA_ARCH__ && __CUDA_ARCH__ < 800
#define SIMT_WMMA 0
#else
#define SIMT_WMMA 1
#endif

#ifdef __CUDACC__

#include <mma.h>

#else

#include <type_traits>

namespace simt
{

/* A matrix of R x C, C or R of them in a row of memory; a lane has this many elements. */
template <int R, int C> struct fragment {
    enum { num_elements = R * C / 32 };
    float x[num_elements];

    fragment()
    {
        for (float &v : x)
            v = NAN;
    }
};

/* The bits of an f32 that tf32 has not, and what they are here after rounding. */
static const uint32_t TF32_REST = 0x1fff, tf32_rest = 0x1555;

/* An argument of all 32 lanes: ends unless they agree on a matrix that may be loaded and stored. */
void matrix(const float *x, unsigned ld, unsigned row, where at);
/* This lane's part of d = a b + c. */
void multiply(fragment<16, 16> &d, const fragment<16, 8> &a, const fragment<8, 16> &b, const fragment<16, 16> &c,
              where at);

/* where element e of this lane lies */
template <int R, int C> size_t offset(int e, unsigned ld, bool columns)
{
    const unsigned at = place(lane(), e, R * C), r = at / C, c = at % C;
    return columns ? (size_t)c * ld + r : (size_t)r * ld + c;
}

template <int R, int C> void load(fragment<R, C> &to, const float *x, unsigned ld, bool columns, where at)
{
    matrix(x, ld, columns ? R : C, at);
    for (int e = 0; e < to.num_elements; e++)
        to.x[e] = x[offset<R, C>(e, ld, columns)];
}

template <int R, int C> void store(float *x, const fragment<R, C> &from, unsigned ld, bool columns, where at)
{
    matrix(x, ld, columns ? R : C, at);
    for (int e = 0; e < from.num_elements; e++)
        x[offset<R, C>(e, ld, columns)] = from.x[e];
}

} // namespace simt

#define SIMT_CALLER simt::where at = {__builtin_FILE(), __builtin_LINE()}

namespace nvcuda::wmma
{

struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
namespace precision
{
struct tf32;
}
enum layout_t { mem_row_major, mem_col_major };

template <class USE, int M, int N, int K, class T, class LAYOUT = void> class fragment;
template <class LAYOUT> class fragment<matrix_a, 16, 16, 8, precision::tf32, LAYOUT> : public simt::fragment<16, 8>
{
};
template <class LAYOUT> class fragment<matrix_b, 16, 16, 8, precision::tf32, LAYOUT> : public simt::fragment<8, 16>
{
};
template <> class fragment<accumulator, 16, 16, 8, float> : public simt::fragment<16, 16>
{
};

typedef fragment<accumulator, 16, 16, 8, float> sums;
template <class USE, class LAYOUT> using operand = fragment<USE, 16, 16, 8, precision::tf32, LAYOUT>;

/* to nearest, halves away from zero; NaN and Inf stay */
static inline float __float_to_tf32(float x)
{
    const uint32_t u = __float_as_uint(x) + (simt::TF32_REST + 1) / 2;
    return x - x == 0 ? __uint_as_float((u & ~simt::TF32_REST) | simt::tf32_rest) : x;
}

static inline void fill_fragment(sums &f, float v)
{
    for (float &x : f.x)
        x = v;
}

template <class USE, class LAYOUT>
void load_matrix_sync(operand<USE, LAYOUT> &f, const float *x, unsigned ld, SIMT_CALLER)
{
    simt::load(f, x, ld, std::is_same_v<LAYOUT, col_major>, at);
}

static inline void load_matrix_sync(sums &f, const float *x, unsigned ld, layout_t layout, SIMT_CALLER)
{
    simt::load(f, x, ld, layout == mem_col_major, at);
}

static inline void store_matrix_sync(float *x, const sums &f, unsigned ld, layout_t layout, SIMT_CALLER)
{
    simt::store(x, f, ld, layout == mem_col_major, at);
}

template <class LEFT, class RIGHT>
void mma_sync(sums &d, const operand<matrix_a, LEFT> &a, const operand<matrix_b, RIGHT> &b, const sums &c, SIMT_CALLER)
{
    simt::multiply(d, a, b, c, at);
}

} // namespace nvcuda::wmma

#endif
#endif
