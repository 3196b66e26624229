/* gpu.h - what the kernels' files share: the handle, launches, loops, sums of a warp. Private to op/cuda.
 *
 * Arithmetic is the same for nvcc (-fmad=false) and the emulator (-ffp-contract=off): what is fused says fmaf. */
#ifndef SQ_GPU_H
#define SQ_GPU_H

#include <string.h>

#include <type_traits>

#include "simt.h"

#include "sq/device.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_runtime.h>
typedef cudaStream_t gpu_stream;
#else
#include <functional>
#include <tuple>
typedef struct sq_gpu *gpu_stream; /* whose it is */
#endif

struct gpu_blas;
struct gpu_runtime;

struct sq_gpu {
    int device, capability;
    int code; /* the capability that the kernels' code was compiled for, the device's or one before */
    gpu_stream stream[2];
    struct gpu_runtime *runtime; /* marks, recordings, what the emulator has queued */
    void *space;
    size_t space_bytes;
    struct gpu_blas *blas; /* NULL until a product runs */
    int rc;                /* the first failure */
    char error[256];
};

/* Keeps the first failure. */
void gpu_fail(struct sq_gpu *g, int rc, const char *fmt, ...) SQ_PRINTF(3, 4);
/* Looks whether a launch went through. */
void gpu_launched(struct sq_gpu *g, const char *kernel);
/* The workspace, NULL (and a failure) where it is smaller than bytes. */
void *gpu_space(struct sq_gpu *g, size_t bytes, const char *op);
/* Device memory for the library's own use. */
int gpu_alloc(struct sq_gpu *g, void **out, size_t bytes); /* the failure is kept */
void gpu_no_memory(struct sq_gpu *g, size_t bytes, const char *kind);
void gpu_release(void *p);
void gpu_blas_close(struct sq_gpu *g);

/* ---- launches ----
 * GPU_LAUNCH(g, kernel, grid, block, arguments...): grid and block are dim3 or counts of at least 1. GPU_LAUNCH_SHARED:
 * with so many bytes for SIMT_DYNAMIC, up to the 99 kB that every device from sm_80 on lets a block have. */
#define GPU_LAUNCH(g, kernel, grid, block, ...) GPU_LAUNCH_SHARED(g, kernel, grid, block, 0, __VA_ARGS__)

#ifdef __CUDACC__
#define GPU_LAUNCH_SHARED(g, kernel, grid, block, bytes, ...)                                      \
    do {                                                                                           \
        if ((g)->rc == 0) {                                                                        \
            if ((bytes) > 48 << 10) /* more than a launch gets unasked; a failure is the launch's */ \
                cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (bytes)); \
            SIMT_LAUNCH(kernel, grid, block, bytes, (g)->stream[SQ_QUEUE_WORK], __VA_ARGS__);      \
            gpu_launched((g), #kernel);                                                            \
        }                                                                                          \
    } while (0)

static inline bool gpu_owns(const void *)
{
    return true;
}
#else
bool gpu_owns(const void *p);       /* device memory, or NULL */
bool gpu_is_host(const void *word); /* an address of memory that is there, and not the device's */
/* Behind what that stream does already; runtime.h says when. */
void gpu_queue(struct sq_gpu *g, enum sq_queue q, std::function<void()> what);

/* No address in an argument is the host's, where a GPU would fault: itself, or a word of a struct, where the compiler can
 * tell these from gaps, in which anything may stand, and where no sanitizer has memory under every number. */
template <class T> static bool gpu_reachable(T x)
{
    if constexpr (std::is_pointer_v<T>)
        return gpu_owns(x);
#if __has_builtin(__builtin_clear_padding) && !defined __SANITIZE_ADDRESS__ && !defined __SANITIZE_THREAD__
    __builtin_clear_padding(&x);
    for (size_t at = 0; at + sizeof(void *) <= sizeof x; at += sizeof(void *)) {
        const void *word;
        memcpy(&word, reinterpret_cast<const char *>(&x) + at, sizeof word);
        if (gpu_is_host(word))
            return false;
    }
#endif
    return true;
}

template <class... T> static void gpu_check_args(struct sq_gpu *g, const char *kernel, const T &...args)
{
    int n = 0;
    const bool reachable[] = {true, gpu_reachable(args)...};
    for (; n < (int)sizeof...(args) && reachable[n + 1]; n++)
        ;
    if (n < (int)sizeof...(args))
        gpu_fail(g, SQ_E_DEVICE, "%s: argument %d is memory of the host's", kernel, n + 1);
}

/* Arguments are copied, and converted to the kernel's, now. */
template <class... P, class... A>
static void gpu_launch(struct sq_gpu *g, const char *name, void (*kernel)(P...), dim3 grid, dim3 block, size_t bytes,
                       const A &...args)
{
    const std::tuple<P...> given(args...);
    std::apply([&](const P &...x) { gpu_check_args(g, name, x...); }, given);
    if (bytes > (size_t)(g->capability < SQ_GPU_BF16 ? 48 : 99) << 10)
        gpu_fail(g, SQ_E_DEVICE, "%s: %zu bytes of shared memory", name, bytes);
    if (g->rc == 0)
        gpu_queue(g, SQ_QUEUE_WORK, [=] { simt::launch(grid, block, bytes, [&] { std::apply(kernel, given); }); });
}
#define GPU_LAUNCH_SHARED(g, kernel, grid, block, bytes, ...) \
    gpu_launch(g, #kernel, kernel, grid, block, bytes, __VA_ARGS__)
#endif

enum { GPU_BLOCK = 256, GPU_LANES = 32, GPU_ROW_BLOCK = 128, GPU_ROWS = GPU_ROW_BLOCK / GPU_LANES };
#define GPU_ALL 0xffffffffu

/* Blocks of a grid at most, then loops go on. Few in the emulator: a fiber costs more than a turn of a loop, and tests
 * see the loops that only large arrays see on a device. */
#ifdef __CUDACC__
enum { GPU_GRID = 1 << 16 };
#else
enum { GPU_GRID = 16 };
#endif

/* for n elements, a thread each; for n rows, a warp each */
static inline unsigned gpu_blocks(int64_t n)
{
    return (unsigned)SQ_MIN((n + GPU_BLOCK - 1) / GPU_BLOCK, (int64_t)GPU_GRID);
}

static inline unsigned gpu_row_blocks(int64_t rows)
{
    return (unsigned)SQ_MIN((rows + GPU_ROWS - 1) / GPU_ROWS, (int64_t)GPU_GRID);
}

/* in blocks of GPU_BLOCK threads: neighbours take neighbours */
#define GPU_LOOP(i, n) \
    for (int64_t i = (int64_t)blockIdx.x * GPU_BLOCK + threadIdx.x; i < (n); i += (int64_t)gridDim.x * GPU_BLOCK)
/* in blocks of GPU_ROW_BLOCK threads: a warp takes a row */
#define GPU_ROW_LOOP(i, n)                                                              \
    for (int64_t i = (int64_t)blockIdx.x * GPU_ROWS + threadIdx.x / GPU_LANES; i < (n); \
         i += (int64_t)gridDim.x * GPU_ROWS)
/* of a row: neighbouring lanes take neighbours */
#define GPU_LANE_LOOP(j, n) GPU_LANES_LOOP (j, n, 1)
/* each lane `each` of them, from j on */
#define GPU_LANES_LOOP(j, n, each) \
    for (int64_t j = threadIdx.x % GPU_LANES * (each); j < (n); j += (int64_t)GPU_LANES * (each))

/* The sum over a warp, the same bits in all lanes: a butterfly adds the same pairs on both sides. */
template <class T> static __device__ inline T warp_sum(T v)
{
    for (int o = GPU_LANES / 2; o > 0; o /= 2)
        v += __shfl_xor_sync(GPU_ALL, v, o);
    return v;
}

static __device__ inline float warp_max(float v)
{
    for (int o = GPU_LANES / 2; o > 0; o /= 2)
        v = fmaxf(v, __shfl_xor_sync(GPU_ALL, v, o));
    return v;
}

static __device__ inline float warp_min(float v)
{
    for (int o = GPU_LANES / 2; o > 0; o /= 2)
        v = fminf(v, __shfl_xor_sync(GPU_ALL, v, o));
    return v;
}

static __device__ inline float gpu_widen(uint16_t h)
{
    return __uint_as_float((uint32_t)h << 16);
}

/* to nearest even; a NaN stays one: 0x7fff where there is an instruction, elsewhere with its upper bits */
static __device__ inline uint16_t gpu_narrow(float x)
{
#if defined __CUDA_ARCH__ && __CUDA_ARCH__ >= 800
    return __bfloat16_as_ushort(__float2bfloat16_rn(x));
#else
    const uint32_t u = __float_as_uint(x);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
#endif
}

/* N neighbours, of which the first lies at a multiple of their size, as one piece. */
template <int N> struct alignas(N * sizeof(float)) gpu_few {
    float v[N];
};

template <int N> struct alignas(N * sizeof(uint16_t)) gpu_few_narrow {
    uint16_t v[N];
};

template <int N> static __device__ inline gpu_few<N> gpu_few_at(const float *x)
{
    return *reinterpret_cast<const gpu_few<N> *>(x);
}

/* An array of f32 or bf16. */
struct gpu_floats {
    void *x;
    bool narrow;

    template <int N> __device__ gpu_few<N> few(int64_t i) const
    {
        gpu_few<N> f;
        if (!narrow)
            return gpu_few_at<N>(static_cast<const float *>(x) + i);
        const auto h = *reinterpret_cast<const gpu_few_narrow<N> *>(static_cast<const uint16_t *>(x) + i);
        for (int k = 0; k < N; k++)
            f.v[k] = gpu_widen(h.v[k]);
        return f;
    }
    template <int N> __device__ void put(int64_t i, const gpu_few<N> &f) const
    {
        gpu_few_narrow<N> h;
        if (!narrow) {
            *reinterpret_cast<gpu_few<N> *>(static_cast<float *>(x) + i) = f;
            return;
        }
        for (int k = 0; k < N; k++)
            h.v[k] = gpu_narrow(f.v[k]);
        *reinterpret_cast<gpu_few_narrow<N> *>(static_cast<uint16_t *>(x) + i) = h;
    }

    __device__ float at(int64_t i) const
    {
        return few<1>(i).v[0];
    }
    __device__ void set(int64_t i, float v) const
    {
        put(i, gpu_few<1>{{v}});
    }
};

static inline gpu_floats gpu_floats_of(const void *x, enum sq_dtype type)
{
    return {const_cast<void *>(x), type == SQ_BF16};
}

static inline gpu_floats gpu_floats_of(struct sq_floats a)
{
    return gpu_floats_of(a.x, a.type);
}

/* ---- sums of columns ------------------------------------------------------------------------
 * to(k, i, sum over rows t of from(t, i)[k]) for columns i < n and a few k < F::wide, in two steps of fixed order: a
 * thread a column adds the rows of a piece in float, then a thread a column adds the pieces in double. Pieces depend on
 * the shape only. Bound by the memory that from() reads; neighbouring threads read neighbouring columns. */

struct gpu_pieces {
    int64_t count, step;
};

static inline gpu_pieces gpu_pieces_of(int64_t rows)
{
    const int64_t most = SQ_MAX(SQ_MIN((rows + 31) / 32, 256), 1), step = (rows + most - 1) / most;
    return {step ? (rows + step - 1) / step : 0, step};
}

/* grid (columns / 256, pieces); part [pieces, wide, n] */
template <class F>
static __global__ void __launch_bounds__(GPU_BLOCK)
    column_parts(float *part, F from, int64_t rows, int64_t step, int64_t n)
{
    const int64_t first = blockIdx.y * step, last = SQ_MIN(first + step, rows);
    GPU_LOOP (i, n) {
        float sum[F::wide] = {};
        for (int64_t t = first; t < last; t++)
            from(sum, t, i);
        for (int k = 0; k < F::wide; k++)
            part[(blockIdx.y * F::wide + k) * n + i] = sum[k];
    }
}

template <class G>
static __global__ void __launch_bounds__(GPU_BLOCK)
    column_ends(G to, const float *part, int64_t pieces, int64_t wide, int64_t n)
{
    GPU_LOOP (at, wide * n) {
        double sum = 0;
        for (int64_t k = 0; k < pieces; k++)
            sum += (double)part[k * wide * n + at];
        to(at / n, at % n, sum);
    }
}

template <class F, class G>
static void gpu_column_sums(struct sq_gpu *g, G to, F from, int64_t rows, int64_t n, const char *op)
{
    const gpu_pieces p = gpu_pieces_of(rows);
    const int64_t wide = F::wide;
    if (n <= 0 || rows <= 0)
        return;
    float *part = static_cast<float *>(gpu_space(g, (size_t)(p.count * wide * n) * sizeof(float), op));
    GPU_LAUNCH(g, (column_parts<F>), dim3(gpu_blocks(n), (unsigned)p.count), GPU_BLOCK, part, from, rows, p.step, n);
    GPU_LAUNCH(g, (column_ends<G>), gpu_blocks(wide * n), GPU_BLOCK, to, part, p.count, wide, n);
}

/* x[i] += sum */
struct gpu_add_to {
    float *x;
    __device__ void operator()(int64_t, int64_t i, double sum) const
    {
        x[i] = (float)((double)x[i] + sum);
    }
};

/* ---- the operations, one file each family ---- */
#define GPU_OP(name) std::remove_pointer_t<decltype(sq_device_ops::name)> sq_##name##_cuda
extern "C" {
GPU_OP(gemm);
GPU_OP(gemm_codes);
GPU_OP(rmsnorm);
GPU_OP(rmsnorm_grad);
GPU_OP(rope);
GPU_OP(swiglu);
GPU_OP(swiglu_grad);
GPU_OP(attention);
GPU_OP(attention_grad);
GPU_OP(add);
GPU_OP(bias);
GPU_OP(bias_grad);
GPU_OP(adamw);
GPU_OP(rowquant);
GPU_OP(rowquant_grad);
GPU_OP(rowquant_encode);
GPU_OP(rowquant_search);
GPU_OP(nll);
GPU_OP(kl);
GPU_OP(widen);
GPU_OP(narrow);
GPU_OP(round);
GPU_OP(project);
GPU_OP(not_finite);
GPU_OP(gather);
GPU_OP(column_sums);
GPU_OP(loss);
GPU_OP(fold);
GPU_OP(fold_grad);
GPU_OP(spread);
GPU_OP(collect);
GPU_OP(hadamard);
GPU_OP(softmax);
GPU_OP(choose);
GPU_OP(assign);
GPU_OP(route_grad);
GPU_OP(scatter);
GPU_OP(scale_rows);
GPU_OP(row_dots);
}

#endif
