/* Causal attention with grouped heads, in tiles of 64 queries by 64 keys; no T x T array, tiles above the diagonal are
 * skipped. For operands in bf16 see attention_bf16_cuda.cu.
 *
 *   s = q.k / sqrt(D), p = exp(s - lse), out = p v          running maximum and sum of a row, as in FlashAttention
 *   delta = dout.out,  ds = p (dout.v - delta) / sqrt(D)     dq = ds k,  dk = ds' q,  dv = p' dout
 *
 * The products of tiles are those of attention_tiles.h: in f32, or on tensor cores where the device has them for tf32,
 * to the same limits. What is summed over keys or queries stays in registers: D up to 64, 128, 256 are three instances.
 * Shared memory: two chunks of 64 rows and a tile of probabilities, 33 or 41 kB. Blocks: 256 threads, (tile, head,
 * sample), tiles with most work first; dk and dv walk the query heads of their group in order. The backward makes the
 * scores twice rather than let blocks add to one array. Bound by arithmetic: 2 T^2 D H B operations forward, 7 T^2 D H
 * B backward (half the square). */
#include "attention_tiles.h"

enum { MOST = 256 };

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
template <int SM, int CHUNKS>
static __global__ void __launch_bounds__(THREADS, tiles_of<SM>::blocks(CHUNKS))
    attention_tiles(float *out, float *lse, const float *q, const float *k, const float *v, sizes z)
{
    typedef tiles_of<SM> tiles;
    tiles &t = shared_tiles(static_cast<tiles *>(nullptr));
    const int x = tile_x(), y = tile_row();
    const int64_t b = blockIdx.z, h = blockIdx.y, kvh = h / (z.heads / z.kv),
                  q0 = (int64_t)(gridDim.x - 1 - blockIdx.x) * TILE;
    const head_rows Q = head_of(q, b, q0, h, z.heads, z, TILE);
    typename tiles::template sums<CHUNKS> acc;
    float max[EACH], sum[EACH] = {}, s[EACH][EACH], keep[EACH], scale[EACH];
    acc.clear();
    for (int i = 0; i < EACH; i++)
        max[i] = -HUGE_VALF;
    for (int64_t k0 = 0; k0 <= q0; k0 += TILE) {
        t.dot(s, Q, head_of(k, b, k0, kvh, z.kv, z, TILE), z.dim);
        for (int i = 0; i < EACH; i++) {
            float top = max[i], add = 0;
            for (int j = 0; j < EACH; j++) {
                const bool seen = k0 + x + j * SIDE <= q0 + y + i && k0 + x + j * SIDE < z.tokens;
                s[i][j] = seen ? s[i][j] * z.scale : -HUGE_VALF;
                top = fmaxf(top, s[i][j]);
            }
            top = row_max(top);
            keep[i] = expf(max[i] - top); /* what was summed is brought to the new maximum */
            for (int j = 0; j < EACH; j++) {
                s[i][j] = expf(s[i][j] - top);
                add += s[i][j];
            }
            sum[i] = fmaf(sum[i], keep[i], row_sum(add));
            max[i] = top;
        }
        t.mul(acc, s, keep, head_of(v, b, k0, kvh, z.kv, z, TILE), z.dim);
    }
    for (int i = 0; i < EACH; i++) {
        scale[i] = 1 / sum[i];
        if (x == 0 && y + i < Q.rows)
            lse[(b * z.heads + h) * z.tokens + q0 + y + i] = max[i] + logf(sum[i]);
    }
    t.put(out + (Q.x - q), Q, acc, scale, z.dim);
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
template <int SM, int CHUNKS>
static __global__ void __launch_bounds__(THREADS, tiles_of<SM>::blocks(CHUNKS))
    attention_dq(float *dq, const float *dout, const float *lse, const float *delta, const float *q, const float *k,
                 const float *v, sizes z)
{
    typedef tiles_of<SM> tiles;
    tiles &t = shared_tiles(static_cast<tiles *>(nullptr));
    const int x = tile_x(), y = tile_row();
    const int64_t b = blockIdx.z, h = blockIdx.y, kvh = h / (z.heads / z.kv),
                  q0 = (int64_t)(gridDim.x - 1 - blockIdx.x) * TILE;
    const head_rows Q = head_of(q, b, q0, h, z.heads, z, TILE),
                    O = head_of(dout, b, q0, h, z.heads, z, TILE);
    typename tiles::template sums<CHUNKS> acc;
    float s[EACH][EACH], d[EACH][EACH], top[EACH], mean[EACH];
    acc.clear();
    for (int i = 0; i < EACH; i++) {
        const int64_t at = (b * z.heads + h) * z.tokens + q0 + y + i;
        const bool there = y + i < Q.rows;
        top[i] = there ? lse[at] : 0;
        mean[i] = there ? delta[at] : 0;
    }
    for (int64_t k0 = 0; k0 <= q0; k0 += TILE) {
        const head_rows K = head_of(k, b, k0, kvh, z.kv, z, TILE),
                        V = head_of(v, b, k0, kvh, z.kv, z, TILE);
        t.dot(s, Q, K, z.dim);
        t.dot(d, O, V, z.dim);
        for (int i = 0; i < EACH; i++)
            for (int j = 0; j < EACH; j++) {
                const bool seen = k0 + x + j * SIDE <= q0 + y + i && y + i < Q.rows;
                d[i][j] = seen ? expf(fmaf(s[i][j], z.scale, -top[i])) * (d[i][j] - mean[i]) : 0;
            }
        t.mul(acc, d, nullptr, K, z.dim);
    }
    const float scale[EACH] = {z.scale, z.scale, z.scale, z.scale};
    t.put(dq + (Q.x - q), Q, acc, scale, z.dim);
}

/* grid (key tiles, KV, B); rows of a tile are keys here */
template <int SM, int CHUNKS>
static __global__ void __launch_bounds__(THREADS, tiles_of<SM>::blocks(2 * CHUNKS))
    attention_dkv(float *dk, float *dv, const float *dout, const float *lse, const float *delta, const float *q,
                  const float *k, const float *v, sizes z)
{
    typedef tiles_of<SM> tiles;
    tiles &t = shared_tiles(static_cast<tiles *>(nullptr));
    const int x = tile_x(), y = tile_row();
    const int64_t b = blockIdx.z, kvh = blockIdx.y, group = z.heads / z.kv, k0 = (int64_t)blockIdx.x * TILE;
    const head_rows K = head_of(k, b, k0, kvh, z.kv, z, TILE),
                    V = head_of(v, b, k0, kvh, z.kv, z, TILE);
    typename tiles::template sums<CHUNKS> acck, accv;
    float s[EACH][EACH], d[EACH][EACH];
    acck.clear();
    accv.clear();
    for (int64_t h = kvh * group; h < (kvh + 1) * group; h++)
        for (int64_t q0 = k0; q0 < z.tokens; q0 += TILE) {
            const head_rows Q = head_of(q, b, q0, h, z.heads, z, TILE),
                            O = head_of(dout, b, q0, h, z.heads, z, TILE);
            t.dot(s, K, Q, z.dim);
            t.dot(d, V, O, z.dim);
            for (int j = 0; j < EACH; j++) {
                const int64_t query = q0 + x + j * SIDE, at = (b * z.heads + h) * z.tokens + query;
                const bool there = query < z.tokens;
                const float top = there ? lse[at] : 0, mean = there ? delta[at] : 0;
                for (int i = 0; i < EACH; i++) {
                    s[i][j] = there && k0 + y + i <= query ? expf(fmaf(s[i][j], z.scale, -top)) : 0;
                    d[i][j] = s[i][j] * (d[i][j] - mean);
                }
            }
            t.mul(accv, s, nullptr, O, z.dim);
            __syncthreads(); /* all have read the probabilities */
            t.mul(acck, d, nullptr, Q, z.dim);
        }
    const float scale[EACH] = {z.scale, z.scale, z.scale, z.scale}, one[EACH] = {1, 1, 1, 1};
    t.put(dk + (K.x - k), K, acck, scale, z.dim);
    t.put(dv + (K.x - k), K, accv, one, z.dim);
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

/* The instance of template f for the code that runs on the device and for dim channels; in_bf16 where operands are bf16.
 * From SQ_GPU_BF16 (sm_80) on there is tf32, too. */
#define FOR_DEVICE(f, in_bf16, g, bf16, dim)           \
    ((g)->code < SQ_GPU_BF16        ? FOR_DIM(f, SM75, dim) \
     : (bf16) && (dim) <= MOST_BF16 ? (in_bf16)             \
                                    : FOR_DIM(f, SM80, dim))
#define FOR_DIM(f, sm, dim) ((dim) <= 64 ? f<sm, 2> : (dim) <= 128 ? f<sm, 4> : f<sm, 8>)

template <int SM, int CHUNKS>
static void forward(struct sq_gpu *g, float *out, float *lse, const float *q, const float *k, const float *v,
                    unsigned batch, sizes z)
{
    const unsigned n = (unsigned)((z.tokens + TILE - 1) / TILE);
    GPU_LAUNCH(g, (attention_tiles<SM, CHUNKS>), dim3(n, (unsigned)z.heads, batch), THREADS, out, lse, q, k, v, z);
}

void sq_attention_cuda(struct sq_gpu *g, float *out, float *lse, const float *q, const float *k, const float *v,
                       int64_t batch, int64_t tokens, int64_t heads, int64_t kv, int64_t dim, bool bf16)
{
    const sizes z = sizes_of(tokens, heads, kv, dim);
    if (refused(g, batch, z, "attention"))
        return;
    const auto run = FOR_DEVICE(forward, attention_bf16, g, bf16, dim);
    run(g, out, lse, q, k, v, (unsigned)batch, z);
}

template <int SM, int CHUNKS>
static void backward(struct sq_gpu *g, float *dq, float *dk, float *dv, const float *dout, const float *lse,
                     const float *delta, const float *q, const float *k, const float *v, unsigned batch, sizes z)
{
    const unsigned n = (unsigned)((z.tokens + TILE - 1) / TILE);
    GPU_LAUNCH(g, (attention_dq<SM, CHUNKS>), dim3(n, (unsigned)z.heads, batch), THREADS, dq, dout, lse, delta, q, k, v,
               z);
    GPU_LAUNCH(g, (attention_dkv<SM, CHUNKS>), dim3(n, (unsigned)z.kv, batch), THREADS, dk, dv, dout, lse, delta, q, k,
               v, z);
}

void sq_attention_grad_cuda(struct sq_gpu *g, float *dq, float *dk, float *dv, const float *dout, const float *out,
                            const float *lse, const float *q, const float *k, const float *v, int64_t batch,
                            int64_t tokens, int64_t heads, int64_t kv, int64_t dim, bool bf16)
{
    const sizes z = sizes_of(tokens, heads, kv, dim);
    const int64_t rows = batch * tokens * heads;
    if (refused(g, batch, z, "attention_grad"))
        return;
    float *delta = static_cast<float *>(gpu_space(g, (size_t)rows * sizeof(float), "attention_grad"));
    GPU_LAUNCH(g, attention_delta, gpu_row_blocks(rows), GPU_ROW_BLOCK, delta, dout, out, batch, z);
    const auto run = FOR_DEVICE(backward, attention_grad_bf16, g, bf16, dim);
    run(g, dq, dk, dv, dout, lse, delta, q, k, v, (unsigned)batch, z);
}
