/* simt_wmma.h - a warp's matrix products (nvcuda::wmma) for both compilers: 16 x 16 x 8 with operands in tf32, 16 x 16 x
 * 16 in bf16, sums in f32, from sm_80 on
 *
 * Emulated, what a GPU leaves undefined is made to show:
 *
 * - lanes: one that does not come to a load, store or product, or names another matrix: a table, abort
 * - addresses: not 32-byte aligned, rows that overlap or lie not 16 bytes apart or a multiple of that: a table, abort
 * - operands: what __float_to_tf32 has not made: a table, abort; bits that it leaves undefined are not zero
 * - poison: a fragment holds NaN until it is loaded or filled
 * - elements: which of a matrix a lane holds changes with SQ_EMU_SEED; what is done must be the same for all
 *
 * Sums are cut as an A100 was seen to cut them: four products of tf32, or eight of bf16, and the sum so far to 25 bits
 * of the largest of them, and what they come to, to 24. Later ones keep more. */
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

#include <cuda_bf16.h>
#include <mma.h>

#else

#include <type_traits>

/* from f32 to nearest even; a NaN stays one */
struct __nv_bfloat16 {
    uint16_t bits;

    __nv_bfloat16() = default;
    __nv_bfloat16(float v)
    {
        const uint32_t u = __float_as_uint(v);
        bits = (uint16_t)(v == v ? (u + 0x7fff + (u >> 16 & 1)) >> 16 : 0x7fff);
    }
    operator float() const
    {
        return __uint_as_float((uint32_t)bits << 16);
    }
};

struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y)
{
    return {x, y};
}

namespace simt
{

/* A matrix of R x C, C or R of them in a row of memory; a lane has this many elements. */
template <class T, int R, int C> struct fragment {
    enum { num_elements = R * C / 32 };
    T x[num_elements];

    fragment()
    {
        for (T &v : x)
            v = NAN;
    }
};

/* The bits of an f32 that tf32 has not, and what they are here after rounding. */
static const uint32_t TF32_REST = 0x1fff, tf32_rest = 0x1555;

/* An argument of all 32 lanes: ends unless they agree on a matrix that may be loaded and stored; row, ld: bytes. */
void matrix(const void *x, size_t ld, size_t row, where at);
/* This lane's part of d = a b + c, its operands in tf32, its operands in bf16. */
void multiply(float *d, const float *a, const float *b, const float *c, where at);
void multiply(float *d, const __nv_bfloat16 *a, const __nv_bfloat16 *b, const float *c, where at);

/* where element e of this lane lies */
template <int R, int C> size_t offset(int e, unsigned ld, bool columns)
{
    const unsigned at = place(lane(), e, R * C), r = at / C, c = at % C;
    return columns ? (size_t)c * ld + r : (size_t)r * ld + c;
}

template <class T, int R, int C> void load(fragment<T, R, C> &to, const T *x, unsigned ld, bool columns, where at)
{
    matrix(x, ld * sizeof *x, (columns ? R : C) * sizeof *x, at);
    for (int e = 0; e < to.num_elements; e++)
        to.x[e] = x[offset<R, C>(e, ld, columns)];
}

template <class T, int R, int C> void store(T *x, const fragment<T, R, C> &from, unsigned ld, bool columns, where at)
{
    matrix(x, ld * sizeof *x, (columns ? R : C) * sizeof *x, at);
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

/* Both kinds of operands, 16 x DEEP and DEEP x 16, with their sums. */
#define SIMT_OPERANDS(DEEP, T, STORED)                                                                                  \
    template <class LAYOUT> class fragment<matrix_a, 16, 16, DEEP, T, LAYOUT> : public simt::fragment<STORED, 16, DEEP> \
    {                                                                                                                   \
    };                                                                                                                  \
    template <class LAYOUT> class fragment<matrix_b, 16, 16, DEEP, T, LAYOUT> : public simt::fragment<STORED, DEEP, 16> \
    {                                                                                                                   \
    };                                                                                                                  \
    template <> class fragment<accumulator, 16, 16, DEEP, float> : public simt::fragment<float, 16, 16>                 \
    {                                                                                                                   \
    }
SIMT_OPERANDS(8, precision::tf32, float);
SIMT_OPERANDS(16, __nv_bfloat16, __nv_bfloat16);
#undef SIMT_OPERANDS

template <int K> using sums = fragment<accumulator, 16, 16, K, float>;

/* to nearest, halves away from zero; NaN and Inf stay */
static inline float __float_to_tf32(float x)
{
    const uint32_t u = __float_as_uint(x) + (simt::TF32_REST + 1) / 2;
    return x - x == 0 ? __uint_as_float((u & ~simt::TF32_REST) | simt::tf32_rest) : x;
}

template <int K> void fill_fragment(sums<K> &f, float v)
{
    for (float &x : f.x)
        x = v;
}

template <class USE, int K, class T, class LAYOUT, class STORED>
void load_matrix_sync(fragment<USE, 16, 16, K, T, LAYOUT> &f, const STORED *x, unsigned ld, SIMT_CALLER)
{
    simt::load(f, x, ld, std::is_same_v<LAYOUT, col_major>, at);
}

template <int K>
void load_matrix_sync(sums<K> &f, const float *x, unsigned ld, layout_t layout, SIMT_CALLER)
{
    simt::load(f, x, ld, layout == mem_col_major, at);
}

template <int K>
void store_matrix_sync(float *x, const sums<K> &f, unsigned ld, layout_t layout, SIMT_CALLER)
{
    simt::store(x, f, ld, layout == mem_col_major, at);
}

template <int K, class T, class LEFT, class RIGHT>
void mma_sync(sums<K> &d, const fragment<matrix_a, 16, 16, K, T, LEFT> &a,
              const fragment<matrix_b, 16, 16, K, T, RIGHT> &b, const sums<K> &c, SIMT_CALLER)
{
    simt::multiply(d.x, a.x, b.x, c.x, at);
}

} // namespace nvcuda::wmma

#endif
#endif
