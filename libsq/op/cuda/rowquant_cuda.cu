/* Row quantizers (docs/method.md 1): a warp a group, whether the group is 32 weights, a head's 128 or a row's 11008.
 *
 *   y, dz    bound by memory: 8 bytes an element forward, 6 to bf16, 12 backward; a row of 44 kB comes from L2 the second time
 *   codes    5 bytes an element
 *   search   by arithmetic: some 600 pairs of factors a group, a rounding and a division per element and
 *            pair; a block a group, a thread a pair and a chunk of 256 channels (neighbours read the same
 *            channel), no result leaves the device but the factors
 *
 * Blocks of 128 threads: four groups, no shared memory, no barrier; but in the search. */
#include "rowquant_warp.h"

#include "../rowquant_search.h"

static_assert((int)RQ_ROUND <= (int)GPU_ROW_BLOCK, "a round has a thread for every pair");

struct plain_row {
    enum { EACH = 1 };
    const float *z;
    __device__ gpu_few<1> operator()(int64_t j) const
    {
        return {{z[j]}};
    }
};

struct plain_rows {
    const float *z;
    int64_t cols;
    __device__ plain_row row(int64_t i) const
    {
        return {z + i * cols};
    }
};

struct floats_row {
    enum { EACH = 1 };
    gpu_floats z;
    int64_t at;
    __device__ gpu_few<1> operator()(int64_t j) const
    {
        return z.few<1>(at + j);
    }
};

struct floats_rows {
    gpu_floats z;
    int64_t cols;
    __device__ floats_row row(int64_t i) const
    {
        return {z, i * cols};
    }
};

struct into_rows {
    gpu_floats y;
    int64_t cols;
    __device__ void operator()(int64_t row, int64_t j, gpu_few<1> v) const
    {
        y.put(row * cols + j, v);
    }
};

struct nowhere {
    template <class V> __device__ void operator()(int64_t, int64_t, const V &) const
    {
    }
};

static __global__ void __launch_bounds__(GPU_ROW_BLOCK) rowquant_groups(gpu_floats y, const float *z, warp_rows r)
{
    const plain_rows from = {z, r.cols};
    GPU_ROW_LOOP (i, r.rows * r.groups)
        warp_round(r, i, from, warp_ends_of(r, i, from), into_rows{y, r.cols}, nowhere{});
}

static __global__ void __launch_bounds__(GPU_ROW_BLOCK)
    rowquant_grad_groups(float *dz, float *du, float *dl, const float *dy, const float *z, warp_rows r)
{
    const plain_rows from = {z, r.cols};
    GPU_ROW_LOOP (i, r.rows * r.groups)
        warp_unround(r, i, from, warp_ends_of(r, i, from), dz, du, dl, dy, [](int64_t, gpu_few<1>) {});
}

static __global__ void __launch_bounds__(GPU_ROW_BLOCK)
    rowquant_encode_rows(struct sq_codes to, const float *z, warp_rows r)
{
    const plain_rows from = {z, r.cols};
    GPU_ROW_LOOP (i, r.rows) {
        int32_t sum = 0;
        const auto code = [&](int64_t row, int64_t j, float whole) {
            to.q[row * to.ld + j] = (uint8_t)whole;
            sum += (int32_t)whole;
        };
        const rq_grid g = warp_round(r, i, from, warp_ends_of(r, i, from), nowhere{}, code);
        sum = warp_sum(sum);
        if (threadIdx.x % GPU_LANES == 0) {
            to.scale[i] = g.s;
            to.zero[i] = g.zp - rq_low(&r.p);
            to.sum[i] = sum;
        }
    }
}

/* The error of a pair of this round, in thread k that of pair k: the block's threads take a pair and every chunks-th
 * chunk of it, parts [threads] are added in double in order. */
static __device__ double pair_error(float *part, const struct rq_search &s, const struct rq_lattice &t,
                                    const gpu_floats &z, int64_t at, const float *weight, int64_t n, float max,
                                    float min, const struct sq_rowq &p)
{
    const int pairs = s.n, chunks = GPU_ROW_BLOCK / pairs, me = (int)threadIdx.x, chunk = me / pairs;
    const rq_try x = rq_search_try(&s, me % pairs);
    const rq_grid g = rq_try_grid(&x, &t, max, min, &p);
    const float low = rq_low(&p), high = rq_high(&p);
    double sum = 0;
    for (int64_t first = 0; first < n; first += (int64_t)chunks * RQ_ERROR_CHUNK) {
        const int64_t begin = first + (int64_t)chunk * RQ_ERROR_CHUNK,
                      end = chunk < chunks ? SQ_MIN(n, begin + RQ_ERROR_CHUNK) : begin;
        float own = 0;
        for (int64_t j = begin; j < end; j++) {
            const float v = z.at(at + j), e = v - warp_value_of(v, g, low, high).rounded;
            own += weight ? e * e * weight[j] : e * e;
        }
        if (first > 0)
            __syncthreads();
        part[me] = own;
        __syncthreads();
        for (int k = 0; me < pairs && k < chunks && first + (int64_t)k * RQ_ERROR_CHUNK < n; k++)
            sum += (double)part[k * pairs + me];
    }
    return sum;
}

/* a block a group: its first thread says which pairs come next, all find their errors; shared: the search, an error for
 * each pair, a part for each thread */
static __global__ void __launch_bounds__(GPU_ROW_BLOCK)
    rowquant_search_groups(float *u, float *l, gpu_floats z, const float *weight, warp_rows r, struct rq_lattice t)
{
    __shared__ struct rq_search s;
    __shared__ double err[RQ_ROUND];
    __shared__ float part[GPU_ROW_BLOCK];
    for (int64_t i = blockIdx.x; i < r.rows * r.groups; i += gridDim.x) {
        const warp_group w = warp_group_of(r, i);
        const int64_t at = w.row * r.cols + w.first;
        const float *own = weight ? weight + w.first : nullptr;
        const warp_ends whole = warp_ends_of(r, i, floats_rows{z, r.cols});
        if (threadIdx.x == 0) {
            rq_search_init(&s, r.p.sym);
            rq_search_next(&s);
        }
        __syncthreads();
        while (s.n > 0) {
            const double e = pair_error(part, s, t, z, at, own, w.n, whole.max, whole.min, r.p);
            if ((int)threadIdx.x < s.n)
                err[threadIdx.x] = e;
            __syncthreads();
            if (threadIdx.x == 0) {
                rq_search_take(&s, err);
                rq_search_next(&s);
            }
            __syncthreads();
        }
        if (threadIdx.x == 0) {
            u[i] = t.u[s.best.hi];
            l[i] = t.u[s.best.lo];
        }
        __syncthreads();
    }
}

void sq_rowquant_cuda(struct sq_gpu *g, struct sq_floats y, const float *z, const struct sq_rowq *p, const float *u,
                      const float *l, int64_t rows, int64_t cols)
{
    const gpu_floats to = gpu_floats_of(y);
    const warp_rows r = warp_rows_of(p, u, l, rows, cols);
    if (rows > 0 && cols > 0)
        GPU_LAUNCH(g, rowquant_groups, gpu_row_blocks(rows * r.groups), GPU_ROW_BLOCK, to, z, r);
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

void sq_rowquant_search_cuda(struct sq_gpu *g, float *u, float *l, const void *z, enum sq_dtype type,
                             const float *weight, const struct sq_rowq *p, int64_t rows, int64_t cols)
{
    const warp_rows r = warp_rows_of(p, nullptr, nullptr, rows, cols);
    const gpu_floats from = gpu_floats_of(z, type);
    struct rq_lattice t;
    rq_lattice_init(&t);
    const unsigned blocks = (unsigned)SQ_MIN(rows * r.groups, (int64_t)GPU_GRID);
    if (rows > 0 && cols > 0)
        GPU_LAUNCH(g, rowquant_search_groups, blocks, GPU_ROW_BLOCK, u, l, from, weight, r, t);
}
