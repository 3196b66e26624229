/* attention_tiles.h - the products of attention's tiles, in f32 or on tensor cores. Private to attention_cuda.cu.
 *
 *   dot   s = A B', 64 rows of D channels each          scores   the same, of queries and keys
 *   mul   acc += P X, X 64 rows of D channels           mix   acc = diag(keep) acc + P X, of probabilities and values
 *
 * 256 threads as 16 x 16; of a tile of 64 x 64 a thread has rows 4 y ... 4 y + 3 and columns x, x + 16, ... D is walked
 * in chunks of 32 channels (128 bytes of a row, one line), zeros beyond it. Sums of P X stay in registers, 8 a chunk.
 *
 * f32_tiles: a step needs eight values from shared memory for sixteen fused products. 33 kB.
 *
 * tensor_tiles, from sm_80 on: a warp has 16 rows and 32 columns, as two sums of wmma. Where an operand is two numbers,
 * x = high + low + e, only low low is left out of the product. 41 kB; 128 registers a thread and 2 blocks a processor but
 * where sums take more than 32: dk and dv of D over 64, all of D over 128.
 *
 * tensor_tiles<float>: every operand is two of tf32 (11 bits each), |e| <= 2^-23 |x|: three products come within 2^-21
 * of one of f32 at worst, 1.3 U (2^-24) as root mean square. Tensor cores truncate when they add, so they add 32
 * products, low ones by themselves; what that gives is added with rounding. A step of 8 channels is 12 loads, 48
 * instructions that split and 12 products a warp.
 *
 * tensor_tiles<bf16>: operands are rounded to bf16 on their way into shared memory. Those of scores, which stand in an
 * exponent that a large bias of the keys must not blur, and of mix are two, |e| <= 2^-17 |x|: within 2^-15 at worst, 70 U as
 * root mean square: codes of few bits and the choice of experts follow out, and dq and dk have parts that cancel. Those of
 * dot and mul, dout v' and dv, are one.
 * Tensor cores add to the sums themselves and truncate: 0.4 U for each addition of eight, 20 U of scores of 128 channels,
 * 320 U of a mix of 2048 keys, always towards zero, a hundredth of what bf16 takes from it behind. Two chunks lie in
 * one line of shared memory. A step of 16 channels is 6 loads and 12 products of 16 x 8 x 16 a warp, or 3 and 4.
 *
 * Sums have the order that the shape says. Where an operand of tensor_tiles is above 2^127 products may be NaN. */
#ifndef SQ_ATTENTION_TILES_H
#define SQ_ATTENTION_TILES_H

#include "gpu.h"
#include "simt_wmma.h"

enum { TILE = 64, CHUNK = 32, SIDE = 16, EACH = TILE / SIDE, WIDE = CHUNK / SIDE, THREADS = SIDE * SIDE };
enum { FRAG = 16, PAIR = CHUNK / (int)FRAG, FIRST_TENSOR = 80 };

static __device__ inline int tile_x()
{
    return (int)threadIdx.x % SIDE;
}

/* the first of the thread's rows */
static __device__ inline int tile_row()
{
    return (int)threadIdx.x / SIDE * EACH;
}

/* Rows of one head: row r begins at x + r * stride; rows are there up to `rows`. */
struct head_rows {
    const float *x;
    int64_t stride, rows;
};

/* TWO: bf16 leaves something, which goes to the next array */
template <bool TWO> static __device__ inline void put_channels(float *to, float *, const float *v)
{
    *to = *v;
}

#if SIMT_WMMA
template <bool TWO> static __device__ inline void put_channels(__nv_bfloat16 *to, __nv_bfloat16 *low, const float *v)
{
    const __nv_bfloat162 high = __floats2bfloat162_rn(v[0], v[1]);
    *reinterpret_cast<__nv_bfloat162 *>(to) = high;
    if constexpr (TWO)
        *reinterpret_cast<__nv_bfloat162 *>(low) = __floats2bfloat162_rn(v[0] - (float)high.x, v[1] - (float)high.y);
}
#endif

/* Chunks for a line of shared memory, one of f32 or two of bf16, whose channels then alternate: a thread reads with its
 * neighbours, and writes 4 bytes. */
template <bool TWO, class T, int W>
static __device__ inline void load_chunks(T (*to)[W], head_rows from, int64_t c0, int64_t dim)
{
    constexpr int EACH_LINE = sizeof(float) / sizeof(T);
    const int c = (int)threadIdx.x % CHUNK, first = (int)threadIdx.x / CHUNK;
    const float *x = from.x + first * from.stride + c0 + c;
    int rows[EACH_LINE];
    for (int k = 0; k < EACH_LINE; k++)
        rows[k] = c0 + c + k * CHUNK < dim ? (int)from.rows : 0;
    for (int r = first; r < TILE; r += THREADS / CHUNK, x += THREADS / CHUNK * from.stride) {
        float v[EACH_LINE];
        for (int k = 0; k < EACH_LINE; k++)
            v[k] = r < rows[k] ? x[k * CHUNK] : 0.0f;
        put_channels<TWO>(&to[r][c * EACH_LINE], &to[r + TWO * TILE][c * EACH_LINE], v);
    }
}

/* ---- fused products in f32 ---- */

struct f32_tiles {
    float a[TILE][CHUNK + 1], b[TILE][CHUNK + 1], p[TILE][TILE + 1];

    /* blocks that a processor should have room for, with so many chunks of sums in each */
    static constexpr int blocks(int)
    {
        return 1;
    }

    template <int CHUNKS> struct sums {
        float x[CHUNKS][EACH][WIDE];

        __device__ void clear()
        {
            for (int k = 0; k < CHUNKS; k++)
                for (int i = 0; i < EACH; i++)
                    for (int j = 0; j < WIDE; j++)
                        x[k][i][j] = 0;
        }
    };

    /* s = A B'; begins with a barrier */
    __device__ void dot(float s[EACH][EACH], head_rows left, head_rows right, int64_t dim)
    {
        for (int i = 0; i < EACH; i++)
            for (int j = 0; j < EACH; j++)
                s[i][j] = 0;
        for (int64_t c0 = 0; c0 < dim; c0 += CHUNK) {
            __syncthreads();
            load_chunks<false>(a, left, c0, dim);
            load_chunks<false>(b, right, c0, dim);
            __syncthreads();
            for (int c = 0; c < CHUNK; c++)
                for (int i = 0; i < EACH; i++)
                    for (int j = 0; j < EACH; j++)
                        s[i][j] = fmaf(a[tile_row() + i][c], b[tile_x() + j * SIDE][c], s[i][j]);
        }
    }

    __device__ void scores(float s[EACH][EACH], head_rows q, head_rows k, int64_t dim)
    {
        dot(s, q, k, dim);
    }

    /* acc = diag(keep) acc + P X; keep NULL: ones. All have read the P before. */
    template <int CHUNKS>
    __device__ void mix(sums<CHUNKS> &acc, const float v[EACH][EACH], const float *keep, head_rows from, int64_t dim)
    {
        for (int i = 0; i < EACH; i++)
            for (int j = 0; j < EACH; j++)
                p[tile_row() + i][tile_x() + j * SIDE] = v[i][j];
        SIMT_UNROLL
        for (int k = 0; k < CHUNKS; k++) {
            if (k * CHUNK >= dim)
                break;
            __syncthreads();
            load_chunks<false>(b, from, k * CHUNK, dim);
            __syncthreads();
            for (int i = 0; keep && i < EACH; i++)
                for (int j = 0; j < WIDE; j++)
                    acc.x[k][i][j] *= keep[i];
            for (int r = 0; r < TILE; r++)
                for (int i = 0; i < EACH; i++)
                    for (int j = 0; j < WIDE; j++)
                        acc.x[k][i][j] = fmaf(p[tile_row() + i][r], b[r][tile_x() + j * SIDE], acc.x[k][i][j]);
        }
    }

    template <int CHUNKS>
    __device__ void mul(sums<CHUNKS> &acc, const float v[EACH][EACH], head_rows from, int64_t dim)
    {
        mix(acc, v, nullptr, from, dim);
    }

    /* y[row,:] = acc * scale[row] */
    template <int CHUNKS>
    __device__ void put(float *y, head_rows shape, const sums<CHUNKS> &acc, const float scale[EACH], int64_t dim)
    {
        SIMT_UNROLL
        for (int k = 0; k < CHUNKS; k++)
            for (int i = 0; i < EACH; i++)
                for (int j = 0; j < WIDE; j++) {
                    const int c = k * CHUNK + j * SIDE + tile_x();
                    if (c < dim && tile_row() + i < shape.rows)
                        y[(tile_row() + i) * shape.stride + c] = acc.x[k][i][j] * scale[i];
                }
    }
};

[[maybe_unused]] static __device__ f32_tiles &shared_tiles(f32_tiles *)
{
    __shared__ f32_tiles t;
    return t;
}

/* ---- tensor cores ---- */

#if SIMT_WMMA
namespace wmma = nvcuda::wmma;

/* of what T an operand is stored as, float or bf16 */
template <class T> static constexpr bool IS_F32 = std::is_same_v<T, float>;
template <class T> static constexpr int STEP = IS_F32<T> ? 8 : 16;
template <class T> using tensor_sum = wmma::fragment<wmma::accumulator, FRAG, FRAG, STEP<T>, float>;

template <class SUM> static __device__ inline void add_sum(SUM &x, const SUM &y)
{
    for (int e = 0; e < x.num_elements; e++)
        x.x[e] += y.x[e];
}

template <class SUM> static __device__ inline void scale_sum(SUM &x, const SUM &y)
{
    for (int e = 0; e < x.num_elements; e++)
        x.x[e] *= y.x[e];
}

/* TWO: of two numbers; those of bf16 lie in two arrays */
template <class T, bool TWO, class USE, class LAYOUT> struct tensor_operand {
    typedef std::conditional_t<IS_F32<T>, wmma::precision::tf32, T> kind;
    wmma::fragment<USE, FRAG, FRAG, STEP<T>, kind, LAYOUT> high, low;

    __device__ void load(const T *x, int ld)
    {
        wmma::load_matrix_sync(high, x, (unsigned)ld);
        if constexpr (IS_F32<T>)
            split();
        else if constexpr (TWO)
            wmma::load_matrix_sync(low, x + TILE * ld, (unsigned)ld);
    }

    __device__ void split()
    {
        for (int e = 0; e < high.num_elements; e++) {
            const float v = high.x[e], rounded = wmma::__float_to_tf32(v); /* 13 bits of it are undefined */
            high.x[e] = rounded;
            low.x[e] = wmma::__float_to_tf32(v - __uint_as_float(__float_as_uint(rounded) & ~0x1fffu));
        }
    }
};

/* What a warp adds to a pair of its sums at once: of tf32 by itself, products with a low part apart; of bf16 to the sums. */
template <class T, bool TWO> struct tensor_part {
    tensor_sum<T> high[PAIR], low[PAIR];

    __device__ void begin(const tensor_sum<T> *sum)
    {
        for (int f = 0; f < PAIR; f++) {
            if constexpr (IS_F32<T>) {
                wmma::fill_fragment(high[f], 0.0f);
                wmma::fill_fragment(low[f], 0.0f);
            } else {
                high[f] = sum[f];
            }
        }
    }

    template <class LEFT, class RIGHT> __device__ void add_product(int f, const LEFT &x, const RIGHT &y)
    {
        if constexpr (TWO) {
            tensor_sum<T> &to = IS_F32<T> ? low[f] : high[f];
            wmma::mma_sync(to, x.low, y.high, to);
            wmma::mma_sync(to, x.high, y.low, to);
        }
        wmma::mma_sync(high[f], x.high, y.high, high[f]);
    }

    __device__ void end(tensor_sum<T> *sum)
    {
        for (int f = 0; f < PAIR; f++) {
            if constexpr (IS_F32<T>) {
                add_sum(high[f], low[f]);
                add_sum(sum[f], high[f]);
            } else {
                sum[f] = high[f];
            }
        }
    }
};

/* A warp's rows, 16 of 64, and which half of 64 columns it has. */
static __device__ inline int warp_row()
{
    return (int)threadIdx.x / GPU_LANES % ((int)TILE / FRAG) * FRAG;
}

static __device__ inline int warp_half()
{
    return (int)threadIdx.x / GPU_LANES / ((int)TILE / FRAG);
}

/* Of four arrays two have A, or 64 columns of X, two B, or a tile of P: a second line of f32, or what is left of bf16.
 * Between products the first two have a tile of sums. */
template <class T> struct alignas(32) tensor_tiles {
    static constexpr int EACH_LINE = sizeof(float) / sizeof(T), LINE = CHUNK * EACH_LINE, LD = LINE + 4 * EACH_LINE;
    static constexpr int LDS = TILE + 4, LDK = FRAG + 4, A = 0, X = 0, B = 2, P = 2;
    union {
        T at[4][TILE][LD];
        float tile[TILE][LDS];
    };
    float rows[TILE][LDK];
    static_assert(sizeof tile <= P * sizeof at[0]);

    static constexpr int blocks(int chunks)
    {
        return chunks <= 4 ? 2 : 1;
    }

    /* a warp's: of each pair of chunks it has one, the columns of its half */
    template <int CHUNKS> struct sums {
        tensor_sum<T> x[CHUNKS];

        __device__ void clear()
        {
            for (int k = 0; k < CHUNKS; k++)
                wmma::fill_fragment(x[k], 0.0f);
        }
    };

    /* of the 64 columns from array `first` on */
    __device__ T *cell(int first, int r, int c)
    {
        return &at[first + c / LINE][r][c % LINE];
    }

    /* s = what the warps have; begins with a barrier */
    __device__ void spread(float s[EACH][EACH], const tensor_sum<T> *sum)
    {
        __syncthreads();
        for (int f = 0; f < PAIR; f++)
            wmma::store_matrix_sync(&tile[warp_row()][warp_half() * CHUNK + f * FRAG], sum[f], LDS, wmma::mem_row_major);
        __syncthreads();
        for (int i = 0; i < EACH; i++)
            for (int j = 0; j < EACH; j++)
                s[i][j] = tile[tile_row() + i][tile_x() + j * SIDE];
    }

    template <bool TWO>
    __device__ void products(float s[EACH][EACH], head_rows left, head_rows right, int64_t dim)
    {
        sums<PAIR> sum;
        tensor_part<T, TWO> part;
        tensor_operand<T, TWO, wmma::matrix_a, wmma::row_major> x;
        tensor_operand<T, TWO, wmma::matrix_b, wmma::col_major> y;
        sum.clear();
        for (int64_t c0 = 0; c0 < dim; c0 += LINE) {
            __syncthreads();
            load_chunks<TWO>(at[A], left, c0, dim);
            load_chunks<TWO>(at[B], right, c0, dim);
            __syncthreads();
            part.begin(sum.x);
            for (int c = 0; c < LINE; c += STEP<T>) {
                x.load(&at[A][warp_row()][c], LD);
                for (int f = 0; f < PAIR; f++) {
                    y.load(&at[B][warp_half() * CHUNK + f * FRAG][c], LD);
                    part.add_product(f, x, y);
                }
            }
            part.end(sum.x);
        }
        spread(s, sum.x);
    }

    __device__ void dot(float s[EACH][EACH], head_rows left, head_rows right, int64_t dim)
    {
        products<IS_F32<T>>(s, left, right, dim);
    }

    __device__ void scores(float s[EACH][EACH], head_rows q, head_rows k, int64_t dim)
    {
        products<true>(s, q, k, dim);
    }

    /* acc += P X for a line of rows of X, from r0 on, and a pair of sums */
    template <bool TWO> __device__ void mul_rows(tensor_sum<T> *acc, int r0)
    {
        tensor_part<T, TWO> part;
        tensor_operand<T, TWO, wmma::matrix_a, wmma::row_major> x;
        tensor_operand<T, TWO, wmma::matrix_b, wmma::row_major> y;
        part.begin(acc);
        for (int r = r0; r < r0 + LINE; r += STEP<T>) {
            x.load(cell(P, warp_row(), r), LD);
            for (int f = 0; f < PAIR; f++) {
                y.load(cell(X, r, warp_half() * CHUNK + f * FRAG), LD);
                part.add_product(f, x, y);
            }
        }
        part.end(acc);
    }

    template <bool TWO> __device__ void put_p(const float v[EACH][EACH])
    {
        for (int i = 0; i < EACH; i++)
            for (int j = 0; j < EACH; j++) {
                T *to = cell(P, tile_row() + i, tile_x() + j * SIDE);
                const T high = v[i][j];
                *to = high;
                if constexpr (TWO && !IS_F32<T>)
                    to[TILE * LD] = v[i][j] - (float)high;
            }
    }

    template <bool TWO, int CHUNKS>
    __device__ void products(sums<CHUNKS> &acc, const float v[EACH][EACH], const float *keep, head_rows from,
                             int64_t dim)
    {
        put_p<TWO>(v);
        for (int i = 0; keep && i < EACH; i++) /* where the element of a sum lies only loads and stores know */
            rows[tile_row() + i][tile_x()] = keep[i];
        SIMT_UNROLL
        for (int k = 0; k < CHUNKS; k += PAIR) {
            if (k * CHUNK >= dim)
                break;
            __syncthreads();
            for (int c = 0; c < TILE; c += LINE)
                load_chunks<TWO>(at[X + c / LINE], from, k * CHUNK + c, dim);
            __syncthreads();
            if (keep) {
                tensor_sum<T> each;
                wmma::load_matrix_sync(each, &rows[warp_row()][0], LDK, wmma::mem_row_major);
                for (int f = 0; f < PAIR; f++)
                    scale_sum(acc.x[k + f], each);
            }
            for (int r = 0; r < TILE; r += LINE)
                mul_rows<TWO>(&acc.x[k], r);
        }
    }

    template <int CHUNKS>
    __device__ void mix(sums<CHUNKS> &acc, const float p[EACH][EACH], const float *keep, head_rows values, int64_t dim)
    {
        products<true>(acc, p, keep, values, dim);
    }

    template <int CHUNKS>
    __device__ void mul(sums<CHUNKS> &acc, const float v[EACH][EACH], head_rows from, int64_t dim)
    {
        products<IS_F32<T>>(acc, v, nullptr, from, dim);
    }

    template <int CHUNKS>
    __device__ void put(float *y, head_rows shape, const sums<CHUNKS> &acc, const float scale[EACH], int64_t dim)
    {
        SIMT_UNROLL
        for (int k = 0; k < CHUNKS; k += PAIR) {
            float v[EACH][EACH];
            if (k * CHUNK >= dim)
                break;
            spread(v, &acc.x[k]);
            for (int i = 0; i < EACH; i++)
                for (int j = 0; j < EACH; j++) {
                    const int x = tile_x() + j * SIDE; /* load_chunks says which channel lies there */
                    const int c = k * CHUNK + x / EACH_LINE + x % EACH_LINE * CHUNK;
                    if (c < dim && tile_row() + i < shape.rows)
                        y[(tile_row() + i) * shape.stride + c] = v[i][j] * scale[i];
                }
        }
    }
};

template <class T> static __device__ tensor_tiles<T> &shared_tiles(tensor_tiles<T> *)
{
    __shared__ tensor_tiles<T> t;
    return t;
}
#endif

/* ---- which of them ----
 * What nvcc makes has the products of its architecture; the emulator has both, for the device that is asked for. */
#ifdef __CUDACC__
enum { SM75, SM80 = SM75, SM80_BF16 };
#if SIMT_WMMA
template <int SM> using tiles_of = tensor_tiles<std::conditional_t<SM == SM80_BF16, __nv_bfloat16, float>>;
#else
template <int SM> using tiles_of = f32_tiles;
#endif
#else
enum { SM75, SM80, SM80_BF16 };
template <int SM>
using tiles_of = std::conditional_t<SM == SM75, f32_tiles,
                                    tensor_tiles<std::conditional_t<SM == SM80_BF16, __nv_bfloat16, float>>>;
#endif

#endif
