/* Rows times a normalized Hadamard matrix (docs/method.md 8), y = (x sign) H / sqrt(n), H = H_m (x) H_2^k:
 *
 *   tiles     H_2^j, j = min(k, 12): a block of 256 threads takes 4096 values, which are whole pieces of 2^j, through j
 *             steps of butterflies in shared memory; 8 bytes an element from and to memory, 8 j within shared memory
 *   columns   what is left, H_m (x) H_2^(k-j) of order d <= 256, across the pieces: a block takes 32 columns of d
 *             values, a warp one output of each at a time; d additions an element: from d of about 50 on these bound it
 *
 * Shared: 16 kB; 40 kB. */
#include "gpu.h"

#include "../hadamard.h"

enum { TILE_BITS = 12, TILE = 1 << TILE_BITS, ORDER = 256, WARPS = GPU_BLOCK / GPU_LANES, WORDS = ORDER / 32 };

/* y, x [all], `all` a multiple of n; pieces of `width` */
static __global__ void __launch_bounds__(GPU_BLOCK)
    hadamard_tiles(float *y, const float *x, const float *sign, int64_t all, int64_t n, int width, float scale)
{
    __shared__ float v[TILE];
    for (int64_t first = (int64_t)blockIdx.x * TILE; first < all; first += (int64_t)gridDim.x * TILE) {
        const int size = (int)SQ_MIN(all - first, (int64_t)TILE);
        for (int i = (int)threadIdx.x; i < size; i += GPU_BLOCK)
            v[i] = (sign ? x[first + i] * sign[(first + i) % n] : x[first + i]) * scale;
        for (int half = 1; half < width; half *= 2) {
            __syncthreads();
            for (int i = (int)threadIdx.x; i < size / 2; i += GPU_BLOCK) {
                const int at = 2 * i - i % half;
                const float a = v[at], b = v[at + half];
                v[at] = a + b;
                v[at + half] = a - b;
            }
        }
        __syncthreads();
        for (int i = (int)threadIdx.x; i < size; i += GPU_BLOCK)
            y[first + i] = v[i];
        __syncthreads();
    }
}

/* y [rows, d, width], in place; `columns` = rows width, d = m 2^k: h has m, k is what the tiles left */
static __global__ void __launch_bounds__(GPU_BLOCK)
    hadamard_columns(float *y, struct hadamard h, int k, int64_t columns, int64_t width)
{
    __shared__ float in[ORDER][GPU_LANES];
    __shared__ uint32_t minus[WORDS][ORDER]; /* bit i % 32 of [i / 32][j]: entry (i, j) is -1 */
    const int d = h.m << k, lane = (int)threadIdx.x % GPU_LANES, warp = (int)threadIdx.x / GPU_LANES;
    for (int at = (int)threadIdx.x; at < (d + 31) / 32 * d; at += GPU_BLOCK) {
        uint32_t bits = 0;
        for (int i = at / d * 32; i < SQ_MIN(d, at / d * 32 + 32); i++)
            bits |= (uint32_t)(hadamard_entry(&h, k, i, at % d) < 0) << i % 32;
        minus[at / d][at % d] = bits;
    }
    for (int64_t first = (int64_t)blockIdx.x * GPU_LANES; first < columns; first += (int64_t)gridDim.x * GPU_LANES) {
        const int64_t column = first + lane;
        float *own = y + column / width * d * width + column % width;
        const bool inside = column < columns;
        for (int i = warp; inside && i < d; i += WARPS)
            in[i][lane] = own[i * width];
        __syncthreads();
        for (int j = warp; inside && j < d; j += WARPS) {
            float sum = 0;
            for (int i = 0; i < d; i++)
                sum += minus[i / 32][j] >> i % 32 & 1 ? -in[i][lane] : in[i][lane];
            own[j * width] = sum;
        }
        __syncthreads();
    }
}

void sq_hadamard_cuda(struct sq_gpu *g, float *y, const float *x, const float *sign, int64_t rows, int64_t n)
{
    struct hadamard h;
    if (!hadamard_of(&h, n)) {
        gpu_fail(g, SQ_E_UNSUP, "hadamard: no matrix of order %lld", (long long)n);
        return;
    }
    const int tile = SQ_MIN(h.k, (int)TILE_BITS), left = h.k - tile, width = 1 << tile;
    const int64_t all = rows * n, columns = rows * width, tiles = (all + TILE - 1) / TILE;
    const float scale = (float)(1 / sqrt((double)n));
    if (rows <= 0)
        return;
    GPU_LAUNCH(g, hadamard_tiles, (unsigned)SQ_MIN(tiles, (int64_t)GPU_GRID), GPU_BLOCK, y, x, sign, all, n, width,
               scale);
    if (h.m << left > 1)
        GPU_LAUNCH(g, hadamard_columns, (unsigned)SQ_MIN((columns + GPU_LANES - 1) / GPU_LANES, (int64_t)GPU_GRID),
                   GPU_BLOCK, y, h, left, columns, (int64_t)width);
}
