// Kernels with a planted fault, for tests/cli/sq-gpucheck.bats: simt_faults NAME runs one in the emulator.
// Sums of blocks of 64 numbers; right without a fault: "good" says so.
#include "../../libsq/op/cuda/simt_tensor.h"

#include <stdio.h>
#include <stdlib.h>

enum { N = 64, LANES = 32 };
#define ALL 0xffffffffu

static __device__ float warp_sum(float v, uint32_t mask)
{
    for (int o = LANES / 2; o > 0; o /= 2)
        v += __shfl_xor_sync(mask, v, o);
    return v;
}

/* y[block] = the sum of x; skip_barrier: the fault */
static __device__ void block_sum(float *y, const float *x, float *part, bool skip_barrier)
{
    const int t = (int)threadIdx.x;
    const float v = warp_sum(x[blockIdx.x * N + t], ALL);
    if (t % LANES == 0)
        part[t / LANES] = v;
    if (!skip_barrier)
        __syncthreads();
    if (t == 0)
        y[blockIdx.x] = part[0] + part[1];
}

static __global__ void good(float *y, const float *x)
{
    __shared__ float part[N / LANES];
    block_sum(y, x, part, false);
}

static __global__ void dynamic(float *y, const float *x)
{
    SIMT_DYNAMIC(float, part);
    block_sum(y, x, part, false);
}

static __global__ void no_barrier(float *y, const float *x)
{
    __shared__ float part[N / LANES];
    block_sum(y, x, part, true);
}

/* a neighbour's shared value read before all have written: right in the order 0, 1, 2 ... */
static __global__ void order(float *y, const float *x)
{
    __shared__ float part[N];
    const int t = (int)threadIdx.x;
    part[t] = x[blockIdx.x * N + t] + (t > 0 ? part[t - 1] : 0);
    if (t == N - 1)
        y[blockIdx.x] = part[t];
}

static __global__ void off_by_one(float *y, const float *x)
{
    __shared__ float part[N / LANES];
    block_sum(y, x, part, false);
    if (threadIdx.x == 0 && blockIdx.x + 1 == gridDim.x)
        y[blockIdx.x + 1] = 0;
}

static __global__ void poison(float *y, const float *x)
{
    __shared__ float part[N];
    if (threadIdx.x < N - 1)
        part[threadIdx.x] = x[blockIdx.x * N + threadIdx.x];
    __syncthreads();
    if (threadIdx.x == 0) {
        float sum = 0;
        for (int i = 0; i < N; i++)
            sum += part[i];
        y[blockIdx.x] = sum;
    }
}

static __global__ void divergent(float *y, const float *)
{
    if (threadIdx.x < 40)
        __syncthreads();
    else
        y[blockIdx.x] = 1;
    if (threadIdx.x >= 40)
        __syncthreads();
}

static __global__ void leaves(float *, const float *)
{
    if (threadIdx.x < 40)
        return;
    __syncthreads();
}

static __global__ void not_in_mask(float *y, const float *x)
{
    y[blockIdx.x] = warp_sum(x[threadIdx.x], 0xffffu);
}

static __global__ void names_absent(float *y, const float *x)
{
    if (threadIdx.x % LANES < 16)
        y[blockIdx.x] = warp_sum(x[threadIdx.x], ALL);
    __syncthreads();
}

static __global__ void two_operations(float *y, const float *x)
{
    float v = x[threadIdx.x];
    if (threadIdx.x % 2)
        v = __shfl_xor_sync(ALL, v, 1);
    else
        v = __shfl_down_sync(ALL, v, 1);
    y[blockIdx.x] = v;
}

/* ---- products of a warp ---- */

namespace wmma = nvcuda::wmma;

enum fault {
    NONE,
    LEADS_WRONG,   /* to rows that lie elsewhere */
    LEADS_NOWHERE, /* no multiple of 16 bytes */
    ANY_ADDRESS,
    LOADS_ANOTHER, /* one lane */
    SKIPS_PRODUCT, /* one lane */
    SKIPS_ALL,     /* one lane */
    NOT_ROUNDED,
    READS_REST, /* of what is rounded, bits that tf32 has not */
    NOT_FILLED,
    PEEKS, /* knows what lane 0 holds first: right without a seed */
    NO_BARRIER,
    NOT_SHARED, /* one row */
};

struct alignas(32) summing {
    enum { DEEP = 8, FIRST = 0 };
    float x[16][12], ones[DEEP][20], sum[16][20];
};

static __device__ void sum_rows(summing &m, int fault)
{
    const unsigned ld = 12;
    const bool odd = threadIdx.x == 5;
    wmma::fragment<wmma::matrix_a, 16, 16, 8, wmma::precision::tf32, wmma::row_major> a;
    wmma::fragment<wmma::matrix_b, 16, 16, 8, wmma::precision::tf32, wmma::row_major> b;
    wmma::fragment<wmma::accumulator, 16, 16, 8, float> c;
    if (fault == SKIPS_ALL && odd)
        return;
    wmma::load_matrix_sync(a, &m.x[fault == LOADS_ANOTHER && odd ? 8 : 0][fault == ANY_ADDRESS ? 4 : 0],
                           fault == LEADS_WRONG ? ld + 4 : ld + (fault == LEADS_NOWHERE));
    wmma::load_matrix_sync(b, &m.ones[0][0], 20);
    for (float &v : a.x)
        v = wmma::__float_to_tf32(v);
    if (fault == NOT_ROUNDED)
        a.x[0] = 1.0f / 3;
    for (float &v : b.x)
        v = wmma::__float_to_tf32(v);
    if (fault != NOT_FILLED)
        wmma::fill_fragment(c, fault == READS_REST ? (float)b.x[0] - 1 : 0);
    if (fault != SKIPS_PRODUCT || !odd)
        wmma::mma_sync(c, a, b, c);
    wmma::store_matrix_sync(&m.sum[0][0], c, 20, wmma::mem_row_major);
    __syncwarp();
    if (fault == PEEKS && threadIdx.x == 0)
        m.sum[0][0] = c.x[0];
}

/* in bf16 */
struct alignas(16) summing16 {
    enum { DEEP = 16, FIRST = 16 * DEEP - N }; /* of x: in rows that the lane which comes last reads, too */
    __nv_bfloat16 x[16][24], ones[DEEP][24];
    float sum[16][20];
};

static __device__ void sum_rows(summing16 &m, int fault)
{
    const int t = (int)threadIdx.x;
    const bool odd = t == 5;
    alignas(16) uint32_t a[4];
    uint32_t b[4];
    float c[4] = {};
    if (fault == SKIPS_ALL && odd)
        return;
    const void *row = &m.x[fault == LOADS_ANOTHER && odd ? 15 : t % 16][t / 16 * 8 + (fault == ANY_ADDRESS)];
    mma_load<false>(a, fault == NOT_SHARED && odd ? a : row);
    mma_load<true>(b, &m.ones[t % 16][t / 16 * 8]);
    if (fault != SKIPS_PRODUCT || !odd)
        mma_add(c, a, b);
    for (int e = 0; e < 4; e++)
        m.sum[t / 4 + e / 2 * 8][t % 4 * 2 + e % 2] = c[e];
}

static __device__ summing &shared_summing(summing *)
{
    __shared__ summing m;
    return m;
}

static __device__ summing16 &shared_summing(summing16 *)
{
    __shared__ summing16 m;
    return m;
}

/* y[block] = the sum of x, as that of the rows of a matrix by a vector of ones */
template <int FAULT, class SUMMING = summing> static __global__ void product(float *y, const float *x)
{
    SUMMING &m = shared_summing(static_cast<SUMMING *>(nullptr));
    const int t = (int)threadIdx.x, deep = SUMMING::DEEP, first = SUMMING::FIRST;
    for (int i = t; i < 16 * deep; i += N)
        m.x[i / deep][i % deep] = i >= first && i < first + N ? x[blockIdx.x * N + i - first] : 0;
    for (int i = t; i < 16 * deep; i += N)
        m.ones[i / 16][i % 16] = 1;
    if (FAULT != NO_BARRIER)
        __syncthreads();
    if (t < LANES)
        sum_rows(m, FAULT);
    __syncthreads();
    if (t == 0) {
        float sum = 0;
        for (int i = 0; i < 16; i++)
            sum += m.sum[i][0];
        y[blockIdx.x] = sum;
    }
}

#define BF16(name, fault) {name "_bf16", product<fault, summing16>}

static const struct {
    const char *name;
    void (*kernel)(float *, const float *);
} kernels[] = {{"good", good},
               {"dynamic", dynamic},
               {"no_barrier", no_barrier},
               {"order", order},
               {"off_by_one", off_by_one},
               {"poison", poison},
               {"divergent", divergent},
               {"leaves", leaves},
               {"not_in_mask", not_in_mask},
               {"names_absent", names_absent},
               {"two_operations", two_operations},
               {"product", product<NONE>},
               {"leads_wrong", product<LEADS_WRONG>},
               {"leads_nowhere", product<LEADS_NOWHERE>},
               {"any_address", product<ANY_ADDRESS>},
               {"loads_another", product<LOADS_ANOTHER>},
               {"skips_product", product<SKIPS_PRODUCT>},
               {"skips_all", product<SKIPS_ALL>},
               {"not_rounded", product<NOT_ROUNDED>},
               {"reads_rest", product<READS_REST>},
               {"not_filled", product<NOT_FILLED>},
               {"peeks", product<PEEKS>},
               BF16("product", NONE),
               BF16("any_address", ANY_ADDRESS),
               BF16("loads_another", LOADS_ANOTHER),
               BF16("skips_product", SKIPS_PRODUCT),
               BF16("skips_all", SKIPS_ALL),
               BF16("no_barrier", NO_BARRIER),
               BF16("not_shared", NOT_SHARED)};

int main(int argc, char **argv)
{
    const int BLOCKS = 3;
    for (const auto &k : kernels) {
        if (argc != 2 || strcmp(k.name, argv[1]) != 0)
            continue;
        float *x = static_cast<float *>(malloc(BLOCKS * N * sizeof *x));
        float *last = static_cast<float *>(malloc(BLOCKS * sizeof *last));
        for (int i = 0; i < BLOCKS * N; i++)
            x[i] = (float)(i % 17);
        SIMT_LAUNCH(k.kernel, dim3(BLOCKS), dim3(N), 2 * sizeof(float), 0, last, x);
        int wrong = 0;
        for (int b = 0; b < BLOCKS; b++) {
            float sum = 0;
            for (int i = 0; i < N; i++)
                sum += x[b * N + i];
            wrong += !(last[b] == sum);
        }
        printf("%d of %d blocks are wrong\n", wrong, BLOCKS);
        free(x), free(last);
        return wrong > 0;
    }
    fprintf(stderr, "usage: simt_faults NAME\n");
    return 2;
}
