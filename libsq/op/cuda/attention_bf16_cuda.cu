/* Causal attention with operands in bf16, on tensor cores from sm_80 on, for heads of up to 128 channels; formulas are
 * those of attention_cuda.cu.
 *
 * A block has 64 rows, queries or, for dk and dv, keys; a warp 16 of them, whole. The block goes over the others, 32 at a
 * time, which lie in shared memory. Scores, probabilities and what is summed stay in registers: sums of one product,
 * rounded, are the left operand of the next (simt_tensor.h).
 *
 * Operands are rounded once, on their way to registers or shared memory. Those of scores, which stand in an exponent that
 * a large bias of the keys must not blur, and of what becomes out, dq and dk are two numbers, x = high + low + e, |e| <=
 * 2^-17 |x|, and only low low is left out of a product: within 2^-15 at worst, 70 U (2^-24) as root mean square. Codes of
 * few bits and the choice of experts follow out, and dq and dk have parts that cancel. Those of dout v' and dv are one.
 * Tensor cores add to the sums themselves and truncate, always towards zero: 0.4 U for each addition of eight. That is 20 U
 * of a score of 128 channels and 320 U of a sum over 2048 keys; for dk and dv times the query heads of a key head. Rounding
 * to bf16 for the next product costs far more. Operands above 2^127 may be Inf in bf16, and what is left of them NaN.
 *
 * Bound by shared memory. For a tile of 64 x 64 and 128 channels, forward and backward, 5,376 products of 16 x 8 x 16 and
 * 2,112 loads of four 8 x 8, at 4 clocks 8,448; docs/cuda.md has the rest. A block is 128 threads of up to 255 registers,
 * some spilled (registers.txt), and 26 to 79 kB of shared memory for 128 channels, 14 to 42 for 64: two a multiprocessor, one
 * of dk and dv with 128 channels where it has 100 kB. Sums have the order that the shape says. */
#include "attention.h"
#include "simt_tensor.h"

enum {
    ROWS = 64,
    WARP_ROWS = 16,
    BLOCK = ROWS / WARP_ROWS * (int)GPU_LANES,
    TURN = 32,          /* rows in shared memory at a time: keys, or queries for dk and dv */
    DEEP = 16,          /* a product: 16 x DEEP by DEEP x WIDE */
    WIDE = 8,
    SUMS = TURN / WIDE, /* that a left operand goes to in turn, as a product waits long for the one before */
    PAIRS = SUMS / 2,   /* see columns(), rows() */
};

/* Of the rows of its warp a thread has row_of(0) and row_of(1) of the block's, of 8 columns column_of() and the next. */
static __device__ inline int warp_first()
{
    return (int)threadIdx.x / GPU_LANES * WARP_ROWS;
}

static __device__ inline int row_of(int half)
{
    return warp_first() + (int)threadIdx.x % GPU_LANES / 4 + half * 8;
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
struct bf16_pair {
    uint32_t part[2];
};

static __device__ inline uint32_t word_of(__nv_bfloat162 v)
{
    uint32_t word;
    memcpy(&word, &v, sizeof word);
    return word;
}

static __device__ inline bf16_pair round_pair(float x, float y)
{
    const __nv_bfloat162 high = __floats2bfloat162_rn(x, y);
    return {{word_of(high), word_of(__floats2bfloat162_rn(x - (float)high.x, y - (float)high.y))}};
}

/* Four neighbours: in bf16, and as they come. */
struct alignas(8) four_bf16 {
    uint32_t low, high;
};

struct alignas(16) four_floats {
    float v[4];
};

/* Channels c ... c + 3 of row r, zeros where there are none. */
static __device__ inline four_floats four_of(const head_rows &from, int r, int c, int64_t dim)
{
    const float *x = from.x + r * from.stride + c;
    four_floats f = {};
    if (r < from.rows && c + 4 <= dim && (uintptr_t)x % sizeof f == 0)
        return *reinterpret_cast<const four_floats *>(x);
    for (int k = 0; k < 4; k++)
        if (r < from.rows && c + k < dim)
            f.v[k] = x[k];
    return f;
}

/* A thread's part of COUNT rows, on the way to shared memory. */
template <int DIM, int COUNT> struct fetched_rows {
    static constexpr int FOURS = DIM / 4, EACH = BLOCK / FOURS;
    static_assert(BLOCK % FOURS == 0 && COUNT % EACH == 0);
    four_floats x[COUNT / EACH];

    __device__ fetched_rows(const head_rows &from, int64_t dim)
    {
        SIMT_UNROLL
        for (int n = 0; n < COUNT / EACH; n++)
            x[n] = four_of(from, row(n), column(), dim);
    }

    static __device__ int column()
    {
        return (int)threadIdx.x % FOURS * 4;
    }

    static __device__ int row(int n)
    {
        return (int)threadIdx.x / FOURS + n * EACH;
    }
};

/* COUNT rows in shared memory. They lie 4 banks apart, so eight pieces of 16 bytes, one of each, are in different ones. */
template <int DIM, int COUNT, bool TWO> struct alignas(16) shared_rows {
    static constexpr int PARTS = 1 + TWO;
    four_bf16 part[PARTS][COUNT][DIM / 4 + 2];

    __device__ void put(const fetched_rows<DIM, COUNT> &from)
    {
        SIMT_UNROLL
        for (int n = 0; n < SQ_COUNT(from.x); n++) {
            const float *v = from.x[n].v;
            const bf16_pair low = round_pair(v[0], v[1]), high = round_pair(v[2], v[3]);
            for (int p = 0; p < PARTS; p++)
                part[p][from.row(n)][from.column() / 4] = {low.part[p], high.part[p]};
        }
    }

    /* The warp's rows as a left operand: DEEP channels from c on. */
    __device__ void left(uint32_t (&a)[4], int p, int c) const
    {
        const int l = (int)threadIdx.x % GPU_LANES;
        mma_load<false>(a, &part[p][warp_first() + l % 16][c / 4 + l / 16 * 2]);
    }

    /* 16 rows from r on as the columns of a pair of right operands: DEEP channels from c on. */
    __device__ void columns(uint32_t (&b)[4], int p, int r, int c) const
    {
        const int l = (int)threadIdx.x % GPU_LANES;
        mma_load<false>(b, &part[p][r + l / 16 * 8 + l % 8][c / 4 + l / 8 % 2 * 2]);
    }

    /* DEEP rows from r on as the rows of a pair of right operands, whose columns are channels c ... c + 15. */
    __device__ void rows(uint32_t (&b)[4], int p, int r, int c) const
    {
        const int l = (int)threadIdx.x % GPU_LANES;
        mma_load<true>(b, &part[p][r + l % 16][c / 4 + l / 16 * 2]);
    }
};

/* A warp's rows in registers, as left operands. */
template <int DIM, bool TWO> struct kept_rows {
    static constexpr int PARTS = 1 + TWO;
    uint32_t part[PARTS][DIM / DEEP][4];

    __device__ kept_rows(const head_rows &from, int64_t dim)
    {
        SIMT_UNROLL
        for (int e = 0; e < DIM / DEEP * 4; e++) {
            const int r = row_of(e % 2), c = e / 4 * DEEP + e / 2 % 2 * 8 + column_of();
            const float *x = from.x + r * from.stride + c;
            const bool there = r < from.rows;
            const bf16_pair v = round_pair(there && c < dim ? x[0] : 0, there && c + 1 < dim ? x[1] : 0);
            for (int p = 0; p < PARTS; p++)
                part[p][e / 4][e % 4] = v.part[p];
        }
    }

    __device__ void left(uint32_t (&a)[4], int p, int c) const
    {
        SIMT_UNROLL
        for (int e = 0; e < 4; e++)
            a[e] = part[p][c / DEEP][e];
    }
};

/* ---- products ---- */

template <int N> static __device__ inline void clear(float (&sum)[N][4])
{
    SIMT_UNROLL
    for (int e = 0; e < 4 * N; e++)
        sum[e / 4][e % 4] = 0;
}

/* SUMS sums from the first on += a b, where b[part][pair] has two words of an even sum and two of an odd one. Of two
 * parts low high comes first, then high low, then high high. */
template <int PARTS, int N>
static __device__ inline void add_products(float (&sum)[N][4], int first, const uint32_t (&a)[PARTS][4],
                                           const uint32_t (&b)[PARTS][PAIRS][4])
{
    SIMT_UNROLL
    for (int turn = PARTS == 2 ? 0 : 2; turn < 3; turn++)
        SIMT_UNROLL
        for (int n = 0; n < SUMS; n++)
            mma_add(sum[first + n], a[turn == 0], &b[turn == 1][n / 2][n % 2 * 2]);
}

/* s = x y', of the warp's rows and TURN rows of y */
template <int DIM, bool TWO, class LEFT>
static __device__ inline void dot(float (&s)[SUMS][4], const LEFT &x, const shared_rows<DIM, TURN, TWO> &y)
{
    constexpr int PARTS = 1 + TWO;
    static_assert(LEFT::PARTS == PARTS);
    clear(s);
    SIMT_UNROLL
    for (int c = 0; c < DIM; c += DEEP) {
        uint32_t a[PARTS][4], b[PARTS][PAIRS][4];
        SIMT_UNROLL
        for (int p = 0; p < PARTS; p++) {
            x.left(a[p], p, c);
            SIMT_UNROLL
            for (int n = 0; n < PAIRS; n++)
                y.columns(b[p][n], p, n * 2 * WIDE, c);
        }
        add_products(s, 0, a, b);
    }
}

/* acc += s y, s [warp's rows, TURN] of as many parts as y has */
template <int DIM, bool TWO>
static __device__ inline void mix(float (&acc)[DIM / WIDE][4], const float (&s)[SUMS][4],
                                  const shared_rows<DIM, TURN, TWO> &y)
{
    constexpr int PARTS = 1 + TWO;
    SIMT_UNROLL
    for (int r = 0; r < TURN; r += DEEP) {
        uint32_t a[PARTS][4];
        SIMT_UNROLL
        for (int e = 0; e < 4; e++) {
            const float *v = &s[r / WIDE + e / 2][e % 2 * 2];
            const bf16_pair both = round_pair(v[0], v[1]);
            for (int p = 0; p < PARTS; p++)
                a[p][e] = both.part[p];
        }
        SIMT_UNROLL
        for (int c = 0; c < DIM; c += SUMS * WIDE) {
            uint32_t b[PARTS][PAIRS][4];
            SIMT_UNROLL
            for (int e = 0; e < PARTS * PAIRS; e++)
                y.rows(b[e / PAIRS][e % PAIRS], e / PAIRS, r, c + e % PAIRS * 2 * WIDE);
            add_products(acc, c / WIDE, a, b);
        }
    }
}

/* The warp's rows of y = acc * scale, of row_of(0) and row_of(1). */
template <int N>
static __device__ inline void put(float *y, const head_rows &shape, const float (&acc)[N][4], float scale0, float scale1,
                                  int64_t dim)
{
    SIMT_UNROLL
    for (int e = 0; e < 4 * N; e++) {
        const int r = row_of(e / 2 % 2), c = e / 4 * WIDE + column_of() + e % 2;
        if (r < shape.rows && c < dim)
            y[r * shape.stride + c] = acc[e / 4][e % 4] * (e / 2 % 2 ? scale1 : scale0);
    }
}

/* ---- kernels ---- */

template <int DIM> struct forward_rows {
    shared_rows<DIM, TURN, true> k, v;
};

/* grid (tiles of queries, H, B) */
template <int DIM>
static __global__ void __launch_bounds__(BLOCK, 2)
    attention_bf16_tiles(float *out, float *lse, const float *q, const float *k, const float *v, sizes z)
{
    SIMT_DYNAMIC(forward_rows<DIM>, t);
    const int64_t b = blockIdx.z, h = blockIdx.y, kvh = h / (z.heads / z.kv),
                  q0 = (int64_t)(gridDim.x - 1 - blockIdx.x) * ROWS;
    const head_rows Q = head_of(q, b, q0, h, z.heads, z, ROWS);
    const kept_rows<DIM, true> mine(Q, z.dim);
    float acc[DIM / WIDE][4], s[SUMS][4], max[2] = {-HUGE_VALF, -HUGE_VALF}, sum[2] = {};
    clear(acc);
    for (int64_t k0 = 0; k0 < q0 + Q.rows; k0 += TURN) {
        const fetched_rows<DIM, TURN> K(head_of(k, b, k0, kvh, z.kv, z, TURN), z.dim),
            V(head_of(v, b, k0, kvh, z.kv, z, TURN), z.dim);
        const int edge = (int)(q0 - k0); /* keys up to it are seen by the first query */
        __syncthreads();                 /* all have read the last ones */
        t->k.put(K);
        t->v.put(V);
        __syncthreads();
        if (warp_first() + WARP_ROWS <= -edge)
            continue;
        dot(s, mine, t->k);
        SIMT_UNROLL
        for (int half = 0; half < 2; half++) {
            float top = max[half], add = 0;
            SIMT_UNROLL
            for (int j = 0; j < SUMS * 2; j++) {
                float &x = s[j / 2][half * 2 + j % 2];
                const bool seen = j / 2 * WIDE + column_of() + j % 2 <= edge + row_of(half);
                x = seen ? x * z.scale : -HUGE_VALF;
                top = fmaxf(top, x);
            }
            top = row_max(top);
            const float keep = expf(max[half] - top); /* what was summed is brought to the new maximum */
            SIMT_UNROLL
            for (int j = 0; j < SUMS * 2; j++) {
                float &x = s[j / 2][half * 2 + j % 2];
                x = expf(x - top);
                add += x;
            }
            sum[half] = fmaf(sum[half], keep, row_sum(add));
            max[half] = top;
            SIMT_UNROLL
            for (int j = 0; j < DIM / WIDE * 2; j++)
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
    shared_rows<DIM, TURN, true> k;
    shared_rows<DIM, TURN, false> v;
};

/* grid (tiles of queries, H, B) */
template <int DIM>
static __global__ void __launch_bounds__(BLOCK, 2)
    attention_bf16_dq(float *dq, const float *dout, const float *lse, const float *delta, const float *q,
                      const float *k, const float *v, sizes z)
{
    SIMT_DYNAMIC(dq_rows<DIM>, t);
    const int64_t b = blockIdx.z, h = blockIdx.y, kvh = h / (z.heads / z.kv),
                  q0 = (int64_t)(gridDim.x - 1 - blockIdx.x) * ROWS;
    const head_rows Q = head_of(q, b, q0, h, z.heads, z, ROWS);
    const kept_rows<DIM, true> mine(Q, z.dim);
    const kept_rows<DIM, false> mine_out(head_of(dout, b, q0, h, z.heads, z, ROWS), z.dim);
    const int rows = (int)Q.rows;
    float acc[DIM / WIDE][4], s[SUMS][4], d[SUMS][4], top[2], mean[2];
    clear(acc);
    for (int half = 0; half < 2; half++) {
        const int64_t at = (b * z.heads + h) * z.tokens + q0 + row_of(half);
        const bool there = row_of(half) < rows;
        top[half] = there ? lse[at] : 0;
        mean[half] = there ? delta[at] : 0;
    }
    for (int64_t k0 = 0; k0 < q0 + Q.rows; k0 += TURN) {
        const fetched_rows<DIM, TURN> K(head_of(k, b, k0, kvh, z.kv, z, TURN), z.dim),
            V(head_of(v, b, k0, kvh, z.kv, z, TURN), z.dim);
        const int edge = (int)(q0 - k0);
        __syncthreads();
        t->k.put(K);
        t->v.put(V);
        __syncthreads();
        if (warp_first() + WARP_ROWS <= -edge)
            continue;
        dot(s, mine, t->k);
        dot(d, mine_out, t->v);
        SIMT_UNROLL
        for (int e = 0; e < SUMS * 4; e++) {
            const int half = e / 2 % 2, key = e / 4 * WIDE + column_of() + e % 2;
            const bool seen = row_of(half) < rows && key <= edge + row_of(half);
            float &ds = d[e / 4][e % 4];
            ds = seen ? expf(fmaf(s[e / 4][e % 4], z.scale, -top[half])) * (ds - mean[half]) : 0;
        }
        mix(acc, d, t->k);
    }
    put(dq + (Q.x - q), Q, acc, z.scale, z.scale, z.dim);
}

template <int DIM> struct dkv_rows {
    shared_rows<DIM, ROWS, true> k;
    shared_rows<DIM, ROWS, false> v;
    shared_rows<DIM, TURN, true> q;
    shared_rows<DIM, TURN, false> dout;
    float top[TURN], mean[TURN];
};

/* grid (tiles of keys, KV, B) */
template <int DIM>
static __global__ void __launch_bounds__(BLOCK, 2)
    attention_bf16_dkv(float *dk, float *dv, const float *dout, const float *lse, const float *delta, const float *q,
                       const float *k, const float *v, sizes z)
{
    SIMT_DYNAMIC(dkv_rows<DIM>, t);
    const int64_t b = blockIdx.z, kvh = blockIdx.y, group = z.heads / z.kv, k0 = (int64_t)blockIdx.x * ROWS;
    const head_rows K = head_of(k, b, k0, kvh, z.kv, z, ROWS);
    float acck[DIM / WIDE][4], accv[DIM / WIDE][4], s[SUMS][4], d[SUMS][4];
    t->k.put({K, z.dim});
    t->v.put({head_of(v, b, k0, kvh, z.kv, z, ROWS), z.dim});
    clear(acck);
    clear(accv);
    for (int64_t h = kvh * group; h < (kvh + 1) * group; h++)
        for (int64_t q0 = k0; q0 < z.tokens; q0 += TURN) {
            const int64_t at = (b * z.heads + h) * z.tokens + q0;
            const fetched_rows<DIM, TURN> Q(head_of(q, b, q0, h, z.heads, z, TURN), z.dim),
                O(head_of(dout, b, q0, h, z.heads, z, TURN), z.dim);
            const int edge = (int)(q0 - k0), queries = (int)SQ_MIN((int64_t)TURN, z.tokens - q0), i = (int)threadIdx.x;
            __syncthreads();
            t->q.put(Q);
            t->dout.put(O);
            if (i < TURN) {
                t->top[i] = i < queries ? lse[at + i] : 0;
                t->mean[i] = i < queries ? delta[at + i] : 0;
            }
            __syncthreads();
            if (edge + TURN <= warp_first())
                continue;
            dot(s, t->k, t->q);
            dot(d, t->v, t->dout);
            SIMT_UNROLL
            for (int e = 0; e < SUMS * 4; e++) {
                const int query = e / 4 * WIDE + column_of() + e % 2;
                const bool seen = query < queries && row_of(e / 2 % 2) <= edge + query;
                float &p = s[e / 4][e % 4], &ds = d[e / 4][e % 4];
                p = seen ? expf(fmaf(p, z.scale, -t->top[query])) : 0;
                ds = p * (ds - t->mean[query]);
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
    GPU_LAUNCH_SHARED(g, attention_bf16_tiles<DIM>, dim3(n, (unsigned)z.heads, batch), BLOCK,
                      sizeof(forward_rows<DIM>), out, lse, q, k, v, z);
}

template <int DIM>
static void backward(struct sq_gpu *g, float *dq, float *dk, float *dv, const float *dout, const float *lse,
                     const float *delta, const float *q, const float *k, const float *v, unsigned batch, sizes z)
{
    const unsigned n = (unsigned)((z.tokens + ROWS - 1) / ROWS);
    GPU_LAUNCH_SHARED(g, attention_bf16_dq<DIM>, dim3(n, (unsigned)z.heads, batch), BLOCK, sizeof(dq_rows<DIM>), dq,
                      dout, lse, delta, q, k, v, z);
    GPU_LAUNCH_SHARED(g, attention_bf16_dkv<DIM>, dim3(n, (unsigned)z.kv, batch), BLOCK, sizeof(dkv_rows<DIM>), dk,
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
