/* Row quantizers (METHOD 1): a warp a group, whether the group is 32 weights, a head's 128 or a row's 11008.
 *
 *   y, dz    bound by memory: 8 bytes an element forward, 12 backward; a row of 44 kB comes from L2 the second time
 *   codes    5 bytes an element
 *   error    by arithmetic: two roundings and a division per element and try; a thread a chunk of 256 channels and try,
 * as the reference adds a chunk in float and chunks in double, both in order
 *
 * Blocks of 128 threads (four groups), no shared memory, no barrier. */
#include "rowquant_warp.h"

struct plain_rows {
    const float *z;
    int64_t cols;
    __device__ float operator()(int64_t row, int64_t j) const
    {
        return z[row * cols + j];
    }
};

struct into_rows {
    float *y;
    int64_t cols;
    __device__ void operator()(int64_t row, int64_t j, float v) const
    {
        y[row * cols + j] = v;
    }
};

struct nowhere {
    __device__ void operator()(int64_t, int64_t, float) const
    {
    }
};

static __global__ void __launch_bounds__(GPU_ROW_BLOCK) rowquant_groups(float *y, const float *z, warp_rows r)
{
    GPU_ROW_LOOP (i, r.rows * r.groups)
        warp_round(r, i, plain_rows{z, r.cols}, into_rows{y, r.cols}, nowhere{});
}

static __global__ void __launch_bounds__(GPU_ROW_BLOCK)
    rowquant_grad_groups(float *dz, float *du, float *dl, const float *dy, const float *z, warp_rows r)
{
    GPU_ROW_LOOP (i, r.rows * r.groups)
        warp_unround(r, i, plain_rows{z, r.cols}, dz, du, dl, dy);
}

static __global__ void __launch_bounds__(GPU_ROW_BLOCK)
    rowquant_encode_rows(struct sq_codes to, const float *z, warp_rows r)
{
    GPU_ROW_LOOP (i, r.rows) {
        int32_t sum = 0;
        const auto code = [&](int64_t row, int64_t j, float whole) {
            to.q[row * to.ld + j] = (uint8_t)whole;
            sum += (int32_t)whole;
        };
        const rq_grid g = warp_round(r, i, plain_rows{z, r.cols}, nowhere{}, code);
        sum = warp_sum(sum);
        if (threadIdx.x % GPU_LANES == 0) {
            to.scale[i] = g.s;
            to.zero[i] = g.zp - rq_low(&r.p);
            to.sum[i] = sum;
        }
    }
}

/* err [rows, tries]: a block a pair, a thread a chunk; shared: a part for each thread */
static __global__ void __launch_bounds__(GPU_ROW_BLOCK)
    rowquant_errors(double *err, const float *z, const float *weight, struct sq_rowq p, const float *scale,
                    const float *zero, int64_t tries, int64_t n)
{
    __shared__ float part[GPU_ROW_BLOCK];
    const int64_t at = (int64_t)blockIdx.y * tries + blockIdx.x;
    const float s = scale[at], zp = zero[at], low = rq_low(&p), high = rq_high(&p), *x = z + blockIdx.y * n;
    double sum = 0;
    for (int64_t first = 0; first < n; first += (int64_t)GPU_ROW_BLOCK * RQ_ERROR_CHUNK) {
        const int64_t begin = first + (int64_t)threadIdx.x * RQ_ERROR_CHUNK, end = SQ_MIN(n, begin + RQ_ERROR_CHUNK);
        float own = 0;
        for (int64_t j = begin; j < end; j++) {
            const float e = x[j] - (rq_clamp(rintf(x[j] / s) + zp, low, high) - zp) * s;
            own += weight ? e * e * weight[j] : e * e;
        }
        part[threadIdx.x] = own;
        __syncthreads();
        for (int k = 0; k < GPU_ROW_BLOCK && first + (int64_t)k * RQ_ERROR_CHUNK < n; k++)
            sum += (double)part[k];
        __syncthreads();
    }
    if (threadIdx.x == 0)
        err[at] = sum;
}

void sq_rowquant_cuda(struct sq_gpu *g, float *y, const float *z, const struct sq_rowq *p, const float *u,
                      const float *l, int64_t rows, int64_t cols)
{
    const warp_rows r = warp_rows_of(p, u, l, rows, cols);
    if (rows > 0 && cols > 0)
        GPU_LAUNCH(g, rowquant_groups, gpu_row_blocks(rows * r.groups), GPU_ROW_BLOCK, y, z, r);
}

void sq_rowquant_grad_cuda(struct sq_gpu *g, float *dz, float *du, float *dl, const float *dy, const float *z,
                           const struct sq_rowq *p, const float *u, const float *l, int64_t rows, int64_t cols)
{
    const warp_rows r = warp_rows_of(p, u, l, rows, cols);
    if (rows > 0)
        GPU_LAUNCH(g, rowquant_grad_groups, gpu_row_blocks(rows * r.groups), GPU_ROW_BLOCK, dz, du, dl, dy, z, r);
}

void sq_rowquant_encode_cuda(struct sq_gpu *g, struct sq_codes *to, const float *z, const struct sq_rowq *p,
                             const float *u, const float *l, int64_t rows, int64_t cols)
{
    const warp_rows r = warp_rows_of(p, u, l, rows, cols);
    if (p->group || p->bits > 8) {
        gpu_fail(g, SQ_E_ARG, "rowquant_encode: groups of %lld, %d bits", (long long)p->group, p->bits);
        return;
    }
    to->bits = p->bits;
    to->cols = r.covered;
    const struct sq_codes host = *to;
    if (rows > 0)
        GPU_LAUNCH(g, rowquant_encode_rows, gpu_row_blocks(rows), GPU_ROW_BLOCK, host, z, r);
}

void sq_rowquant_error_cuda(struct sq_gpu *g, double *err, const float *z, const float *weight, const struct sq_rowq *p,
                            const float *scale, const float *zero, int64_t rows, int64_t tries, int64_t n)
{
    const struct sq_rowq q = *p;
    for (int64_t first = 0; tries > 0 && first < rows; first += UINT16_MAX) {
        const int64_t some = SQ_MIN(rows - first, UINT16_MAX), at = first * tries;
        GPU_LAUNCH(g, rowquant_errors, dim3((unsigned)tries, (unsigned)some), GPU_ROW_BLOCK, err + at, z + first * n,
                   weight, q, scale + at, zero + at, tries, n);
    }
}
