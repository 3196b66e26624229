/* Layers with experts: a warp a token where experts are looked at, else a thread an element. All are small beside the
 * experts' products.
 *
 * choose: the k-th best comes next behind the one before it in an order without ties, so nothing needs to be marked;
 * whoever does not come behind the last is chosen, and ballots count these in the order of experts.
 * assign: counting sort. A thread a piece of the tokens and an expert counts, one block makes first slots of the counts,
 * then the same threads walk their tokens again: no atomics, slots in the order of tokens. Bound by reading `chosen` once
 * for each expert, from the caches.
 * scatter, scale_rows: bound by memory, 4 top + 4 and 8 bytes an element. Blocks of 128 and 256 threads, no shared memory. */
#include "gpu.h"

/* in double: max and sum of a row, then the row again */
static __global__ void __launch_bounds__(GPU_ROW_BLOCK) softmax_rows(float *p, int64_t rows, int64_t n)
{
    GPU_ROW_LOOP (i, rows) {
        float *x = p + i * n, top = -HUGE_VALF;
        double sum = 0;
        GPU_LANE_LOOP (e, n)
            top = fmaxf(top, x[e]);
        const double max = (double)warp_max(top);
        GPU_LANE_LOOP (e, n)
            sum += exp((double)x[e] - max);
        sum = warp_sum(sum);
        GPU_LANE_LOOP (e, n)
            x[e] = (float)(exp((double)x[e] - max) / sum);
    }
}

/* ---- the choice ---- */

struct candidate {
    float p;
    int64_t e;
};

/* NaN comes behind all probabilities. */
static __device__ inline candidate candidate_of(const float *p, int64_t e)
{
    return {p[e] >= 0 ? p[e] : -1, e};
}

static __device__ inline bool before(candidate a, candidate b)
{
    return a.p > b.p || (a.p == b.p && a.e < b.e);
}

/* the first one behind `last`, in all lanes */
static __device__ candidate next_best(const float *p, int64_t experts, candidate last)
{
    candidate best = {-2, INT64_MAX};
    GPU_LANE_LOOP (e, experts) {
        const candidate c = candidate_of(p, e);
        if (before(last, c) && before(c, best))
            best = c;
    }
    for (int o = GPU_LANES / 2; o > 0; o /= 2) {
        const candidate other = {__shfl_xor_sync(GPU_ALL, best.p, o), __shfl_xor_sync(GPU_ALL, best.e, o)};
        best = before(other, best) ? other : best;
    }
    return best;
}

static __global__ void __launch_bounds__(GPU_ROW_BLOCK) choose_rows(struct sq_routing r)
{
    GPU_ROW_LOOP (i, r.tokens) {
        const float *p = r.prob + i * r.experts;
        int32_t *to = r.chosen + i * r.top;
        candidate last = {HUGE_VALF, -1};
        for (int64_t k = 0; k < r.top; k++)
            last = next_best(p, r.experts, last);
        for (int64_t first = 0; first < r.experts; first += GPU_LANES) {
            const int lane = threadIdx.x % GPU_LANES;
            const int64_t e = first + lane;
            const bool chosen = e < r.experts && !before(last, candidate_of(p, e));
            const uint32_t all = __ballot_sync(GPU_ALL, chosen);
            if (chosen)
                to[__popc(all & ((1u << lane) - 1))] = (int32_t)e;
            to += __popc(all);
        }
    }
}

/* ---- slots ---- */

/* Thread `at` has an expert and the choices first ... last - 1: those of a piece of the tokens. */
struct walk {
    int64_t expert, first, last;
};

static __device__ inline walk walk_of(const struct sq_routing &r, int64_t step, int64_t at)
{
    const int64_t token = at / r.experts * step;
    return {at % r.experts, token * r.top, SQ_MIN(token + step, r.tokens) * r.top};
}

/* count [pieces, E] */
static __global__ void __launch_bounds__(GPU_BLOCK)
    count_choices(int32_t *count, struct sq_routing r, int64_t pieces, int64_t step)
{
    GPU_LOOP (at, pieces * r.experts) {
        const walk w = walk_of(r, step, at);
        int32_t sum = 0;
        for (int64_t i = w.first; i < w.last; i++)
            sum += r.chosen[i] == w.expert;
        count[at] = sum;
    }
}

/* one block: begin, and count becomes what an expert has in the pieces before */
static __global__ void __launch_bounds__(GPU_BLOCK)
    first_slots(int64_t *begin, int32_t *count, int64_t pieces, int64_t experts)
{
    for (int64_t e = threadIdx.x; e < experts; e += GPU_BLOCK) {
        int32_t sum = 0;
        for (int64_t k = 0; k < pieces; k++) {
            const int32_t here = count[k * experts + e];
            count[k * experts + e] = sum;
            sum += here;
        }
        begin[e + 1] = sum;
    }
    __syncthreads();
    if (threadIdx.x != 0)
        return;
    begin[0] = 0;
    for (int64_t e = 0; e < experts; e++)
        begin[e + 1] += begin[e];
}

static __device__ inline float share_of(const struct sq_routing &r, int64_t token, int64_t expert)
{
    const float *p = r.prob + token * r.experts;
    double sum = 0;
    for (int64_t k = 0; k < r.top; k++)
        sum += (double)p[r.chosen[token * r.top + k]];
    return r.renorm ? (float)((double)p[expert] / sum) : p[expert];
}

static __global__ void __launch_bounds__(GPU_BLOCK)
    place_choices(struct sq_routing r, const int32_t *earlier, int64_t pieces, int64_t step)
{
    GPU_LOOP (at, pieces * r.experts) {
        const walk w = walk_of(r, step, at);
        int64_t s = r.begin[w.expert] + earlier[at];
        for (int64_t i = w.first; i < w.last; i++) {
            if (r.chosen[i] != w.expert)
                continue;
            r.slot[i] = s;
            r.token[s] = i / r.top;
            r.share[s] = share_of(r, i / r.top, w.expert);
            s++;
        }
    }
}

/* ---- the gradient of shares ---- */

/* As the reference: every lane has the sums over the top, in their order. */
static __global__ void __launch_bounds__(GPU_ROW_BLOCK)
    route_grad_rows(float *dlogit, const double *dshare, struct sq_routing r)
{
    GPU_ROW_LOOP (i, r.tokens) {
        const float *p = r.prob + i * r.experts;
        const int32_t *chosen = r.chosen + i * r.top;
        const int64_t *slot = r.slot + i * r.top;
        double sum = 0, mean = 0, inner = 0;
        for (int64_t k = 0; k < r.top; k++) {
            sum += (double)p[chosen[k]];
            mean += dshare[slot[k]] * (double)r.share[slot[k]];
        }
        const double scale = r.renorm ? 1 / sum : 1, shift = r.renorm ? mean : 0;
        for (int64_t k = 0; k < r.top; k++)
            inner += (double)p[chosen[k]] * (dshare[slot[k]] - shift) * scale;
        GPU_LANE_LOOP (e, r.experts) {
            float d = (float)(-(double)p[e] * inner);
            for (int64_t k = 0; k < r.top; k++)
                if (chosen[k] == e)
                    d += (float)((double)p[e] * (dshare[slot[k]] - shift) * scale);
            dlogit[i * r.experts + e] = d;
        }
    }
}

/* ---- rows ---- */

static __global__ void __launch_bounds__(GPU_BLOCK)
    scatter_elements(float *y, bool add, const float *x, const float *scale, const int64_t *pick, int64_t count,
                     int64_t top, int64_t n)
{
    GPU_LOOP (i, count) {
        const int64_t *from = pick + i / n * top;
        float sum = add ? y[i] : 0;
        for (int64_t k = 0; k < top; k++)
            sum += (scale ? scale[from[k]] : 1) * x[from[k] * n + i % n];
        y[i] = sum;
    }
}

static __global__ void __launch_bounds__(GPU_BLOCK)
    scale_elements(float *x, const float *scale, int64_t count, int64_t n)
{
    GPU_LOOP (i, count)
        x[i] *= scale[i / n];
}

static __global__ void __launch_bounds__(GPU_ROW_BLOCK)
    dot_rows(double *dot, const float *a, const float *b, int64_t rows, int64_t n)
{
    GPU_ROW_LOOP (i, rows) {
        double sum = 0;
        GPU_LANE_LOOP (j, n)
            sum += (double)a[i * n + j] * (double)b[i * n + j];
        sum = warp_sum(sum);
        if (threadIdx.x % GPU_LANES == 0)
            dot[i] = sum;
    }
}

/* ---- operations ---- */

void sq_softmax_cuda(struct sq_gpu *g, float *p, int64_t rows, int64_t n)
{
    if (rows > 0)
        GPU_LAUNCH(g, softmax_rows, gpu_row_blocks(rows), GPU_ROW_BLOCK, p, rows, n);
}

void sq_choose_cuda(struct sq_gpu *g, const struct sq_routing *r)
{
    const struct sq_routing to = *r;
    if (to.tokens > 0)
        GPU_LAUNCH(g, choose_rows, gpu_row_blocks(to.tokens), GPU_ROW_BLOCK, to);
}

void sq_assign_cuda(struct sq_gpu *g, const struct sq_routing *r)
{
    const struct sq_routing to = *r;
    const gpu_pieces p = gpu_pieces_of(to.tokens);
    const int64_t counts = p.count * to.experts;
    int32_t *count = static_cast<int32_t *>(gpu_space(g, (size_t)counts * sizeof *count, "assign"));
    if (counts > 0)
        GPU_LAUNCH(g, count_choices, gpu_blocks(counts), GPU_BLOCK, count, to, p.count, p.step);
    GPU_LAUNCH(g, first_slots, 1, GPU_BLOCK, to.begin, count, p.count, to.experts);
    if (counts > 0)
        GPU_LAUNCH(g, place_choices, gpu_blocks(counts), GPU_BLOCK, to, count, p.count, p.step);
}

void sq_route_grad_cuda(struct sq_gpu *g, float *dlogit, const double *dshare, const struct sq_routing *r)
{
    const struct sq_routing to = *r;
    if (to.tokens > 0)
        GPU_LAUNCH(g, route_grad_rows, gpu_row_blocks(to.tokens), GPU_ROW_BLOCK, dlogit, dshare, to);
}

void sq_scatter_cuda(struct sq_gpu *g, float *y, bool add, const float *x, const float *scale, const int64_t *pick,
                     int64_t rows, int64_t top, int64_t n)
{
    if (rows * n > 0)
        GPU_LAUNCH(g, scatter_elements, gpu_blocks(rows * n), GPU_BLOCK, y, add, x, scale, pick, rows * n, top, n);
}

void sq_scale_rows_cuda(struct sq_gpu *g, float *x, const float *scale, int64_t rows, int64_t n)
{
    if (rows * n > 0)
        GPU_LAUNCH(g, scale_elements, gpu_blocks(rows * n), GPU_BLOCK, x, scale, rows * n, n);
}

void sq_row_dots_cuda(struct sq_gpu *g, double *dot, const float *a, const float *b, int64_t rows, int64_t n)
{
    if (rows > 0)
        GPU_LAUNCH(g, dot_rows, gpu_row_blocks(rows), GPU_ROW_BLOCK, dot, a, b, rows, n);
}
