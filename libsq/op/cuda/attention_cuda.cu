/* Causal attention with grouped heads, in tiles of 64 queries by 64 keys; no T x T array, tiles above the diagonal are
 * skipped.
 *
 *   s = q.k / sqrt(D), p = exp(s - lse), out = p v          running maximum and sum of a row, as in FlashAttention
 *   delta = dout.out,  ds = p (dout.v - delta) / sqrt(D)     dq = ds k,  dk = ds' q,  dv = p' dout
 *
 * 256 threads as 16 x 16; a thread has rows 4 y ... 4 y + 3 and columns x, x + 16, ... of a tile, which needs eight
 * values from shared memory for sixteen fused products. D is walked in chunks of 32 channels (128 bytes of a row, one
 * line), zeros beyond it; what is summed over keys or queries stays in registers, 8 a chunk: D up to 64, 128, 256 are
 * three instances. Shared memory: two chunks of 64 rows and a tile of probabilities, 33 kB. Blocks: (tile, head,
 * sample), tiles with most work first; dk and dv walk the query heads of their group in order. The backward makes the
 * scores twice rather than let blocks add to one array. Bound by f32 arithmetic: 2 T^2 D H B operations forward, 7 T^2
 * D H B backward (half the square). */
#include "gpu.h"

enum { TILE = 64, CHUNK = 32, SIDE = 16, EACH = TILE / SIDE, WIDE = CHUNK / SIDE, THREADS = SIDE * SIDE, MOST = 256 };

struct tiles {
    float a[TILE][CHUNK + 1], b[TILE][CHUNK + 1], p[TILE][TILE + 1];
};

static __device__ tiles &shared_tiles()
{
    __shared__ tiles t;
    return t;
}

/* Rows of one head: row r begins at x + r * stride; rows are there up to `rows`. */
struct head_rows {
    const float *x;
    int64_t stride, rows;
};

static __device__ inline head_rows head_of(const float *x, int64_t sample, int64_t first, int64_t head, int64_t heads,
                                           int64_t tokens, int64_t dim)
{
    return {x + ((sample * tokens + first) * heads + head) * dim, heads * dim, SQ_MIN((int64_t)TILE, tokens - first)};
}

static __device__ inline void load_chunk(float (*to)[CHUNK + 1], head_rows from, int64_t c0, int64_t dim)
{
    for (int k = (int)threadIdx.x; k < TILE * CHUNK; k += THREADS) {
        const int r = k / CHUNK, c = k % CHUNK;
        to[r][c] = r < from.rows && c0 + c < dim ? from.x[r * from.stride + c0 + c] : 0.0f;
    }
}

/* s = A B', a tile; begins with a barrier */
static __device__ inline void tile_dot(float s[EACH][EACH], tiles &t, head_rows a, head_rows b, int64_t dim)
{
    const int x = (int)threadIdx.x % SIDE, y = (int)threadIdx.x / SIDE;
    for (int i = 0; i < EACH; i++)
        for (int j = 0; j < EACH; j++)
            s[i][j] = 0;
    for (int64_t c0 = 0; c0 < dim; c0 += CHUNK) {
        __syncthreads();
        load_chunk(t.a, a, c0, dim);
        load_chunk(t.b, b, c0, dim);
        __syncthreads();
        for (int c = 0; c < CHUNK; c++)
            for (int i = 0; i < EACH; i++)
                for (int j = 0; j < EACH; j++)
                    s[i][j] = fmaf(t.a[y * EACH + i][c], t.b[x + j * SIDE][c], s[i][j]);
    }
}

static __device__ inline void put_tile(tiles &t, float p[EACH][EACH])
{
    const int x = (int)threadIdx.x % SIDE, y = (int)threadIdx.x / SIDE;
    for (int i = 0; i < EACH; i++)
        for (int j = 0; j < EACH; j++)
            t.p[y * EACH + i][x + j * SIDE] = p[i][j];
}

/* acc += P X over the 64 rows of X, with P in t.p; begins with a barrier */
template <int CHUNKS>
static __device__ inline void tile_mul(float acc[CHUNKS][EACH][WIDE], tiles &t, head_rows from, int64_t dim)
{
    const int x = (int)threadIdx.x % SIDE, y = (int)threadIdx.x / SIDE;
    SIMT_UNROLL
    for (int k = 0; k < CHUNKS; k++) {
        if (k * CHUNK >= dim)
            break;
        __syncthreads();
        load_chunk(t.b, from, k * CHUNK, dim);
        __syncthreads();
        for (int r = 0; r < TILE; r++)
            for (int i = 0; i < EACH; i++)
                for (int j = 0; j < WIDE; j++)
                    acc[k][i][j] = fmaf(t.p[y * EACH + i][r], t.b[r][x + j * SIDE], acc[k][i][j]);
    }
}

/* y[row, :] = acc * scale[row] */
template <int CHUNKS>
static __device__ inline void put_rows(float *y, head_rows shape, float acc[CHUNKS][EACH][WIDE],
                                       const float scale[EACH], int64_t dim)
{
    const int x = (int)threadIdx.x % SIDE, first = (int)threadIdx.x / SIDE * EACH;
    SIMT_UNROLL
    for (int k = 0; k < CHUNKS; k++)
        for (int i = 0; i < EACH; i++)
            for (int j = 0; j < WIDE; j++) {
                const int c = k * CHUNK + j * SIDE + x;
                if (c < dim && first + i < shape.rows)
                    y[(first + i) * shape.stride + c] = acc[k][i][j] * scale[i];
            }
}

struct sizes {
    int64_t tokens, heads, kv, dim;
    float scale;
};

/* A row of a tile lies with the 16 threads of half a warp. */
static __device__ inline float row_max(float v)
{
    for (int o = SIDE / 2; o > 0; o /= 2)
        v = fmaxf(v, __shfl_xor_sync(GPU_ALL, v, o));
    return v;
}

static __device__ inline float row_sum(float v)
{
    for (int o = SIDE / 2; o > 0; o /= 2)
        v += __shfl_xor_sync(GPU_ALL, v, o);
    return v;
}

/* grid (query tiles, H, B) */
template <int CHUNKS>
static __global__ void __launch_bounds__(THREADS)
    attention_tiles(float *out, float *lse, const float *q, const float *k, const float *v, sizes z)
{
    tiles &t = shared_tiles();
    const int x = (int)threadIdx.x % SIDE, y = (int)threadIdx.x / SIDE;
    const int64_t b = blockIdx.z, h = blockIdx.y, kvh = h / (z.heads / z.kv),
                  q0 = (int64_t)(gridDim.x - 1 - blockIdx.x) * TILE;
    const head_rows Q = head_of(q, b, q0, h, z.heads, z.tokens, z.dim);
    float acc[CHUNKS][EACH][WIDE] = {}, max[EACH], sum[EACH] = {}, s[EACH][EACH], scale[EACH];
    for (int i = 0; i < EACH; i++)
        max[i] = -HUGE_VALF;
    for (int64_t k0 = 0; k0 <= q0; k0 += TILE) {
        tile_dot(s, t, Q, head_of(k, b, k0, kvh, z.kv, z.tokens, z.dim), z.dim);
        for (int i = 0; i < EACH; i++) {
            float top = max[i], add = 0;
            for (int j = 0; j < EACH; j++) {
                const bool seen = k0 + x + j * SIDE <= q0 + y * EACH + i && k0 + x + j * SIDE < z.tokens;
                s[i][j] = seen ? s[i][j] * z.scale : -HUGE_VALF;
                top = fmaxf(top, s[i][j]);
            }
            top = row_max(top);
            const float keep = expf(max[i] - top); /* what was summed is brought to the new maximum */
            for (int j = 0; j < EACH; j++) {
                s[i][j] = expf(s[i][j] - top);
                add += s[i][j];
            }
            sum[i] = fmaf(sum[i], keep, row_sum(add));
            max[i] = top;
            SIMT_UNROLL
            for (int c = 0; c < CHUNKS; c++)
                for (int j = 0; j < WIDE; j++)
                    acc[c][i][j] *= keep;
        }
        put_tile(t, s);
        tile_mul<CHUNKS>(acc, t, head_of(v, b, k0, kvh, z.kv, z.tokens, z.dim), z.dim);
    }
    for (int i = 0; i < EACH; i++) {
        scale[i] = 1 / sum[i];
        if (x == 0 && y * EACH + i < Q.rows)
            lse[(b * z.heads + h) * z.tokens + q0 + y * EACH + i] = max[i] + logf(sum[i]);
    }
    put_rows<CHUNKS>(out + (Q.x - q), Q, acc, scale, z.dim);
}

/* delta [B, H, T]; a warp a row */
static __global__ void __launch_bounds__(GPU_ROW_BLOCK)
    attention_delta(float *delta, const float *dout, const float *out, int64_t batch, sizes z)
{
    GPU_ROW_LOOP (r, batch * z.tokens * z.heads) {
        float sum = 0;
        GPU_LANE_LOOP (c, z.dim)
            sum = fmaf(dout[r * z.dim + c], out[r * z.dim + c], sum);
        sum = warp_sum(sum);
        const int64_t h = r % z.heads, at = r / z.heads;
        if (threadIdx.x % GPU_LANES == 0)
            delta[(at / z.tokens * z.heads + h) * z.tokens + at % z.tokens] = sum;
    }
}

/* grid (query tiles, H, B) */
template <int CHUNKS>
static __global__ void __launch_bounds__(THREADS)
    attention_dq(float *dq, const float *dout, const float *lse, const float *delta, const float *q, const float *k,
                 const float *v, sizes z)
{
    tiles &t = shared_tiles();
    const int x = (int)threadIdx.x % SIDE, y = (int)threadIdx.x / SIDE;
    const int64_t b = blockIdx.z, h = blockIdx.y, kvh = h / (z.heads / z.kv),
                  q0 = (int64_t)(gridDim.x - 1 - blockIdx.x) * TILE;
    const head_rows Q = head_of(q, b, q0, h, z.heads, z.tokens, z.dim),
                    O = head_of(dout, b, q0, h, z.heads, z.tokens, z.dim);
    float acc[CHUNKS][EACH][WIDE] = {}, s[EACH][EACH], d[EACH][EACH], top[EACH], mean[EACH];
    for (int i = 0; i < EACH; i++) {
        const int64_t at = (b * z.heads + h) * z.tokens + q0 + y * EACH + i;
        const bool there = y * EACH + i < Q.rows;
        top[i] = there ? lse[at] : 0;
        mean[i] = there ? delta[at] : 0;
    }
    for (int64_t k0 = 0; k0 <= q0; k0 += TILE) {
        const head_rows K = head_of(k, b, k0, kvh, z.kv, z.tokens, z.dim),
                        V = head_of(v, b, k0, kvh, z.kv, z.tokens, z.dim);
        tile_dot(s, t, Q, K, z.dim);
        tile_dot(d, t, O, V, z.dim);
        for (int i = 0; i < EACH; i++)
            for (int j = 0; j < EACH; j++) {
                const bool seen = k0 + x + j * SIDE <= q0 + y * EACH + i && y * EACH + i < Q.rows;
                d[i][j] = seen ? expf(fmaf(s[i][j], z.scale, -top[i])) * (d[i][j] - mean[i]) : 0;
            }
        put_tile(t, d);
        tile_mul<CHUNKS>(acc, t, K, z.dim);
    }
    const float scale[EACH] = {z.scale, z.scale, z.scale, z.scale};
    put_rows<CHUNKS>(dq + (Q.x - q), Q, acc, scale, z.dim);
}

/* grid (key tiles, KV, B); rows of a tile are keys here */
template <int CHUNKS>
static __global__ void __launch_bounds__(THREADS)
    attention_dkv(float *dk, float *dv, const float *dout, const float *lse, const float *delta, const float *q,
                  const float *k, const float *v, sizes z)
{
    tiles &t = shared_tiles();
    const int x = (int)threadIdx.x % SIDE, y = (int)threadIdx.x / SIDE;
    const int64_t b = blockIdx.z, kvh = blockIdx.y, group = z.heads / z.kv, k0 = (int64_t)blockIdx.x * TILE;
    const head_rows K = head_of(k, b, k0, kvh, z.kv, z.tokens, z.dim),
                    V = head_of(v, b, k0, kvh, z.kv, z.tokens, z.dim);
    float acck[CHUNKS][EACH][WIDE] = {}, accv[CHUNKS][EACH][WIDE] = {}, s[EACH][EACH], d[EACH][EACH];
    for (int64_t h = kvh * group; h < (kvh + 1) * group; h++)
        for (int64_t q0 = k0; q0 < z.tokens; q0 += TILE) {
            const head_rows Q = head_of(q, b, q0, h, z.heads, z.tokens, z.dim),
                            O = head_of(dout, b, q0, h, z.heads, z.tokens, z.dim);
            tile_dot(s, t, K, Q, z.dim);
            tile_dot(d, t, V, O, z.dim);
            for (int j = 0; j < EACH; j++) {
                const int64_t query = q0 + x + j * SIDE, at = (b * z.heads + h) * z.tokens + query;
                const bool there = query < z.tokens;
                const float top = there ? lse[at] : 0, mean = there ? delta[at] : 0;
                for (int i = 0; i < EACH; i++) {
                    s[i][j] = there && k0 + y * EACH + i <= query ? expf(fmaf(s[i][j], z.scale, -top)) : 0;
                    d[i][j] = s[i][j] * (d[i][j] - mean);
                }
            }
            put_tile(t, s);
            tile_mul<CHUNKS>(accv, t, O, z.dim);
            __syncthreads(); /* all have read the probabilities */
            put_tile(t, d);
            tile_mul<CHUNKS>(acck, t, Q, z.dim);
        }
    const float scale[EACH] = {z.scale, z.scale, z.scale, z.scale}, one[EACH] = {1, 1, 1, 1};
    put_rows<CHUNKS>(dk + (K.x - k), K, acck, scale, z.dim);
    put_rows<CHUNKS>(dv + (K.x - k), K, accv, one, z.dim);
}

static sizes sizes_of(int64_t tokens, int64_t heads, int64_t kv, int64_t dim)
{
    return {tokens, heads, kv, dim, (float)(1 / sqrt((double)dim))};
}

static bool refused(struct sq_gpu *g, int64_t batch, const sizes &z, const char *op)
{
    if (z.dim > MOST)
        gpu_fail(g, SQ_E_UNSUP, "%s: heads of %lld channels, at most %d", op, (long long)z.dim, MOST);
    return g->rc != 0 || batch * z.tokens * z.heads * z.dim == 0;
}

template <int CHUNKS>
static void forward(struct sq_gpu *g, float *out, float *lse, const float *q, const float *k, const float *v,
                    unsigned batch, sizes z)
{
    const unsigned n = (unsigned)((z.tokens + TILE - 1) / TILE);
    GPU_LAUNCH(g, (attention_tiles<CHUNKS>), dim3(n, (unsigned)z.heads, batch), THREADS, out, lse, q, k, v, z);
}

void sq_attention_cuda(struct sq_gpu *g, float *out, float *lse, const float *q, const float *k, const float *v,
                       int64_t batch, int64_t tokens, int64_t heads, int64_t kv, int64_t dim)
{
    const sizes z = sizes_of(tokens, heads, kv, dim);
    if (refused(g, batch, z, "attention"))
        return;
    (dim <= 64 ? forward<2> : dim <= 128 ? forward<4> : forward<8>)(g, out, lse, q, k, v, (unsigned)batch, z);
}

template <int CHUNKS>
static void backward(struct sq_gpu *g, float *dq, float *dk, float *dv, const float *dout, const float *lse,
                     const float *delta, const float *q, const float *k, const float *v, unsigned batch, sizes z)
{
    const unsigned n = (unsigned)((z.tokens + TILE - 1) / TILE);
    GPU_LAUNCH(g, (attention_dq<CHUNKS>), dim3(n, (unsigned)z.heads, batch), THREADS, dq, dout, lse, delta, q, k, v, z);
    GPU_LAUNCH(g, (attention_dkv<CHUNKS>), dim3(n, (unsigned)z.kv, batch), THREADS, dk, dv, dout, lse, delta, q, k, v,
               z);
}

void sq_attention_grad_cuda(struct sq_gpu *g, float *dq, float *dk, float *dv, const float *dout, const float *out,
                            const float *lse, const float *q, const float *k, const float *v, int64_t batch,
                            int64_t tokens, int64_t heads, int64_t kv, int64_t dim)
{
    const sizes z = sizes_of(tokens, heads, kv, dim);
    const int64_t rows = batch * tokens * heads;
    if (refused(g, batch, z, "attention_grad"))
        return;
    float *delta = static_cast<float *>(gpu_space(g, (size_t)rows * sizeof(float), "attention_grad"));
    GPU_LAUNCH(g, attention_delta, gpu_row_blocks(rows), GPU_ROW_BLOCK, delta, dout, out, batch, z);
    (dim <= 64    ? backward<2>
     : dim <= 128 ? backward<4>
                  : backward<8>)(g, dq, dk, dv, dout, lse, delta, q, k, v, (unsigned)batch, z);
}
