/* The pass over a linear's weights and its backward (libsq/quant/fold.c): W~ is made as it is read, never stored.
 *
 *   W~[i,j] = W[i,j] c[j] r[i] + (1/rank) sum over t of B[i,t] A[t,j]     columns, rows, then LoRA: docs/method.md 3
 *
 * fold: a warp a group. Bound by instructions: at rank 4 an element is made twice, about 20 each, and rounded, 63 in all;
 * of memory it has 2 (bf16) or 4 bytes read, the second time from L2, and as many written; A (4 rank bytes an element)
 * comes from L1 and L2, as the four warps of a block walk the same columns.
 * fold_grad reads the extremes that fold left, and makes an element once, 66. A warp takes a row, group by group: it turns
 * dw into G in place (10 bytes an element in bf16, 12 in f32) and adds up the row's sums for B and r on the way; ranks
 * beyond four take further walks (4 bytes each, from L2). Then a thread a column adds A's and c's sums, four ranks at a
 * time (4 bytes, with c 6 or 8). Blocks of 128 and 256 threads, no shared memory. */
#include "rowquant_warp.h"

/* The rank that has instances of its own, a row of B in registers, a lane with so many neighbours at once; 0: any. */
enum { USUAL = 4, NEIGHBOURS = 4 };

/* Row i of W~; its elements from (i, j) on are row(i)(j). */
struct folded_rows {
    gpu_floats w;
    const float *c, *r, *a, *b;
    int64_t rank, cols;
};

template <int RANK> struct folded_row {
    enum { EACH = RANK ? NEIGHBOURS : 1 };
    folded_rows z;
    int64_t at;
    float r, b[RANK ? RANK : 1];

    __device__ folded_row(const folded_rows &from, int64_t i) : z(from), at(i * from.cols), r(from.r ? from.r[i] : 1)
    {
        for (int t = 0; t < RANK; t++)
            b[t] = z.b[i * RANK + t];
        z.b += i * z.rank;
    }

    __device__ gpu_few<EACH> operator()(int64_t j) const
    {
        const int64_t rank = RANK ? RANK : z.rank;
        gpu_few<EACH> f = z.w.few<EACH>(at + j), sum = {};
        if (z.c) {
            const gpu_few<EACH> c = gpu_few_at<EACH>(z.c + j);
            for (int k = 0; k < EACH; k++)
                f.v[k] *= c.v[k];
        }
        for (int k = 0; k < EACH; k++)
            f.v[k] *= r;
        if (rank == 0)
            return f;
        for (int64_t t = 0; t < rank; t++) {
            const gpu_few<EACH> a = gpu_few_at<EACH>(z.a + t * z.cols + j);
            const float bt = RANK ? b[t] : z.b[t];
            for (int k = 0; k < EACH; k++)
                sum.v[k] = t == 0 ? bt * a.v[k] : sum.v[k] + bt * a.v[k];
        }
        for (int k = 0; k < EACH; k++)
            f.v[k] += sum.v[k] / (float)rank;
        return f;
    }
};

template <int RANK> struct folded_source {
    folded_rows z;
    __device__ folded_row<RANK> row(int64_t i) const
    {
        return {z, i};
    }
};

static folded_rows folded_of(const struct sq_fold_args *a)
{
    return {gpu_floats_of(a->w, a->w_type), a->c, a->r, a->a, a->b, a->rank, a->cols};
}

struct into_floats {
    gpu_floats y;
    int64_t cols;
    template <int N> __device__ void operator()(int64_t row, int64_t j, const gpu_few<N> &v) const
    {
        y.put(row * cols + j, v);
    }
};

template <int RANK>
static __global__ void __launch_bounds__(GPU_ROW_BLOCK)
    fold_groups(gpu_floats to, folded_rows z, warp_rows r, warp_ends *ends, struct sq_codes code)
{
    const folded_source<RANK> from = {z};
    GPU_ROW_LOOP (i, r.rows * r.groups) {
        const warp_ends e = warp_ends_of(r, i, from);
        if (ends && r.p.bits < 16 && threadIdx.x % GPU_LANES == 0)
            ends[i] = e;
        int32_t sum = 0;
        const auto keep = [&](int64_t row, int64_t j, float whole) {
            if (code.q) {
                code.q[row * code.ld + j] = (uint8_t)whole;
                sum += (int32_t)whole;
            }
        };
        const rq_grid g = warp_round(r, i, from, e, into_floats{to, r.cols}, keep);
        sum = warp_sum(sum);
        if (code.q && threadIdx.x % GPU_LANES == 0) {
            code.scale[i] = g.s;
            code.zero[i] = g.zp - rq_low(&r.p);
            code.sum[i] = sum;
        }
    }
}

enum { RANKS = 4 }; /* at a time, in registers */

/* A lane's part of db[i, first ... first + 3], and of dr[i] with the first */
template <int RANK> struct row_sums {
    folded_rows z;
    int64_t first, ranks;
    bool scales;
    float sum[RANKS] = {}, scaled = 0;

    __device__ row_sums(const folded_rows &from, int64_t first_rank, bool with_scales)
        : z(from), first(first_rank), ranks(SQ_MIN((int64_t)RANKS, from.rank - first_rank)), scales(with_scales)
    {
    }

    __device__ bool has(int t) const
    {
        return RANK == RANKS || t < ranks;
    }

    /* gradients of N columns, neighbours */
    template <int N> __device__ void add(int64_t i, int64_t j, const gpu_few<N> &d)
    {
        for (int t = 0; t < RANKS; t++) {
            if (!has(t))
                break;
            const gpu_few<N> a = gpu_few_at<N>(z.a + (first + t) * z.cols + j);
            for (int k = 0; k < N; k++)
                sum[t] = fmaf(d.v[k], a.v[k], sum[t]);
        }
        if (!scales)
            return;
        const gpu_few<N> w = z.w.few<N>(i * z.cols + j);
        for (int k = 0; k < N; k++)
            scaled = fmaf(d.v[k] * w.v[k], z.c ? z.c[j + k] : 1.0f, scaled);
    }

    __device__ void put(float *db, float *dr, int64_t i) const
    {
        for (int t = 0; t < RANKS; t++) {
            const float all = warp_sum(sum[t]);
            if (has(t) && threadIdx.x % GPU_LANES == 0)
                db[i * z.rank + first + t] = all / (float)z.rank;
        }
        const float all = warp_sum(scaled);
        if (scales && threadIdx.x % GPU_LANES == 0)
            dr[i] = all;
    }
};

/* Sums of the first ranks are made of G as it comes, of others once G lies there. */
template <int RANK>
static __global__ void __launch_bounds__(GPU_ROW_BLOCK)
    fold_unround(float *dw, float *du, float *dl, float *db, float *dr, folded_rows z, warp_rows r,
                 const warp_ends *ends)
{
    GPU_ROW_LOOP (i, r.rows) {
        row_sums<RANK> own(z, 0, dr != nullptr);
        const auto sum = [&](int64_t j, const auto &d) { own.add(i, j, d); };
        for (int64_t k = i * r.groups; k < (i + 1) * r.groups; k++)
            warp_unround(r, k, folded_source<RANK>{z}, r.p.bits < 16 ? ends[k] : warp_ends{}, dw, du, dl, dw, sum);
        own.put(db, dr, i);
        for (int64_t first = RANKS; RANK != RANKS && first < z.rank; first += RANKS) {
            row_sums<0> more(z, first, false);
            __syncwarp(); /* a group's columns have other lanes than the row's */
            GPU_LANE_LOOP (j, z.cols)
                more.add(i, j, gpu_few<1>{{dw[i * z.cols + j]}});
            more.put(db, nullptr, i);
        }
    }
}

struct fold_terms {
    const float *dw;
    folded_rows z;
    int64_t first, ranks;
    bool scales;
    enum { wide = RANKS + 1 };
    __device__ void operator()(float *sum, int64_t i, int64_t j) const
    {
        const float d = dw[i * z.cols + j];
        for (int t = 0; t < RANKS; t++)
            if (t < ranks)
                sum[t] = fmaf(z.b[i * z.rank + first + t], d, sum[t]);
        if (scales)
            sum[RANKS] = fmaf(d * z.w.at(i * z.cols + j), z.r ? z.r[i] : 1.0f, sum[RANKS]);
    }
};

struct fold_into {
    float *da, *dc; /* da from rank `first` on */
    int64_t ranks, rank, cols;
    __device__ void operator()(int64_t t, int64_t j, double sum) const
    {
        if (t < ranks)
            da[t * cols + j] = (float)((double)da[t * cols + j] + sum / (double)rank);
        else if (t == RANKS && dc)
            dc[j] = (float)((double)dc[j] + sum);
    }
};

static warp_ends *ends_of(const struct sq_fold_args *a)
{
    static_assert(sizeof(warp_ends) == 2 * sizeof(float), "max and min, as struct sq_fold_args has them");
    return reinterpret_cast<warp_ends *>(a->ends);
}

/* Is it of the usual rank, and can a lane have neighbours, and all lanes some? */
static bool is_usual(const struct sq_fold_args *a)
{
    const int64_t width = a->q.group ? a->q.group : a->cols;
    return a->rank == USUAL && a->cols % NEIGHBOURS == 0 && width % NEIGHBOURS == 0 &&
           width >= NEIGHBOURS * (int64_t)GPU_LANES;
}

/* to: what is written */
static bool fold_refused(struct sq_gpu *g, const struct sq_fold_args *a, const void *to)
{
    for (const void *x : {a->w, static_cast<const void *>(a->c), static_cast<const void *>(a->a), to})
        if ((uintptr_t)x % sizeof(gpu_few<NEIGHBOURS>) != 0)
            gpu_fail(g, SQ_E_ARG, "fold: an array at an address that is not a multiple of 16");
    if (a->code && (a->q.group || a->q.bits > 8))
        gpu_fail(g, SQ_E_ARG, "fold: codes of groups of %lld, %d bits", (long long)a->q.group, a->q.bits);
    return g->rc != 0 || a->rows <= 0 || a->cols <= 0;
}

void sq_fold_cuda(struct sq_gpu *g, const struct sq_fold_args *a)
{
    const warp_rows r = warp_rows_of(&a->q, a->u, a->l, a->rows, a->cols);
    const folded_rows z = folded_of(a);
    const gpu_floats to = gpu_floats_of(a->to, a->to_type);
    warp_ends *const ends = ends_of(a);
    struct sq_codes code = {};
    if (fold_refused(g, a, a->to))
        return;
    if (a->code) {
        a->code->bits = a->q.bits;
        a->code->cols = r.covered;
        code = *a->code;
    }
    const unsigned blocks = gpu_row_blocks(a->rows * r.groups);
    if (is_usual(a))
        GPU_LAUNCH(g, fold_groups<USUAL>, blocks, GPU_ROW_BLOCK, to, z, r, ends, code);
    else
        GPU_LAUNCH(g, fold_groups<0>, blocks, GPU_ROW_BLOCK, to, z, r, ends, code);
}

void sq_fold_grad_cuda(struct sq_gpu *g, float *dw, float *du, float *dl, float *da, float *db, float *dc, float *dr,
                       const struct sq_fold_args *a)
{
    const warp_rows r = warp_rows_of(&a->q, a->u, a->l, a->rows, a->cols);
    const folded_rows z = folded_of(a);
    if (a->q.bits < 16 && !a->ends)
        gpu_fail(g, SQ_E_ARG, "fold_grad: without the extremes that the fold found");
    if (fold_refused(g, a, dw))
        return;
    const unsigned blocks = gpu_row_blocks(a->rows);
    if (is_usual(a))
        GPU_LAUNCH(g, fold_unround<USUAL>, blocks, GPU_ROW_BLOCK, dw, du, dl, db, dr, z, r, ends_of(a));
    else
        GPU_LAUNCH(g, fold_unround<0>, blocks, GPU_ROW_BLOCK, dw, du, dl, db, dr, z, r, ends_of(a));
    for (int64_t first = 0; first == 0 || first < a->rank; first += RANKS) {
        const int64_t ranks = SQ_MIN((int64_t)RANKS, a->rank - first);
        float *cols = first == 0 ? dc : nullptr;
        if (ranks > 0 || cols)
            gpu_column_sums(g, fold_into{da ? da + first * a->cols : nullptr, cols, ranks, a->rank, a->cols},
                            fold_terms{dw, z, first, ranks, cols != nullptr}, a->rows, a->cols, "fold_grad");
    }
}
