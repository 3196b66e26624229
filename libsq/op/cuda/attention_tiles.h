/* attention_tiles.h - the products of attention's tiles, in f32 or on tensor cores. Private to attention_cuda.cu.
 *
 *   dot   s = A B', 64 rows of D channels each          mul   acc = diag(keep) acc + P X, X 64 rows of D channels
 *
 * 256 threads as 16 x 16; of a tile of 64 x 64 a thread has rows 4 y ... 4 y + 3 and columns x, x + 16, ... D is walked
 * in chunks of 32 channels (128 bytes of a row, one line), zeros beyond it. Sums of mul stay in registers, 8 a chunk.
 *
 * f32_tiles: a step needs eight values from shared memory for sixteen fused products. 33 kB.
 *
 * tensor_tiles, from sm_80 on: a warp has 16 rows and 32 columns, as two sums of wmma. An operand is split into two of
 * tf32 (11 bits each), x = high + low + e with |e| <= 2^-23 |x|, and of its product only low low is left out: three
 * products of tf32 come within 2^-21 of one of f32 at worst, 1.3 U (2^-24) as root mean square. Tensor cores truncate
 * when they add, so they add 32 products, low ones by themselves; what that gives is added with rounding. A step of 8
 * channels is 12 loads, 48 instructions that split and 12 products a warp: bound by issuing them. 41 kB; 128 registers
 * a thread and 2 blocks a processor but where sums take more than 32: dk and dv of D over 64, all of D over 128.
 *
 * Sums have the order that the shape says. Where an operand of tensor_tiles is above 2^127 products may be NaN. */
#ifndef SQ_ATTENTION_TILES_H
#define SQ_ATTENTION_TILES_H

#include "attention.h"
#include "simt_tensor.h"

enum { TILE = 64, CHUNK = 32, SIDE = 16, EACH = TILE / SIDE, WIDE = CHUNK / SIDE, THREADS = SIDE * SIDE };
enum { FRAG = 16, STEP = 8, PAIR = CHUNK / (int)FRAG };

static __device__ inline int tile_x()
{
    return (int)threadIdx.x % SIDE;
}

/* the first of the thread's rows */
static __device__ inline int tile_row()
{
    return (int)threadIdx.x / SIDE * EACH;
}

template <int W> static __device__ inline void load_chunk(float (*to)[W], head_rows from, int64_t c0, int64_t dim)
{
    const int c = (int)threadIdx.x % CHUNK, first = (int)threadIdx.x / CHUNK;
    const int64_t rows = c0 + c < dim ? from.rows : 0;
    const float *x = from.x + first * from.stride + c0 + c;
    for (int r = first; r < TILE; r += THREADS / CHUNK, x += THREADS / CHUNK * from.stride)
        to[r][c] = r < rows ? *x : 0.0f;
}

template <int W> static __device__ inline void put_tile(float (*to)[W], const float v[EACH][EACH])
{
    for (int i = 0; i < EACH; i++)
        for (int j = 0; j < EACH; j++)
            to[tile_row() + i][tile_x() + j * SIDE] = v[i][j];
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
            load_chunk(a, left, c0, dim);
            load_chunk(b, right, c0, dim);
            __syncthreads();
            for (int c = 0; c < CHUNK; c++)
                for (int i = 0; i < EACH; i++)
                    for (int j = 0; j < EACH; j++)
                        s[i][j] = fmaf(a[tile_row() + i][c], b[tile_x() + j * SIDE][c], s[i][j]);
        }
    }

    /* acc = diag(keep) acc + P X; keep NULL: ones. All have read the P before. */
    template <int CHUNKS>
    __device__ void mul(sums<CHUNKS> &acc, const float v[EACH][EACH], const float *keep, head_rows from, int64_t dim)
    {
        put_tile(p, v);
        SIMT_UNROLL
        for (int k = 0; k < CHUNKS; k++) {
            if (k * CHUNK >= dim)
                break;
            __syncthreads();
            load_chunk(b, from, k * CHUNK, dim);
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

/* The argument only names the type: shared arrays may not be in templates (simt.h). */
[[maybe_unused]] static __device__ f32_tiles &shared_tiles(f32_tiles *)
{
    __shared__ f32_tiles t;
    return t;
}

/* ---- tensor cores ---- */

#if SIMT_TENSOR
namespace wmma = nvcuda::wmma;

typedef wmma::fragment<wmma::accumulator, FRAG, FRAG, STEP, float> tensor_sum;

static __device__ inline void add_sum(tensor_sum &x, const tensor_sum &y)
{
    for (int e = 0; e < x.num_elements; e++)
        x.x[e] += y.x[e];
}

static __device__ inline void scale_sum(tensor_sum &x, const tensor_sum &y)
{
    for (int e = 0; e < x.num_elements; e++)
        x.x[e] *= y.x[e];
}

template <class USE, class LAYOUT> struct tensor_operand {
    wmma::fragment<USE, FRAG, FRAG, STEP, wmma::precision::tf32, LAYOUT> high, low;

    __device__ void load(const float *x, int ld)
    {
        wmma::load_matrix_sync(high, x, (unsigned)ld);
        for (int e = 0; e < high.num_elements; e++) {
            const float v = high.x[e], rounded = wmma::__float_to_tf32(v); /* 13 bits of it are undefined */
            high.x[e] = rounded;
            low.x[e] = wmma::__float_to_tf32(v - __uint_as_float(__float_as_uint(rounded) & ~0x1fffu));
        }
    }
};

typedef tensor_operand<wmma::matrix_a, wmma::row_major> tensor_left;

/* Sums of a warp over 32 products: those with a low part by themselves, or they would be cut where the others end. */
struct tensor_part {
    tensor_sum high[PAIR], low[PAIR];

    __device__ void clear()
    {
        for (int f = 0; f < PAIR; f++) {
            wmma::fill_fragment(high[f], 0.0f);
            wmma::fill_fragment(low[f], 0.0f);
        }
    }

    template <class RIGHT> __device__ void add_product(int f, const tensor_left &x, const RIGHT &y)
    {
        wmma::mma_sync(low[f], x.low, y.high, low[f]);
        wmma::mma_sync(low[f], x.high, y.low, low[f]);
        wmma::mma_sync(high[f], x.high, y.high, high[f]);
    }

    __device__ void add_to(tensor_sum *sum)
    {
        for (int f = 0; f < PAIR; f++) {
            add_sum(high[f], low[f]);
            add_sum(sum[f], high[f]);
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

struct alignas(32) tensor_tiles {
    enum { LD = CHUNK + 4, LDP = TILE + 4, LDK = FRAG + 4 };
    float a[TILE][LD], b[TILE][LD], p[TILE][LDP], rows[TILE][LDK];

    static constexpr int blocks(int chunks)
    {
        return chunks <= 4 ? 2 : 1;
    }

    /* a warp's: of each pair of chunks it has one, the columns of its half */
    template <int CHUNKS> struct sums {
        tensor_sum x[CHUNKS];

        __device__ void clear()
        {
            for (int k = 0; k < CHUNKS; k++)
                wmma::fill_fragment(x[k], 0.0f);
        }
    };

    /* s = what the warps have, through p */
    __device__ void spread(float s[EACH][EACH], const tensor_sum *sum)
    {
        for (int f = 0; f < PAIR; f++)
            wmma::store_matrix_sync(&p[warp_row()][warp_half() * CHUNK + f * FRAG], sum[f], LDP, wmma::mem_row_major);
        __syncthreads();
        for (int i = 0; i < EACH; i++)
            for (int j = 0; j < EACH; j++)
                s[i][j] = p[tile_row() + i][tile_x() + j * SIDE];
    }

    __device__ void dot(float s[EACH][EACH], head_rows left, head_rows right, int64_t dim)
    {
        sums<PAIR> sum;
        tensor_part part;
        tensor_left x;
        tensor_operand<wmma::matrix_b, wmma::col_major> y;
        sum.clear();
        for (int64_t c0 = 0; c0 < dim; c0 += CHUNK) {
            __syncthreads();
            load_chunk(a, left, c0, dim);
            load_chunk(b, right, c0, dim);
            __syncthreads();
            part.clear();

            for (int c = 0; c < CHUNK; c += STEP) {
                x.load(&a[warp_row()][c], LD);
                for (int f = 0; f < PAIR; f++) {
                    y.load(&b[warp_half() * CHUNK + f * FRAG][c], LD);
                    part.add_product(f, x, y);
                }
            }
            part.add_to(sum.x);
        }
        spread(s, sum.x);
    }

    /* acc += P X for rows r0 ... r0 + 31 of X and a pair of sums, the columns of `from` */
    __device__ void mul_half(tensor_sum *acc, const float (*from)[LD], int r0)
    {
        tensor_part part;
        tensor_left x;
        tensor_operand<wmma::matrix_b, wmma::row_major> y;
        part.clear();
        for (int r = r0; r < r0 + CHUNK; r += STEP) {
            x.load(&p[warp_row()][r], LDP);
            for (int f = 0; f < PAIR; f++) {
                y.load(&from[r][f * FRAG], LD);
                part.add_product(f, x, y);
            }
        }
        part.add_to(acc);
    }

    template <int CHUNKS>
    __device__ void mul(sums<CHUNKS> &acc, const float v[EACH][EACH], const float *keep, head_rows from, int64_t dim)
    {
        put_tile(p, v);
        for (int i = 0; keep && i < EACH; i++) /* where the element of a sum lies only loads and stores know */
            rows[tile_row() + i][tile_x()] = keep[i];
        SIMT_UNROLL
        for (int k = 0; k < CHUNKS; k += PAIR) {
            if (k * CHUNK >= dim)
                break;
            __syncthreads();
            load_chunk(a, from, k * CHUNK, dim);
            load_chunk(b, from, (k + 1) * CHUNK, dim);
            __syncthreads();
            if (keep) {
                tensor_sum each;
                wmma::load_matrix_sync(each, &rows[warp_row()][0], LDK, wmma::mem_row_major);
                for (int f = 0; f < PAIR; f++)
                    scale_sum(acc.x[k + f], each);
            }
            for (int r = 0; r < TILE; r += CHUNK)
                mul_half(&acc.x[k], warp_half() ? b : a, r);
        }
    }

    template <int CHUNKS>
    __device__ void put(float *y, head_rows shape, const sums<CHUNKS> &acc, const float scale[EACH], int64_t dim)
    {
        SIMT_UNROLL
        for (int k = 0; k < CHUNKS; k += PAIR) {
            float v[EACH][EACH];
            if (k * CHUNK >= dim)
                break;
            __syncthreads();
            spread(v, &acc.x[k]);
            for (int i = 0; i < EACH; i++)
                for (int j = 0; j < EACH; j++) {
                    const int c = k * CHUNK + j * SIDE + tile_x();
                    if (c < dim && tile_row() + i < shape.rows)
                        y[(tile_row() + i) * shape.stride + c] = v[i][j] * scale[i];
                }
        }
    }
};

[[maybe_unused]] static __device__ tensor_tiles &shared_tiles(tensor_tiles *)
{
    __shared__ tensor_tiles t;
    return t;
}
#endif

/* ---- which of them ----
 * What nvcc makes has the products of its architecture; the emulator has both, for the device that is asked for. */
#ifdef __CUDACC__
enum { SM75, SM80 = SM75 };
#if SIMT_TENSOR
template <int SM> using tiles_of = tensor_tiles;
#else
template <int SM> using tiles_of = f32_tiles;
#endif
#else
enum { SM75, SM80 };
template <int SM> using tiles_of = std::conditional_t<SM == SM75, f32_tiles, tensor_tiles>;
#endif

#endif
