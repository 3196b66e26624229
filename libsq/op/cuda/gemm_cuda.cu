/* Products: cuBLAS (bf16 operands, sums in f32; or f32), and our own kernel for codes.
 *
 * C = A B with rows in memory is C' = B' A' with columns, so operands change places and nothing is copied. Operands of
 * two types, or f32 that are to be rounded, are converted into the workspace first: 6 bytes an element, beside 2 K
 * operations. Where there is no unit for bf16 (before sm_80), what is rounded is multiplied as f32: the same operands,
 * the same sums.
 *
 * gemm_codes: 64 x 64 products a block of 256 threads, 16 each, 64 codes of K at a time from shared memory, four to an
 * instruction
 * (__dp4a); bound by integer arithmetic. Sums of codes are exact in 32 bits (sq_codes_multiply), the zero points' part
 * in double: the reference's bits. */
#include "blas.h"
#include "gpu.h"

#include <limits.h>
#include <stdlib.h>

/* ---- operands ---- */

/* y [rows, cols] without gaps, from x with rows ld apart; rounds: through bf16 first */
static __global__ void __launch_bounds__(GPU_BLOCK)
    convert_operand(gpu_floats y, gpu_floats x, int64_t ld, bool rounds, int64_t rows, int64_t cols)
{
    GPU_LOOP (i, rows * cols) {
        const float v = x.at(i / cols * ld + i % cols);
        y.set(i, rounds ? gpu_widen(gpu_narrow(v)) : v);
    }
}

static __global__ void __launch_bounds__(GPU_BLOCK) clear_rows(float *c, int64_t ldc, int64_t m, int64_t n)
{
    GPU_LOOP (i, m * n)
        c[i / n * ldc + i % n] = 0;
}

static bool as_wanted(struct sq_mat x, enum sq_dtype want, bool rounds)
{
    return x.type == want && !(rounds && want == SQ_F32);
}

/* x as it lies, rows x cols (before transposition), in the wanted type; to: where it may be converted */
static struct sq_mat operand(struct sq_gpu *g, struct sq_mat x, int64_t rows, int64_t cols, enum sq_dtype want,
                             bool rounds, char *to)
{
    if (as_wanted(x, want, rounds))
        return x;
    const gpu_floats y = gpu_floats_of(to, want), from = gpu_floats_of(x.x, x.type);
    GPU_LAUNCH(g, convert_operand, gpu_blocks(rows * cols), GPU_BLOCK, y, from, x.ld, rounds, rows, cols);
    return {to, cols, x.transposed, want};
}

void gpu_blas_close(struct sq_gpu *g)
{
    if (!g->blas)
        return;
    if (g->blas->handle)
        g->blas->destroy(g->blas->handle);
    if (g->blas->space)
        gpu_release(g->blas->space);
    free(g->blas);
    g->blas = nullptr;
}

static bool blas_start(struct sq_gpu *g, struct gpu_blas *b)
{
    char why[200] = "";
    if (!gpu_blas_load(b, why, sizeof why)) {
        gpu_fail(g, SQ_E_UNSUP, "cuBLAS: %s", why);
        return false;
    }
    if (gpu_alloc(g, &b->space, SQ_GPU_BLAS_SPACE) < 0)
        return false;
    int rc = b->create(&b->handle);
    rc = rc != 0 ? rc : b->set_stream(b->handle, (void *)(intptr_t)g->stream[SQ_QUEUE_WORK]);
    rc = rc != 0 ? rc : b->set_workspace(b->handle, b->space, SQ_GPU_BLAS_SPACE);
    if (rc != 0)
        gpu_fail(g, SQ_E_DEVICE, "cuBLAS cannot start on device %d (status %d)", g->device, rc);
    return rc == 0;
}

/* NULL (and a failure) where it cannot run; the next product tries again. */
static struct gpu_blas *blas_of(struct sq_gpu *g)
{
    if (g->blas)
        return g->blas;
    g->blas = static_cast<struct gpu_blas *>(calloc(1, sizeof *g->blas));
    if (!g->blas)
        gpu_fail(g, SQ_E_NOMEM, "no memory for cuBLAS's handle");
    else if (!blas_start(g, g->blas))
        gpu_blas_close(g);
    return g->blas;
}

static size_t size_of(enum sq_dtype t)
{
    return t == SQ_BF16 ? sizeof(uint16_t) : sizeof(float);
}

static int blas_type(enum sq_dtype t)
{
    return t == SQ_BF16 ? BLAS_R_16BF : BLAS_R_32F;
}

void sq_gemm_cuda(struct sq_gpu *g, float *c, int64_t ldc, struct sq_mat a, struct sq_mat b, int64_t m, int64_t n,
                  int64_t k, bool add, bool round_bf16)
{
    const bool narrow = g->capability >= SQ_GPU_BF16 && (round_bf16 || (a.type == SQ_BF16 && b.type == SQ_BF16));
    const enum sq_dtype want = narrow ? SQ_BF16 : SQ_F32;
    const int64_t ar = a.transposed ? k : m, ac = a.transposed ? m : k, br = b.transposed ? n : k,
                  bc = b.transposed ? k : n;
    const size_t a_bytes = as_wanted(a, want, round_bf16) ? 0 : ((size_t)(ar * ac) * size_of(want) + 255) / 256 * 256,
                 b_bytes = as_wanted(b, want, round_bf16) ? 0 : (size_t)(br * bc) * size_of(want);
    const float one = 1, beta = add;
    if (g->rc != 0 || m <= 0 || n <= 0)
        return;
    if (k <= 0) {
        if (!add)
            GPU_LAUNCH(g, clear_rows, gpu_blocks(m * n), GPU_BLOCK, c, ldc, m, n);
        return;
    }
    if (SQ_MAX(SQ_MAX(m, n), SQ_MAX(SQ_MAX(k, ldc), SQ_MAX(a.ld, b.ld))) > INT_MAX) {
        gpu_fail(g, SQ_E_UNSUP, "a product of %lld x %lld x %lld", (long long)m, (long long)n, (long long)k);
        return;
    }
    char *space = static_cast<char *>(gpu_space(g, a_bytes + b_bytes, "gemm"));
    struct gpu_blas *blas = g->rc == 0 ? blas_of(g) : nullptr;
    if (!blas)
        return;
    const struct sq_mat x = operand(g, a, ar, ac, want, round_bf16, space),
                        y = operand(g, b, br, bc, want, round_bf16, space + a_bytes);
    if (!gpu_owns(x.x) || !gpu_owns(y.x) || !gpu_owns(c)) {
        gpu_fail(g, SQ_E_DEVICE, "gemm: memory of the host's");
        return;
    }
    const int rc = blas->gemm_ex(blas->handle, y.transposed ? BLAS_T : BLAS_N, x.transposed ? BLAS_T : BLAS_N, (int)n,
                                 (int)m, (int)k, &one, y.x, blas_type(want), (int)y.ld, x.x, blas_type(want), (int)x.ld,
                                 &beta, c, BLAS_R_32F, (int)ldc, BLAS_COMPUTE_32F, BLAS_DEFAULT);
    if (rc != 0)
        gpu_fail(g, SQ_E_DEVICE, "cuBLAS refuses a product of %lld x %lld x %lld (status %d)", (long long)m,
                 (long long)n, (long long)k, rc);
}

/* ---- codes ---- */

enum { TILE = 64, WORDS = 16, SIDE = 16, EACH = TILE / SIDE, THREADS = SIDE * SIDE };

/* rows first ... first + 63 of x, bytes at ... at + 63: words of four, zeros outside */
static __device__ inline void load_codes(uint32_t (*to)[WORDS + 1], const struct sq_codes &x, int64_t rows,
                                         int64_t first, int64_t at)
{
    for (int k = (int)threadIdx.x; k < TILE * WORDS; k += THREADS) {
        const int64_t row = first + k / WORDS, col = at + k % WORDS * 4;
        const uint8_t *q = x.q + row * x.ld + col;
        uint32_t word = 0;
        for (int i = 0; i < 4; i++)
            if (row < rows && col + i < x.cols)
                word |= (uint32_t)q[i] << 8 * i;
        to[k / WORDS][k % WORDS] = word;
    }
}

/* (sum of (qa - za)(qb - zb)) sa sb from the sum of qa qb */
static __device__ inline float scaled_sum(uint32_t dot, const struct sq_codes &a, const struct sq_codes &b, int64_t i,
                                          int64_t j)
{
    const double za = (double)a.zero[i], zb = (double)b.zero[j];
    const double sum = (double)dot - zb * (double)a.sum[i] - za * (double)b.sum[j] + (double)a.cols * za * zb;
    return (float)(sum * ((double)a.scale[i] * (double)b.scale[j]));
}

/* grid (n / 64, m / 64) */
static __global__ void __launch_bounds__(THREADS)
    codes_tiles(float *y, int64_t ldy, const float *base, struct sq_codes a, struct sq_codes b, int64_t m, int64_t n)
{
    __shared__ uint32_t ta[TILE][WORDS + 1], tb[TILE][WORDS + 1];
    const int tx = (int)threadIdx.x % SIDE, ty = (int)threadIdx.x / SIDE;
    const int64_t i0 = (int64_t)blockIdx.y * TILE, j0 = (int64_t)blockIdx.x * TILE;
    uint32_t sum[EACH][EACH] = {};
    for (int64_t at = 0; at < a.cols; at += WORDS * 4) {
        load_codes(ta, a, m, i0, at);
        load_codes(tb, b, n, j0, at);
        __syncthreads();
        for (int w = 0; w < WORDS; w++)
            for (int i = 0; i < EACH; i++)
                for (int j = 0; j < EACH; j++)
                    sum[i][j] = __dp4a(ta[ty + i * SIDE][w], tb[tx + j * SIDE][w], sum[i][j]);
        __syncthreads();
    }
    for (int i = 0; i < EACH; i++)
        for (int j = 0; j < EACH; j++) {
            const int64_t r = i0 + ty + i * SIDE, c = j0 + tx + j * SIDE;
            if (r >= m || c >= n)
                continue;
            const float v = scaled_sum(sum[i][j], a, b, r, c);
            y[r * ldy + c] = base ? base[r * ldy + c] + v : v;
        }
}

void sq_gemm_codes_cuda(struct sq_gpu *g, float *y, int64_t ldy, const float *base, const struct sq_codes *a,
                        const struct sq_codes *b, int64_t m, int64_t n)
{
    if (a->cols != b->cols || !sq_codes_multiply(a->bits, b->bits, a->cols)) {
        gpu_fail(g, SQ_E_ARG, "gemm_codes: %lld codes of %d bits by %lld of %d", (long long)a->cols, a->bits,
                 (long long)b->cols, b->bits);
        return;
    }
    const struct sq_codes left = *a, right = *b;
    const unsigned columns = (unsigned)((n + TILE - 1) / TILE);
    for (int64_t first = 0; n > 0 && first < m; first += (int64_t)TILE * 32768) { /* a grid's y is 16 bits */
        const int64_t rows = SQ_MIN(m - first, (int64_t)TILE * 32768);
        struct sq_codes part = left;
        part.q += first * left.ld;
        part.scale += first;
        part.zero += first;
        part.sum += first;
        GPU_LAUNCH(g, codes_tiles, dim3(columns, (unsigned)((rows + TILE - 1) / TILE)), THREADS, y + first * ldy, ldy,
                   base ? base + first * ldy : nullptr, part, right, rows, n);
    }
}
