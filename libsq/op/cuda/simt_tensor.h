/* simt_tensor.h - a warp's matrix products for both compilers, sums in f32, from sm_80 on: 16 x 16 x 8 in tf32
 * (nvcuda::wmma), 16 x 8 x 16 in bf16 (mma.sync, ldmatrix)
 *
 * Emulated, what a GPU leaves undefined is made to show:
 *
 * - lanes: one that does not come to a load, store or product, or names another matrix of wmma: a table, abort
 * - addresses: not 32-byte aligned (a row of ldmatrix: 16), rows of wmma that overlap or lie not 16 bytes apart or a
 *   multiple of that: a table, abort
 * - operands: what __float_to_tf32 has not made: a table, abort; bits that it leaves undefined are not zero
 * - poison: a fragment of wmma holds NaN until it is loaded or filled
 * - elements: which of a matrix of wmma a lane holds changes with SQ_EMU_SEED; what is done must be the same for all
 *
 * Sums are cut as an A100 was seen to cut them: four products of tf32, or eight of bf16, and the sum so far to 25 bits
 * of the largest of them, and what they come to, to 24. Later ones keep more. */
#ifndef SQ_SIMT_TENSOR_H
#define SQ_SIMT_TENSOR_H

#include "simt.h"

/* Is it there for what is being compiled? */
#if defined __CUDA_ARCH__ && __CUDA_ARCH__ < 800
#define SIMT_TENSOR 0
#else
#define SIMT_TENSOR 1
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
/* This lane's part of d = a b + c, its operands in tf32. */
void multiply(float *d, const float *a, const float *b, const float *c, where at);
/* The same of sum += a b in bf16; its words of four 8 x 8 of them, as ldmatrix. */
void multiply(float *sum, const uint32_t *a, const uint32_t *b, where at);
void load_rows(uint32_t *to, const void *row, bool across, where at);

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

template <class LAYOUT>
class fragment<matrix_a, 16, 16, 8, precision::tf32, LAYOUT> : public simt::fragment<float, 16, 8>
{
};
template <class LAYOUT>
class fragment<matrix_b, 16, 16, 8, precision::tf32, LAYOUT> : public simt::fragment<float, 8, 16>
{
};
template <> class fragment<accumulator, 16, 16, 8, float> : public simt::fragment<float, 16, 16>
{
};

typedef fragment<accumulator, 16, 16, 8, float> sums;

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

template <class USE, class T, class LAYOUT>
void load_matrix_sync(fragment<USE, 16, 16, 8, T, LAYOUT> &f, const float *x, unsigned ld, SIMT_CALLER)
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

template <class T, class LEFT, class RIGHT>
void mma_sync(sums &d, const fragment<matrix_a, 16, 16, 8, T, LEFT> &a,
              const fragment<matrix_b, 16, 16, 8, T, RIGHT> &b, const sums &c, SIMT_CALLER)
{
    simt::multiply(d.x, a.x, b.x, c.x, at);
}

} // namespace nvcuda::wmma

#endif

/* ---- products in bf16, whose fragments have places that are known (PTX ISA, "mma.m16n8k16", "ldmatrix") ----
 * A word is two neighbours in k, the lower half the first. With g = lane / 4 and t = lane % 4 a lane has
 *
 *   of 16 x 8 sums         (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1)
 *   of a left 16 x 16      words from (g, 2 t), (g + 8, 2 t), (g, 2 t + 8), (g + 8, 2 t + 8)
 *   of a right 16 x 8      words from (2 t, g), (2 t + 8, g)
 *
 * So two sums side by side, rounded, are a left operand. */

#ifdef __CUDACC__

/* Four 8 x 8, whose rows the lanes name: lane l row l % 8 of matrix l / 8, 16 bytes of shared memory at a multiple of 16.
 * A lane's words: (g, 2 t) and its neighbour in the row, or ACROSS (2 t, g) and that below it. */
template <bool ACROSS> static __device__ inline void mma_load(uint32_t (&to)[4], const void *row)
{
#if SIMT_TENSOR
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    if constexpr (ACROSS)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(at)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(at)
                     : "memory");
#else
    __trap();
#endif
}

/* sum += a b */
static __device__ inline void mma_add(float (&sum)[4], const uint32_t (&a)[4], const uint32_t *b)
{
#if SIMT_TENSOR
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    __trap();
#endif
}

#else

template <bool ACROSS> void mma_load(uint32_t (&to)[4], const void *row, SIMT_CALLER)
{
    simt::load_rows(to, row, ACROSS, at);
}

static inline void mma_add(float (&sum)[4], const uint32_t (&a)[4], const uint32_t *b, SIMT_CALLER)
{
    simt::multiply(sum, a, b, at);
}

#endif
#endif
