/* simt.h - the same kernel for nvcc and for a C++ compiler, which then runs it on the processor
 *
 * Emulated, every CUDA thread is a fiber; the blocks of a grid run one after another. What a GPU leaves undefined is
 * made to show:
 *
 * - order: SQ_EMU_SEED=N shuffles blocks and the threads in them; a missing barrier changes the numbers
 * - poison: shared memory holds NaN (bytes 0xff) when a block starts, a lane that a shuffle cannot read gives NaN
 * - barriers: threads of a block that wait at different __syncthreads, or left before one: a table, abort
 * - lane masks: a lane missing from its own mask, or named by one and elsewhere: a table, abort
 * - ASan: an access out of bounds names its line (SIMT_PLAIN_SHARED gives shared arrays red zones, but no poison)
 * - TSan: every thread is a TSan fiber; a missing barrier is a race, both lines are named (run under setarch -R)
 *
 * Matrix products of a warp are in simt_tensor.h. Not here: atomics, textures, cooperative groups. Shared
 * arrays may not be in templates or inline functions (their section cannot be shared by copies that the linker merges):
 * a static function can hand them out. One grid at a time: a launch from another thread waits. */
#ifndef SQ_SIMT_H
#define SQ_SIMT_H

#ifdef __CUDACC__

#define SIMT_UNROLL                                          _Pragma("unroll")
#define SIMT_LAUNCH(kernel, grid, block, bytes, stream, ...) kernel<<<(grid), (block), (bytes), (stream)>>>(__VA_ARGS__)
#define SIMT_DYNAMIC(type, name)                                   \
    extern __shared__ __align__(16) unsigned char simt_dynamic_[]; \
    type *const name = (type *)simt_dynamic_;                      \
    static_assert(alignof(type) <= 16)

#else

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};

#define SIMT_UNROLL
#define __global__
#define __device__
#define __host__
#define __constant__    static
#define __forceinline__ inline
#define __launch_bounds__(...)
#ifdef SIMT_PLAIN_SHARED
#define __shared__ static
#else
#define __shared__ static __attribute__((section("simt_shared")))
#endif

namespace simt
{

enum op { SHFL, UP, DOWN, XOR, BALLOT, SYNC, TOGETHER };
struct where {
    const char *file;
    int line;
};

uint3 thread_index();
uint3 block_index();
dim3 block_size();
dim3 grid_size();
void *dynamic();
/* Does it lie in the block's shared memory? */
bool is_shared(const void *p, size_t bytes);
void barrier(where at);
/* v, of n <= 16 bytes, to the lanes of mask; out: what this lane gets */
void warp(enum op op, uint32_t mask, const void *v, size_t n, void *out, int arg, int width, where at);
/* Once all 32 lanes of the warp have come to this place: serve(what each of them brings), by the last one. */
typedef void serve_fn(void *const *lane);
void together(serve_fn *serve, void *mine, where at);
/* Ends with the reason and a table of the block's threads. */
[[noreturn]] void die(const char *what);
int lane();
/* The place of element e of a lane among n, a power of 2: a secret that changes with SQ_EMU_SEED. */
extern unsigned secret;
static inline unsigned place(int lane, int e, unsigned n)
{
    return ((unsigned)(lane + 32 * e) * 77 + secret) & (n - 1);
}
/* Runs body(closure) in every thread of every block. */
void run(dim3 grid, dim3 block, size_t dynamic_bytes, void (*body)(void *), void *closure);

template <class T> T shuffle(enum op op, uint32_t mask, T v, int arg, int width, where at)
{
    T out;
    static_assert(sizeof v <= 16, "a shuffle moves 16 bytes");
    warp(op, mask, &v, sizeof v, &out, arg, width, at);
    return out;
}

static inline uint32_t ballot(uint32_t mask, int p, where at)
{
    const uint32_t v = p != 0;
    uint32_t out;
    warp(BALLOT, mask, &v, sizeof v, &out, 0, 32, at);
    return out;
}

template <class F> void launch(dim3 grid, dim3 block, size_t bytes, F f)
{
    run(
        grid, block, bytes, [](void *c) { (*static_cast<F *>(c))(); }, &f);
}

} // namespace simt

#define SIMT_HERE (simt::where{__FILE__, __LINE__})
#define SIMT_LAUNCH(kernel, grid, block, bytes, stream, ...) \
    ((void)(stream), simt::launch((grid), (block), (bytes), [=] { kernel(__VA_ARGS__); }))
#define SIMT_DYNAMIC(type, name)                                 \
    type *const name = static_cast<type *>(simt::dynamic()); \
    static_assert(alignof(type) <= 16)

#define threadIdx                      (simt::thread_index())
#define blockIdx                       (simt::block_index())
#define blockDim                       (simt::block_size())
#define gridDim                        (simt::grid_size())
#define __syncthreads()                simt::barrier(SIMT_HERE)
#define __syncwarp(...) \
    simt::warp(simt::SYNC, (0xffffffffu __VA_OPT__(, ) __VA_ARGS__), nullptr, 0, nullptr, 0, 32, SIMT_HERE)
#define __shfl_sync(m, v, s, ...)      simt::shuffle(simt::SHFL, m, v, s, (32, ##__VA_ARGS__), SIMT_HERE)
#define __shfl_up_sync(m, v, s, ...)   simt::shuffle(simt::UP, m, v, s, (32, ##__VA_ARGS__), SIMT_HERE)
#define __shfl_down_sync(m, v, s, ...) simt::shuffle(simt::DOWN, m, v, s, (32, ##__VA_ARGS__), SIMT_HERE)
#define __shfl_xor_sync(m, v, s, ...)  simt::shuffle(simt::XOR, m, v, s, (32, ##__VA_ARGS__), SIMT_HERE)
#define __ballot_sync(m, p)            simt::ballot(m, p, SIMT_HERE)
#define __any_sync(m, p)               (simt::ballot(m, p, SIMT_HERE) != 0)

static inline int __popc(uint32_t x)
{
    return __builtin_popcount(x);
}

static inline uint32_t __float_as_uint(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float __uint_as_float(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* c + the four products of bytes */
static inline uint32_t __dp4a(uint32_t a, uint32_t b, uint32_t c)
{
    for (int i = 0; i < 32; i += 8)
        c += (a >> i & 255) * (b >> i & 255);
    return c;
}

#endif
#endif
