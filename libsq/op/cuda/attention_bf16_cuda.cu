/* Causal attention with operands in bf16, on tensor cores from sm_80 on, for heads of up to 128 channels; formulas are
 * those of attention_cuda.cu.
 *
 * A block has 64 rows, queries or, for dk and dv, keys; a warp 16 of them, whole. It goes over the others, 32 at a time,
 * which lie in shared memory. Scores, probabilities and what is summed stay in registers: sums of one product, rounded,
 * are the left operand of the next (simt_tensor.h).
 *
 * Operands are rounded once, on their way to registers or shared memory. Those of scores, which stand in an exponent that
 * a large bias of the keys must not blur, and of what becomes out, dq and dk are two numbers, x = high + low + e, |e| <=
 * 2^-17 |x|, and only low low is left out of a product: within 2^-15 at worst, 70 U (2^-24) as root mean square. Codes of
 * few bits and the choice of experts follow out, and dq and dk have parts that cancel. Those of dout v' and dv are one.
 * Tensor cores add to the sums themselves and truncate: 0.4 U for each addition of eight, 20 U of scores of 128 channels,
 * 320 U of 2048 keys, always towards zero, a hundredth of what bf16 takes from it behind.
 *
 * Bound by shared memory. For a tile of 64 x 64 and 128 channels, forward and backward, 5,376 products of 16 x 8 x 16 and
 * 2,112 loads of four 8 x 8, at 4 clocks 8,448; docs/cuda.md has the rest. Up to 255 registers a thread, so two blocks of
 * 128 threads a processor; 26 to 79 kB of shared memory. Sums have the order that the shape says. */
#include "attention.h"
#include "simt_tensor.h"

enum { ROWS = 64, WARP_ROWS = 16, THREADS = ROWS / WARP_ROWS * (int)GPU_LANES, STEP = 32, FRAG = 16, SUM = 8 };
static constexpr int AT_ONCE = 4; /* sums that a left operand goes to in turn: a product waits long for the one before */

/* Of a warp's 16 rows a thread has row_of(0) and row_of(1), of 8 columns column_of() and the next. */
static __device__ inline int warp_first()
{
    return (int)threadIdx.x / GPU_LANES * WARP_ROWS;
}

static __device__ inline int row_of(int half)
{
    return warp_first() + (int)threadIdx.x % GPU_LANES / 4 + half * SUM;
}

static __device__ inline int column_of()
{
    return (int)threadIdx.x % 4 * 2;
}

/* A row of a tile lies with four neighbours. */
static __device__ inline float row_max(float v)
{
    v = fmaxf(v, __shfl_xor_sync(GPU_ALL, v, 1));
    return fmaxf(v, __shfl_xor_sync(GPU_ALL, v, 2));
}

static __device__ inline float row_sum(float v)
{
    v += __shfl_xor_sync(GPU_ALL, v, 1);
    return v + __shfl_xor_sync(GPU_ALL, v, 2);
}

/* ---- operands ---- */

/* Two neighbours in bf16, and what that leaves of them. */
struct pair {
    uint32_t part[2];
};

static __device__ inline uint32_t word_of(__nv_bfloat162 v)
{
    uint32_t word;
    memcpy(&word, &v, sizeof word);
    return word;
}

static __device__ inline pair round_pair(float x, float y)
{
    const __nv_bfloat162 high = __floats2bfloat162_rn(x, y);
    return {{word_of(high), word_of(__floats2bfloat162_rn(x - (float)high.x, y - (float)high.y))}};
}

/* Four neighbours in bf16. */
struct alignas(8) two_words {
    uint32_t left, right;
};

struct alignas(16) four {
    float v[4];
};

/* Channels c ... c + 3 of row r, zeros where there are none. */
static __device__ inline four four_of(const head_rows &from, int r, int c, int64_t dim)
{
    const float *x = from.x + r * from.stride + c;
    four f = {};
    if (r < from.rows && c + 4 <= dim && (uintptr_t)x % sizeof f == 0)
        return *reinterpret_cast<const four *>(x);
    for (int k = 0; k < 4; k++)
        if (r < from.rows && c + k < dim)
            f.v[k] = x[k];
    return f;
}

/* COUNT rows in shared memory. Rows lie 4 banks apart, so eight pieces of 16 bytes, one of each, are in different ones. */
template <int DIM, int COUNT, bool TWO> struct alignas(16) tile_rows {
    static constexpr int PARTS = 1 + TWO, WIDTH = DIM, FOURS = DIM / 4, TURN = THREADS / FOURS;
    two_words part[PARTS][COUNT][DIM / 4 + 2];

    __device__ void load(const head_rows &from, int64_t dim)
    {
        const int c = (int)threadIdx.x % FOURS * 4, first = (int)threadIdx.x / FOURS;
        four x[COUNT / TURN]; /* all on their way before the first is waited for */
        SIMT_UNROLL
        for (int n = 0; n < COUNT / TURN; n++)
            x[n] = four_of(from, first + n * TURN, c, dim);
        SIMT_UNROLL
        for (int n = 0; n < COUNT / TURN; n++) {
            const pair left = round_pair(x[n].v[0], x[n].v[1]), right = round_pair(x[n].v[2], x[n].v[3]);
            for (int p = 0; p < PARTS; p++)
                part[p][first + n * TURN][c / 4] = {left.part[p], right.part[p]};
        }
    }

    /* The warp's rows as left operand: FRAG channels from c on. */
    __device__ void left(uint32_t (&a)[4], int p, int c) const
    {
        const int l = (int)threadIdx.x % GPU_LANES;
        mma_load<false>(a, &part[p][warp_first() + l % 16][c / 4 + l / 16 * 2]);
    }

    /* FRAG rows from r on as columns of two right operands, of channels c ... */
    __device__ void columns(uint32_t (&b)[4], int p, int r, int c) const
    {
        const int l = (int)threadIdx.x % GPU_LANES;
        mma_load<false>(b, &part[p][r + l / 16 * 8 + l % 8][c / 4 + l / 8 % 2 * 2]);
    }

    /* FRAG rows from r on as rows of two right operands, whose columns are channels c ... */
    __device__ void rows(uint32_t (&b)[4], int p, int r, int c) const
    {
        const int l = (int)threadIdx.x % GPU_LANES;
        mma_load<true>(b, &part[p][r + l % 16][c / 4 + l / 16 * 2]);
    }
};

/* A warp's rows as left operands in registers. */
template <int DIM, bool TWO> struct kept_rows {
    static constexpr int PARTS = 1 + TWO;
    uint32_t part[PARTS][DIM / FRAG][4];

    __device__ void load(const head_rows &from, int64_t dim)
    {
        SIMT_UNROLL
        for (int e = 0; e < DIM / FRAG * 4; e++) {
            const int r = row_of(e % 2), c = e / 4 * FRAG + e / 2 % 2 * SUM + column_of();
            const float *x = from.x + r * from.stride + c;
            const bool there = r < from.rows;
            const pair v = round_pair(there && c < dim ? x[0] : 0, there && c + 1 < dim ? x[1] : 0);
            for (int p = 0; p < PARTS; p++)
                part[p][e / 4][e % 4] = v.part[p];
        }
    }

    __device__ void left(uint32_t (&a)[4], int p, int c) const
    {
        for (int e = 0; e < 4; e++)
            a[e] = part[p][c / FRAG][e];
    }
};

/* ---- products ---- */

/* AT_ONCE sums from the first on += a b; parts of b come in pairs of sums. Small products first. */
template <int PARTS, int N>
static __device__ inline void add_products(float (&sum)[N][4], int first, const uint32_t (&a)[PARTS][4],
                                           const uint32_t (&b)[PARTS][AT_ONCE / 2][4])
{
    SIMT_UNROLL
    for (int small = 2 * (PARTS - 1); small >= 0; small--)
        SIMT_UNROLL
        for (int n = 0; n < AT_ONCE; n++)
            mma_add(sum[first + n], a[small == 2], &b[small == 1][n / 2][n % 2 * 2]);
}

/* s = x y' for the warp's rows and STEP of y */
template <class LEFT, class RIGHT>
static __device__ inline void dot(float (&s)[STEP / SUM][4], const LEFT &x, const RIGHT &y)
{
    static_assert(LEFT::PARTS == RIGHT::PARTS && STEP / SUM == AT_ONCE);
    for (int n = 0; n < STEP / SUM; n++)
        for (int e = 0; e < 4; e++)
            s[n][e] = 0;
    SIMT_UNROLL
    for (int c = 0; c < RIGHT::WIDTH; c += FRAG) {
        uint32_t a[LEFT::PARTS][4], b[LEFT::PARTS][STEP / FRAG][4];
        for (int p = 0; p < LEFT::PARTS; p++) {
            x.left(a[p], p, c);
            for (int n = 0; n < STEP / FRAG; n++)
                y.columns(b[p][n], p, n * FRAG, c);
        }
        add_products(s, 0, a, b);
    }
}

/* acc += p y, p [warp's rows, STEP] in registers; of as many parts as y has */
template <int N, class RIGHT>
static __device__ inline void mix(float (&acc)[N][4], const float (&p)[STEP / SUM][4], const RIGHT &y)
{
    constexpr int PARTS = RIGHT::PARTS;
    static_assert(N * SUM == RIGHT::WIDTH);
    SIMT_UNROLL
    for (int r = 0; r < STEP; r += FRAG) {
        uint32_t a[PARTS][4];
        for (int e = 0; e < 4; e++) {
            const float *v = &p[r / SUM + e / 2][e % 2 * 2];
            const pair both = round_pair(v[0], v[1]);
            for (int k = 0; k < PARTS; k++)
                a[k][e] = both.part[k];
        }
        SIMT_UNROLL
        for (int c = 0; c < RIGHT::WIDTH; c += AT_ONCE * SUM) {
            uint32_t b[PARTS][AT_ONCE / 2][4];
            for (int k = 0; k < PARTS; k++)
                for (int n = 0; n < AT_ONCE / 2; n++)
                    y.rows(b[k][n], k, r, c + n * FRAG);
            add_products(acc, c / SUM, a, b);
        }
    }
}

/* The warp's rows of y = acc * scale[half]. */
template <int N>
static __device__ inline void put(float *y, const head_rows &shape, const float (&acc)[N][4], float scale0, float scale1,
                                  int64_t dim)
{
    SIMT_UNROLL
    for (int e = 0; e < 4 * N; e++) {
        const int r = row_of(e / 2 % 2), c = e / 4 * SUM + column_of() + e % 2;
        if (r < shape.rows && c < dim)
            y[r * shape.stride + c] = acc[e / 4][e % 4] * (e / 2 % 2 ? scale1 : scale0);
    }
}

template <int N> static __device__ inline void clear(float (&acc)[N][4])
{
    for (int n = 0; n < N; n++)
        for (int e = 0; e < 4; e++)
            acc[n][e] = 0;
}

/* ---- kernels ---- */

template <int DIM> struct forward_rows {
    tile_rows<DIM, STEP, true> k, v;
};

/* grid (tiles of queries, H, B) */
template <int DIM>
static __global__ void __launch_bounds__(THREADS, 2)
    attention_bf16_tiles(float *out, float *lse, const float *q, const float *k, const float *v, sizes z)
{
    SIMT_DYNAMIC(forward_rows<DIM>, t);
    const int64_t b = blockIdx.z, h = blockIdx.y, kvh = h / (z.heads / z.kv),
                  q0 = (int64_t)(gridDim.x - 1 - blockIdx.x) * ROWS, last = q0 + warp_first() + WARP_ROWS - 1;
    const head_rows Q = head_of(q, b, q0, h, z.heads, z, ROWS);
    kept_rows<DIM, true> mine;
    float acc[DIM / SUM][4], s[STEP / SUM][4], max[2] = {-HUGE_VALF, -HUGE_VALF}, sum[2] = {};
    mine.load(Q, z.dim);
    clear(acc);
    for (int64_t k0 = 0; k0 < q0 + Q.rows; k0 += STEP) {
        __syncthreads(); /* all have read the last ones */
        t->k.load(head_of(k, b, k0, kvh, z.kv, z, STEP), z.dim);
        t->v.load(head_of(v, b, k0, kvh, z.kv, z, STEP), z.dim);
        __syncthreads();
        if (k0 > last)
            continue;
        dot(s, mine, t->k);
        SIMT_UNROLL
        for (int half = 0; half < 2; half++) {
            float top = max[half], add = 0;
            SIMT_UNROLL
            for (int j = 0; j < STEP / SUM * 2; j++) {
                float &x = s[j / 2][half * 2 + j % 2];
                const bool seen = k0 + j / 2 * SUM + column_of() + j % 2 <= q0 + row_of(half);
                x = seen ? x * z.scale : -HUGE_VALF;
                top = fmaxf(top, x);
            }
            top = row_max(top);
            const float keep = expf(max[half] - top); /* what was summed is brought to the new maximum */
            SIMT_UNROLL
            for (int j = 0; j < STEP / SUM * 2; j++) {
                float &x = s[j / 2][half * 2 + j % 2];
                x = expf(x - top);
                add += x;
            }
            sum[half] = fmaf(sum[half], keep, row_sum(add));
            max[half] = top;
            SIMT_UNROLL
            for (int j = 0; j < DIM / SUM * 2; j++)
                acc[j / 2][half * 2 + j % 2] *= keep;
        }
        mix(acc, s, t->v);
    }
    for (int half = 0; half < 2; half++)
        if (column_of() == 0 && row_of(half) < Q.rows)
            lse[(b * z.heads + h) * z.tokens + q0 + row_of(half)] = max[half] + logf(sum[half]);
    put(out + (Q.x - q), Q, acc, 1 / sum[0], 1 / sum[1], z.dim);
}

template <int DIM> struct dq_rows {
    tile_rows<DIM, STEP, true> k;
    tile_rows<DIM, STEP, false> v;
};

/* grid (tiles of queries, H, B) */
template <int DIM>
static __global__ void __launch_bounds__(THREADS, 2)
    attention_bf16_dq(float *dq, const float *dout, const float *lse, const float *delta, const float *q,
                      const float *k, const float *v, sizes z)
{
    SIMT_DYNAMIC(dq_rows<DIM>, t);
    const int64_t b = blockIdx.z, h = blockIdx.y, kvh = h / (z.heads / z.kv),
                  q0 = (int64_t)(gridDim.x - 1 - blockIdx.x) * ROWS, last = q0 + warp_first() + WARP_ROWS - 1;
    const head_rows Q = head_of(q, b, q0, h, z.heads, z, ROWS);
    kept_rows<DIM, true> mine;
    kept_rows<DIM, false> mine_out;
    float acc[DIM / SUM][4], s[STEP / SUM][4], d[STEP / SUM][4], top[2], mean[2];
    mine.load(Q, z.dim);
    mine_out.load(head_of(dout, b, q0, h, z.heads, z, ROWS), z.dim);
    clear(acc);
    for (int half = 0; half < 2; half++) {
        const int64_t at = (b * z.heads + h) * z.tokens + q0 + row_of(half);
        const bool there = row_of(half) < Q.rows;
        top[half] = there ? lse[at] : 0;
        mean[half] = there ? delta[at] : 0;
    }
    for (int64_t k0 = 0; k0 < q0 + Q.rows; k0 += STEP) {
        __syncthreads();
        t->k.load(head_of(k, b, k0, kvh, z.kv, z, STEP), z.dim);
        t->v.load(head_of(v, b, k0, kvh, z.kv, z, STEP), z.dim);
        __syncthreads();
        if (k0 > last)
            continue;
        dot(s, mine, t->k);
        dot(d, mine_out, t->v);
        SIMT_UNROLL
        for (int e = 0; e < STEP / SUM * 4; e++) {
            const int n = e / 4, i = e % 4, half = i / 2;
            const bool seen = row_of(half) < Q.rows && k0 + n * SUM + column_of() + i % 2 <= q0 + row_of(half);
            d[n][i] = seen ? expf(fmaf(s[n][i], z.scale, -top[half])) * (d[n][i] - mean[half]) : 0;
        }
        mix(acc, d, t->k);
    }
    put(dq + (Q.x - q), Q, acc, z.scale, z.scale, z.dim);
}

template <int DIM> struct dkv_rows {
    tile_rows<DIM, ROWS, true> k;
    tile_rows<DIM, ROWS, false> v;
    tile_rows<DIM, STEP, true> q;
    tile_rows<DIM, STEP, false> dout;
    float top[STEP], mean[STEP];
};

/* grid (tiles of keys, KV, B) */
template <int DIM>
static __global__ void __launch_bounds__(THREADS, 2)
    attention_bf16_dkv(float *dk, float *dv, const float *dout, const float *lse, const float *delta, const float *q,
                       const float *k, const float *v, sizes z)
{
    SIMT_DYNAMIC(dkv_rows<DIM>, t);
    const int64_t b = blockIdx.z, kvh = blockIdx.y, group = z.heads / z.kv, k0 = (int64_t)blockIdx.x * ROWS,
                  first = k0 + warp_first();
    const head_rows K = head_of(k, b, k0, kvh, z.kv, z, ROWS);
    float acck[DIM / SUM][4], accv[DIM / SUM][4], s[STEP / SUM][4], d[STEP / SUM][4];
    t->k.load(K, z.dim);
    t->v.load(head_of(v, b, k0, kvh, z.kv, z, ROWS), z.dim);
    clear(acck);
    clear(accv);
    for (int64_t h = kvh * group; h < (kvh + 1) * group; h++)
        for (int64_t q0 = k0; q0 < z.tokens; q0 += STEP) {
            const int64_t at = (b * z.heads + h) * z.tokens + q0;
            const head_rows Q = head_of(q, b, q0, h, z.heads, z, STEP);
            __syncthreads();
            t->q.load(Q, z.dim);
            t->dout.load(head_of(dout, b, q0, h, z.heads, z, STEP), z.dim);
            if (threadIdx.x < STEP) {
                t->top[threadIdx.x] = threadIdx.x < Q.rows ? lse[at + threadIdx.x] : 0;
                t->mean[threadIdx.x] = threadIdx.x < Q.rows ? delta[at + threadIdx.x] : 0;
            }
            __syncthreads();
            if (q0 + STEP <= first)
                continue;
            dot(s, t->k, t->q);
            dot(d, t->v, t->dout);
            SIMT_UNROLL
            for (int e = 0; e < STEP / SUM * 4; e++) {
                const int n = e / 4, i = e % 4, query = n * SUM + column_of() + i % 2;
                const bool seen = query < Q.rows && k0 + row_of(i / 2) <= q0 + query;
                s[n][i] = seen ? expf(fmaf(s[n][i], z.scale, -t->top[query])) : 0;
                d[n][i] = s[n][i] * (d[n][i] - t->mean[query]);
            }
            mix(accv, s, t->dout);
            mix(acck, d, t->q);
        }
    put(dk + (K.x - k), K, acck, z.scale, z.scale, z.dim);
    put(dv + (K.x - k), K, accv, 1, 1, z.dim);
}

/* ---- launches ---- */

template <int DIM>
static void forward(struct sq_gpu *g, float *out, float *lse, const float *q, const float *k, const float *v,
                    unsigned batch, sizes z)
{
    const unsigned n = (unsigned)((z.tokens + ROWS - 1) / ROWS);
    GPU_LAUNCH_SHARED(g, attention_bf16_tiles<DIM>, dim3(n, (unsigned)z.heads, batch), THREADS,
                      sizeof(forward_rows<DIM>), out, lse, q, k, v, z);
}

template <int DIM>
static void backward(struct sq_gpu *g, float *dq, float *dk, float *dv, const float *dout, const float *lse,
                     const float *delta, const float *q, const float *k, const float *v, unsigned batch, sizes z)
{
    const unsigned n = (unsigned)((z.tokens + ROWS - 1) / ROWS);
    GPU_LAUNCH_SHARED(g, attention_bf16_dq<DIM>, dim3(n, (unsigned)z.heads, batch), THREADS, sizeof(dq_rows<DIM>), dq,
                      dout, lse, delta, q, k, v, z);
    GPU_LAUNCH_SHARED(g, attention_bf16_dkv<DIM>, dim3(n, (unsigned)z.kv, batch), THREADS, sizeof(dkv_rows<DIM>), dk,
                      dv, dout, lse, delta, q, k, v, z);
}

void attention_bf16(struct sq_gpu *g, float *out, float *lse, const float *q, const float *k, const float *v,
                    unsigned batch, sizes z)
{
    const auto run = z.dim <= MOST_BF16 / 2 ? forward<MOST_BF16 / 2> : forward<MOST_BF16>;
    run(g, out, lse, q, k, v, batch, z);
}

void attention_grad_bf16(struct sq_gpu *g, float *dq, float *dk, float *dv, const float *dout, const float *lse,
                         const float *delta, const float *q, const float *k, const float *v, unsigned batch, sizes z)
{
    const auto run = z.dim <= MOST_BF16 / 2 ? backward<MOST_BF16 / 2> : backward<MOST_BF16>;
    run(g, dq, dk, dv, dout, lse, delta, q, k, v, batch, z);
}
