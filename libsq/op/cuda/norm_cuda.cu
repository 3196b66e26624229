/* RMSNorm and its gradient: a warp a row.
 *
 *   y = gain x r, r = 1 / sqrt(mean x^2 + eps)
 *   with h = gain dy:  dx = r h - x r^3 mean(h x),  dgain += sum over rows of dy x r
 *
 * Sums of squares are of float: a lane adds n / 32 terms, the warp 32 lanes. Bound by memory: 8 bytes an element
 * forward, 6 to bf16 (the second reading is from the caches), 12 or 16 backward, 8 more for dgain. Blocks of 128
 * threads, no shared memory. */
#include "gpu.h"

static __global__ void __launch_bounds__(GPU_ROW_BLOCK)
    rmsnorm_rows(gpu_floats y, int64_t ldy, float *rrms, const float *x, int64_t ldx, const float *gain, double eps,
                 int64_t rows, int64_t n)
{
    GPU_ROW_LOOP (t, rows) {
        const float *xt = x + t * ldx;
        float sum = 0;
        GPU_LANE_LOOP (i, n)
            sum = fmaf(xt[i], xt[i], sum);
        const float r = (float)(1 / sqrt((double)warp_sum(sum) / (double)n + eps));
        GPU_LANE_LOOP (i, n)
            y.set(t * ldy + i, gain[i] * xt[i] * r);
        if (threadIdx.x % GPU_LANES == 0)
            rrms[t] = r;
    }
}

static __global__ void __launch_bounds__(GPU_ROW_BLOCK)
    rmsnorm_grad_rows(float *dx, int64_t lddx, bool add, const float *dy, int64_t lddy, const float *x, int64_t ldx,
                      const float *rrms, const float *gain, int64_t rows, int64_t n)
{
    GPU_ROW_LOOP (t, rows) {
        const float *xt = x + t * ldx, *dyt = dy + t * lddy, r = rrms[t];
        float *out = dx + t * lddx;
        float dot = 0;
        GPU_LANE_LOOP (i, n)
            dot = fmaf(gain[i] * dyt[i], xt[i], dot);
        const double rr = (double)r;
        const float f = (float)(rr * rr * rr * (double)warp_sum(dot) / (double)n);
        GPU_LANE_LOOP (i, n) {
            const float d = fmaf(r * gain[i], dyt[i], -f * xt[i]);
            out[i] = add ? out[i] + d : d;
        }
    }
}

struct gain_terms {
    const float *dy, *x, *rrms;
    int64_t lddy, ldx;
    enum { wide = 1 };
    __device__ void operator()(float *sum, int64_t t, int64_t i) const
    {
        *sum = fmaf(dy[t * lddy + i] * x[t * ldx + i], rrms[t], *sum);
    }
};

void sq_rmsnorm_cuda(struct sq_gpu *g, struct sq_floats y, int64_t ldy, float *rrms, const float *x, int64_t ldx,
                     const float *gain, double eps, int64_t rows, int64_t n)
{
    const gpu_floats to = gpu_floats_of(y);
    if (rows > 0)
        GPU_LAUNCH(g, rmsnorm_rows, gpu_row_blocks(rows), GPU_ROW_BLOCK, to, ldy, rrms, x, ldx, gain, eps, rows, n);
}

void sq_rmsnorm_grad_cuda(struct sq_gpu *g, float *dx, int64_t lddx, bool add, float *dgain, const float *dy,
                          int64_t lddy, const float *x, int64_t ldx, const float *rrms, const float *gain, int64_t rows,
                          int64_t n)
{
    if (dgain) /* first, as dx may be dy */
        gpu_column_sums(g, gpu_add_to{dgain}, gain_terms{dy, x, rrms, lddy, ldx}, rows, n, "rmsnorm_grad");
    if (rows > 0)
        GPU_LAUNCH(g, rmsnorm_grad_rows, gpu_row_blocks(rows), GPU_ROW_BLOCK, dx, lddx, add, dy, lddy, x, ldx, rrms,
                   gain, rows, n);
}
