/* Element-wise operations: a thread an element, blocks of 256, all bound by the bytes that their arrays have.
 *
 * AdamW and the loss compute in double: on cards with little of it they are still bound by memory or small. */
#include "gpu.h"

/* channel j of a head pairs with j + D/2; a thread a pair: 16 bytes read, 8 of them from the caches, 8 or 4 written */
static __global__ void __launch_bounds__(GPU_BLOCK)
    rope_pairs(gpu_floats y, const float *x, const float *cos, const float *sin, int64_t pairs, int64_t tokens,
               int64_t heads, int64_t dim, bool inverse)
{
    const int64_t half = dim / 2;
    GPU_LOOP (k, pairs) {
        const int64_t j = k % half, row = k / half / heads, turn = row % tokens * half + j;
        const float c = cos[turn], s = inverse ? -sin[turn] : sin[turn];
        const int64_t a = k / half * dim + j, b = a + half;
        const float u = x[a], w = x[b];
        y.set(a, fmaf(u, c, -w * s));
        y.set(b, fmaf(w, c, u * s));
    }
}

static __device__ inline float sigmoid(float x)
{
    return 1 / (1 + expf(-x));
}

static __global__ void __launch_bounds__(GPU_BLOCK)
    swiglu_elements(gpu_floats y, const float *gate, const float *up, int64_t n)
{
    GPU_LOOP (i, n)
        y.set(i, gate[i] * sigmoid(gate[i]) * up[i]);
}

/* silu'(g) = s + g s (1 - s), s = sigmoid(g) */
static __global__ void __launch_bounds__(GPU_BLOCK)
    swiglu_grad_elements(gpu_floats dgate, gpu_floats dup, gpu_floats y, const float *dy, const float *gate,
                         const float *up, int64_t n)
{
    GPU_LOOP (i, n) {
        const float a = gate[i], u = up[i], d = dy[i], s = sigmoid(a);
        if (y.x)
            y.set(i, a * s * u);
        dgate.set(i, d * u * (s + a * s * (1 - s)));
        dup.set(i, d * a * s);
    }
}

static __global__ void __launch_bounds__(GPU_BLOCK) add_elements(float *y, const float *x, int64_t n)
{
    GPU_LOOP (i, n)
        y[i] += x[i];
}

static __global__ void __launch_bounds__(GPU_BLOCK) bias_elements(float *y, const float *bias, int64_t count, int64_t n)
{
    GPU_LOOP (i, count)
        y[i] += bias[i % n];
}

/* 16 bytes read, 12 written */
static __global__ void __launch_bounds__(GPU_BLOCK)
    adamw_elements(float *x, float *m, float *v, const float *grad, int64_t n, double root2, double rate)
{
    const double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
    GPU_LOOP (i, n) {
        const double gi = (double)grad[i];
        const double mi = beta1 * (double)m[i] + (1 - beta1) * gi, vi = beta2 * (double)v[i] + (1 - beta2) * gi * gi;
        x[i] = (float)((double)x[i] - mi / (sqrt(vi) / root2 + eps) * rate);
        m[i] = (float)mi;
        v[i] = (float)vi;
    }
}

static __global__ void __launch_bounds__(GPU_BLOCK) convert_elements(gpu_floats y, gpu_floats x, int64_t n)
{
    GPU_LOOP (i, n)
        y.set(i, x.at(i));
}

static __global__ void __launch_bounds__(GPU_BLOCK) round_elements(float *x, int64_t n)
{
    GPU_LOOP (i, n)
        x[i] = gpu_widen(gpu_narrow(x[i]));
}

static __global__ void __launch_bounds__(GPU_BLOCK) project_elements(float *x, float least, int64_t n)
{
    GPU_LOOP (i, n)
        x[i] = x[i] < 0 ? fminf(x[i], -least) : fmaxf(x[i], least);
}

static __global__ void __launch_bounds__(GPU_BLOCK)
    gather_elements(float *y, gpu_floats x, const int64_t *pick, int64_t count, int64_t n)
{
    GPU_LOOP (i, count)
        y[i] = x.at(pick[i / n] * n + i % n);
}

static __global__ void __launch_bounds__(GPU_BLOCK)
    spread_elements(float *y, const float *base, const float *x, const int32_t *map, bool inverse, int64_t n)
{
    GPU_LOOP (i, n) {
        const float b = base ? base[i] : 1, v = x[map[i]];
        y[i] = inverse ? b / v : b * v;
    }
}

static __global__ void __launch_bounds__(GPU_BLOCK)
    collect_elements(float *dx, const float *dy, const float *base, const float *x, const int32_t *first,
                     const int32_t *from, bool inverse, int64_t m)
{
    GPU_LOOP (k, m) {
        double sum = 0;
        for (int32_t j = first[k]; j < first[k + 1]; j++)
            sum += (double)dy[from[j]] * (base ? (double)base[from[j]] : 1.0);
        const double v = (double)x[k];
        dx[k] = (float)((double)dx[k] + (inverse ? -sum / (v * v) : sum));
    }
}

struct plain_terms {
    const float *x;
    int64_t n;
    enum { wide = 1 };
    __device__ void operator()(float *sum, int64_t t, int64_t i) const
    {
        *sum += x[t * n + i];
    }
};

struct square_terms {
    const float *x;
    int64_t n;
    enum { wide = 1 };
    __device__ void operator()(float *sum, int64_t t, int64_t i) const
    {
        *sum = fmaf(x[t * n + i], x[t * n + i], *sum);
    }
};

struct into_doubles {
    double *x;
    __device__ void operator()(int64_t, int64_t i, double sum) const
    {
        x[i] += sum;
    }
};

void sq_rope_cuda(struct sq_gpu *g, struct sq_floats y, const float *x, const float *cos, const float *sin,
                  int64_t rows, int64_t tokens, int64_t heads, int64_t dim, bool inverse)
{
    const int64_t half = dim / 2, pairs = rows * heads * half;
    const gpu_floats to = gpu_floats_of(y);
    if (pairs > 0)
        GPU_LAUNCH(g, rope_pairs, gpu_blocks(pairs), GPU_BLOCK, to, x, cos, sin, pairs, tokens, heads, dim, inverse);
}

void sq_swiglu_cuda(struct sq_gpu *g, struct sq_floats y, const float *gate, const float *up, int64_t n)
{
    const gpu_floats to = gpu_floats_of(y);
    if (n > 0)
        GPU_LAUNCH(g, swiglu_elements, gpu_blocks(n), GPU_BLOCK, to, gate, up, n);
}

void sq_swiglu_grad_cuda(struct sq_gpu *g, struct sq_floats dgate, struct sq_floats dup, struct sq_floats y,
                         const float *dy, const float *gate, const float *up, int64_t n)
{
    const gpu_floats to_gate = gpu_floats_of(dgate), to_up = gpu_floats_of(dup), again = gpu_floats_of(y);
    if (n > 0)
        GPU_LAUNCH(g, swiglu_grad_elements, gpu_blocks(n), GPU_BLOCK, to_gate, to_up, again, dy, gate, up, n);
}

void sq_add_cuda(struct sq_gpu *g, float *y, const float *x, int64_t n)
{
    if (n > 0)
        GPU_LAUNCH(g, add_elements, gpu_blocks(n), GPU_BLOCK, y, x, n);
}

void sq_bias_cuda(struct sq_gpu *g, float *y, const float *bias, int64_t rows, int64_t n)
{
    if (rows * n > 0)
        GPU_LAUNCH(g, bias_elements, gpu_blocks(rows * n), GPU_BLOCK, y, bias, rows * n, n);
}

void sq_bias_grad_cuda(struct sq_gpu *g, float *dbias, const float *dy, int64_t rows, int64_t n)
{
    gpu_column_sums(g, gpu_add_to{dbias}, plain_terms{dy, n}, rows, n, "bias_grad");
}

void sq_adamw_cuda(struct sq_gpu *g, float *x, float *m, float *v, const float *grad, int64_t n, int64_t step,
                   double lr)
{
    const double root2 = sqrt(1 - pow(0.999, (double)step)), rate = lr / (1 - pow(0.9, (double)step));
    if (n > 0)
        GPU_LAUNCH(g, adamw_elements, gpu_blocks(n), GPU_BLOCK, x, m, v, grad, n, root2, rate);
}

void sq_widen_cuda(struct sq_gpu *g, float *y, const uint16_t *x, int64_t n)
{
    const gpu_floats to = gpu_floats_of(y, SQ_F32), from = gpu_floats_of(x, SQ_BF16);
    if (n > 0)
        GPU_LAUNCH(g, convert_elements, gpu_blocks(n), GPU_BLOCK, to, from, n);
}

void sq_narrow_cuda(struct sq_gpu *g, uint16_t *y, const float *x, int64_t n)
{
    const gpu_floats to = gpu_floats_of(y, SQ_BF16), from = gpu_floats_of(x, SQ_F32);
    if (n > 0)
        GPU_LAUNCH(g, convert_elements, gpu_blocks(n), GPU_BLOCK, to, from, n);
}

void sq_round_cuda(struct sq_gpu *g, float *x, int64_t n)
{
    if (n > 0)
        GPU_LAUNCH(g, round_elements, gpu_blocks(n), GPU_BLOCK, x, n);
}

void sq_project_cuda(struct sq_gpu *g, float *x, float least, int64_t n)
{
    if (n > 0)
        GPU_LAUNCH(g, project_elements, gpu_blocks(n), GPU_BLOCK, x, least, n);
}

void sq_gather_cuda(struct sq_gpu *g, float *y, const void *x, enum sq_dtype type, const int64_t *pick, int64_t rows,
                    int64_t n)
{
    const gpu_floats from = gpu_floats_of(x, type);
    if (rows * n > 0)
        GPU_LAUNCH(g, gather_elements, gpu_blocks(rows * n), GPU_BLOCK, y, from, pick, rows * n, n);
}

void sq_column_sums_cuda(struct sq_gpu *g, double *sum, const float *x, bool squared, int64_t rows, int64_t n)
{
    if (squared)
        gpu_column_sums(g, into_doubles{sum}, square_terms{x, n}, rows, n, "column_sums");
    else
        gpu_column_sums(g, into_doubles{sum}, plain_terms{x, n}, rows, n, "column_sums");
}

void sq_spread_cuda(struct sq_gpu *g, float *y, const float *base, const float *x, const int32_t *map, bool inverse,
                    int64_t n)
{
    if (n > 0)
        GPU_LAUNCH(g, spread_elements, gpu_blocks(n), GPU_BLOCK, y, base, x, map, inverse, n);
}

void sq_collect_cuda(struct sq_gpu *g, float *dx, const float *dy, const float *base, const float *x,
                     const int32_t *first, const int32_t *from, bool inverse, int64_t m)
{
    if (m > 0)
        GPU_LAUNCH(g, collect_elements, gpu_blocks(m), GPU_BLOCK, dx, dy, base, x, first, from, inverse, m);
}
