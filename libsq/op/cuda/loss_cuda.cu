/* The window's loss, and losses over a vocabulary: a warp a token, a block of 256 a row of logits; sums in double.
 *
 * loss: bound by memory, 6 to 12 bytes an element. nll, kl: by exp in double (evaluation only, once a token and word).
 */
#include "gpu.h"

/* ---- sums of a block, in the same order for all threads; whoever calls twice is past the first's reading ---- */

enum { WARPS = GPU_BLOCK / GPU_LANES };

static __device__ double block_sum(double v)
{
    __shared__ double part[WARPS];
    double sum = 0;
    v = warp_sum(v);
    if (threadIdx.x % GPU_LANES == 0)
        part[threadIdx.x / GPU_LANES] = v;
    __syncthreads();
    for (int k = 0; k < WARPS; k++)
        sum += part[k];
    __syncthreads();
    return sum;
}

/* a value and where it was found */
struct place {
    float v;
    int64_t at;
};

static __device__ inline place higher(place a, place b)
{
    return b.v > a.v || (b.v == a.v && b.at < a.at) ? b : a;
}

/* the first of equal maxima */
static __device__ place block_top(place p)
{
    __shared__ float value[WARPS];
    __shared__ int64_t at[WARPS];
    for (int o = GPU_LANES / 2; o > 0; o /= 2)
        p = higher(p, {__shfl_xor_sync(GPU_ALL, p.v, o), __shfl_xor_sync(GPU_ALL, p.at, o)});
    if (threadIdx.x % GPU_LANES == 0) {
        value[threadIdx.x / GPU_LANES] = p.v;
        at[threadIdx.x / GPU_LANES] = p.at;
    }
    __syncthreads();
    for (int k = 0; k < WARPS; k++)
        p = higher(p, {value[k], at[k]});
    __syncthreads();
    return p;
}

static __device__ place row_top(const float *x, int64_t n)
{
    place p = {-HUGE_VALF, INT64_MAX};
    for (int64_t i = threadIdx.x; i < n; i += GPU_BLOCK)
        p = higher(p, {x[i], i});
    return block_top(p);
}

static __device__ double row_log_sum(const float *x, int64_t n, double max)
{
    double sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += GPU_BLOCK)
        sum += exp((double)x[i] - max);
    return max + log(block_sum(sum));
}

static __global__ void __launch_bounds__(GPU_BLOCK)
    nll_rows(double *nll, const float *logits, const int32_t *target, int64_t rows, int64_t vocab)
{
    for (int64_t i = blockIdx.x; i < rows; i += gridDim.x) {
        const float *x = logits + i * vocab;
        const double all = row_log_sum(x, vocab, (double)row_top(x, vocab).v);
        if (threadIdx.x == 0)
            nll[i] = all - (double)x[target[i]];
    }
}

static __global__ void __launch_bounds__(GPU_BLOCK)
    kl_rows(double *kl, uint8_t *same_top, const float *logits, const float *base, int64_t rows, int64_t vocab)
{
    for (int64_t i = blockIdx.x; i < rows; i += gridDim.x) {
        const float *x = logits + i * vocab, *y = base + i * vocab;
        const place tx = row_top(x, vocab), ty = row_top(y, vocab);
        const double lx = row_log_sum(x, vocab, (double)tx.v), ly = row_log_sum(y, vocab, (double)ty.v);
        double sum = 0;
        for (int64_t j = threadIdx.x; j < vocab; j += GPU_BLOCK) {
            const double logp = (double)y[j] - ly;
            sum += exp(logp) * (logp - ((double)x[j] - lx));
        }
        sum = block_sum(sum);
        if (threadIdx.x == 0) {
            kl[i] = sum;
            same_top[i] = tx.at == ty.at;
        }
    }
}

static __global__ void __launch_bounds__(GPU_ROW_BLOCK)
    loss_tokens(double *part, float *dy, const float *y, gpu_floats target, const double *weight, int64_t tokens,
                int64_t n, double scale)
{
    GPU_ROW_LOOP (t, tokens) {
        const double slope = 2 * weight[t] * scale;
        double sum = 0;
        GPU_LANE_LOOP (j, n) {
            const double d = (double)y[t * n + j] - (double)target.at(t * n + j);
            sum += d * d;
            if (dy)
                dy[t * n + j] = (float)(slope * d);
        }
        sum = warp_sum(sum);
        if (threadIdx.x % GPU_LANES == 0)
            part[t] = weight[t] * sum;
    }
}

/* one block */
static __global__ void __launch_bounds__(GPU_BLOCK) loss_sum(double *sum, const double *part, int64_t n)
{
    double own = 0;
    for (int64_t i = threadIdx.x; i < n; i += GPU_BLOCK)
        own += part[i];
    own = block_sum(own);
    if (threadIdx.x == 0)
        *sum += own;
}

static __global__ void __launch_bounds__(GPU_BLOCK) odd_parts(double *part, const float *x, int64_t n)
{
    double own = 0;
    GPU_LOOP (i, n)
        own += (__float_as_uint(x[i]) & 0x7f800000u) == 0x7f800000u;
    own = block_sum(own);
    if (threadIdx.x == 0)
        part[blockIdx.x] = own;
}

static unsigned row_grid(int64_t rows)
{
    return (unsigned)SQ_MIN(rows, (int64_t)GPU_GRID);
}

void sq_nll_cuda(struct sq_gpu *g, double *nll, const float *logits, const int32_t *target, int64_t rows, int64_t vocab)
{
    if (rows > 0)
        GPU_LAUNCH(g, nll_rows, row_grid(rows), GPU_BLOCK, nll, logits, target, rows, vocab);
}

void sq_kl_cuda(struct sq_gpu *g, double *kl, uint8_t *same_top, const float *logits, const float *base, int64_t rows,
                int64_t vocab)
{
    if (rows > 0)
        GPU_LAUNCH(g, kl_rows, row_grid(rows), GPU_BLOCK, kl, same_top, logits, base, rows, vocab);
}

void sq_loss_cuda(struct sq_gpu *g, double *sum, float *dy, const float *y, const void *target, enum sq_dtype type,
                  const double *weight, int64_t tokens, int64_t hidden, double scale)
{
    double *part = static_cast<double *>(gpu_space(g, (size_t)SQ_MAX(tokens, 0) * sizeof *part, "loss"));
    const gpu_floats to = gpu_floats_of(target, type);
    if (tokens <= 0)
        return;
    GPU_LAUNCH(g, loss_tokens, gpu_row_blocks(tokens), GPU_ROW_BLOCK, part, dy, y, to, weight, tokens, hidden, scale);
    GPU_LAUNCH(g, loss_sum, 1, GPU_BLOCK, sum, part, tokens);
}

void sq_not_finite_cuda(struct sq_gpu *g, double *count, const float *x, int64_t n)
{
    const unsigned blocks = SQ_MIN(gpu_blocks(n), (unsigned)SQ_GPU_COUNT_SPACE / (unsigned)sizeof(double));
    if (n <= 0)
        return;
    double *part = static_cast<double *>(gpu_space(g, blocks * sizeof *part, "not_finite"));
    GPU_LAUNCH(g, odd_parts, blocks, GPU_BLOCK, part, x, n);
    GPU_LAUNCH(g, loss_sum, 1, GPU_BLOCK, count, part, (int64_t)blocks);
}
