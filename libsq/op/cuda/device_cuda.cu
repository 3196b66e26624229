/* The device: memory, streams, errors, the table of operations. One source; what CUDA does is below, what the emulator
 * does beside it. */
#include "gpu.h"

#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void gpu_fail(struct sq_gpu *g, int rc, const char *fmt, ...)
{
    va_list args;
    if (g->rc != 0)
        return;
    va_start(args, fmt);
    vsnprintf(g->error, sizeof g->error, fmt, args);
    va_end(args);
    g->rc = rc;
}

void *gpu_space(struct sq_gpu *g, size_t bytes, const char *op)
{
    if (bytes <= g->space_bytes)
        return g->space;
    gpu_fail(g, SQ_E_ARG, "%s needs %zu bytes of workspace, there are %zu", op, bytes, g->space_bytes);
    return nullptr;
}

#ifdef __CUDACC__

static const char device_name[] = "cuda";

/* True, and kept as a failure, when a call did not go through. */
static bool failed(struct sq_gpu *g, cudaError_t e, const char *what)
{
    if (e == cudaSuccess)
        return false;
    cudaGetLastError(); /* or the next launch finds it */
    gpu_fail(g, e == cudaErrorMemoryAllocation ? SQ_E_NOMEM : SQ_E_DEVICE, "device %d: %s: %s (%d)", g->device, what,
             cudaGetErrorString(e), (int)e);
    return true;
}

void gpu_launched(struct sq_gpu *g, const char *kernel)
{
    failed(g, cudaGetLastError(), kernel);
}

int gpu_alloc(void **out, size_t bytes)
{
    *out = nullptr;
    if (cudaMalloc(out, bytes ? bytes : 1) == cudaSuccess)
        return 0;
    cudaGetLastError();
    return SQ_E_NOMEM;
}

static int alloc_host(void **out, size_t bytes)
{
    *out = nullptr;
    if (cudaMallocHost(out, bytes ? bytes : 1) == cudaSuccess)
        return 0;
    cudaGetLastError();
    return SQ_E_NOMEM;
}

void gpu_release(void *p)
{
    cudaFree(p);
}

static void release_host(void *p)
{
    cudaFreeHost(p);
}

static int count(char *why, size_t n)
{
    int devices = 0;
    const cudaError_t e = cudaGetDeviceCount(&devices);
    if (e != cudaSuccess) {
        cudaGetLastError();
        snprintf(why, n, "%s (%d)", cudaGetErrorString(e), (int)e);
        return 0;
    }
    if (devices == 0)
        snprintf(why, n, "the driver has no device");
    return devices;
}

static bool start(struct sq_gpu *g)
{
    int major = 0, minor = 0;
    if (failed(g, cudaSetDevice(g->device), "choosing it") ||
        failed(g, cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, g->device), "its capability") ||
        failed(g, cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, g->device), "its capability"))
        return false;
    g->capability = 10 * major + minor;
    for (int i = 0; i < 2; i++)
        if (failed(g, cudaStreamCreateWithFlags(&g->stream[i], cudaStreamNonBlocking), "making a stream"))
            return false;
    return !failed(g, cudaEventCreateWithFlags(&g->event, cudaEventDisableTiming), "making an event");
}

static void stop(struct sq_gpu *g)
{
    for (int i = 0; i < 2; i++)
        if (g->stream[i])
            cudaStreamDestroy(g->stream[i]);
    if (g->event)
        cudaEventDestroy(g->event);
}

static void info(struct sq_gpu *g, struct sq_gpu_info *out)
{
    cudaDeviceProp p;
    size_t free_bytes = 0, all = 0;
    int clock = 0, bits = 0;
    *out = {};
    if (failed(g, cudaGetDeviceProperties(&p, g->device), "its properties") ||
        failed(g, cudaMemGetInfo(&free_bytes, &all), "its memory"))
        return;
    snprintf(out->name, sizeof out->name, "%.127s", p.name);
    cudaDriverGetVersion(&out->driver);
    cudaRuntimeGetVersion(&out->runtime);
    cudaDeviceGetAttribute(&clock, cudaDevAttrMemoryClockRate, g->device); /* kHz, two transfers a clock */
    cudaDeviceGetAttribute(&bits, cudaDevAttrGlobalMemoryBusWidth, g->device);
    out->capability = g->capability;
    out->bytes = (int64_t)all;
    out->free_bytes = (int64_t)free_bytes;
    out->processors = p.multiProcessorCount;
    out->bytes_per_second = 2e3 * clock * bits / 8;
}

static void move(struct sq_gpu *g, enum sq_queue q, void *to, const void *from, size_t bytes, const char *what)
{
    if (g->rc == 0 && bytes > 0)
        failed(g, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, g->stream[q]), what);
}

static void fill(struct sq_gpu *g, enum sq_queue q, void *to, int byte, size_t bytes)
{
    if (g->rc == 0 && bytes > 0)
        failed(g, cudaMemsetAsync(to, byte, bytes, g->stream[q]), "filling");
}

static void after(struct sq_gpu *g, enum sq_queue later, enum sq_queue earlier)
{
    if (g->rc == 0 && !failed(g, cudaEventRecord(g->event, g->stream[earlier]), "an event"))
        failed(g, cudaStreamWaitEvent(g->stream[later], g->event, 0), "an event");
}

static void wait(struct sq_gpu *g)
{
    for (int i = 0; i < 2; i++)
        failed(g, cudaStreamSynchronize(g->stream[i]), "waiting for it");
}

#else

#include <sys/mman.h>

#include <map>

static const char device_name[] = "emu";

/* Two of them: one with a unit for bf16, one without. All is done when a call returns. */
static const int capabilities[] = {80, 75};

void gpu_launched(struct sq_gpu *, const char *)
{
}

/* Memory that an emulated device has: SQ_EMU_BYTES, or as much as there is. */
static size_t emulated_bytes()
{
    const char *s = getenv("SQ_EMU_BYTES");
    return s ? strtoull(s, nullptr, 10) : 0;
}

static size_t taken;

/* What there is of device memory, by its first byte. */
static std::map<uintptr_t, size_t> owned;

bool gpu_owns(const void *p)
{
    const uintptr_t at = (uintptr_t)p;
    auto next = owned.upper_bound(at);
    if (!p || next == owned.begin())
        return !p;
    const auto &range = *--next;
    return at <= range.first + range.second; /* one behind the end is an address of the array */
}

bool gpu_is_host(const void *word)
{
    const uintptr_t page = 4096, at = (uintptr_t)word;
    if (at < (uintptr_t)1 << 32 || at >= (uintptr_t)1 << 47 || gpu_owns(word))
        return false;
    return msync((void *)(at / page * page), 1, MS_ASYNC) == 0; /* ENOMEM: nothing is there, so it is a number */
}

/* what is read before it is written is NaN */
static int alloc_host(void **out, size_t bytes)
{
    *out = aligned_alloc(256, (bytes + 256) / 256 * 256);
    if (*out)
        memset(*out, 0xff, bytes);
    return *out ? 0 : SQ_E_NOMEM;
}

int gpu_alloc(void **out, size_t bytes)
{
    const size_t all = emulated_bytes();
    *out = nullptr;
    if (all > 0 && taken + bytes > all)
        return SQ_E_NOMEM;
    const int rc = alloc_host(out, bytes);
    if (rc == 0) {
        taken += malloc_usable_size(*out);
        owned[(uintptr_t)*out] = bytes;
    }
    return rc;
}

void gpu_release(void *p)
{
    taken -= malloc_usable_size(p);
    owned.erase((uintptr_t)p);
    free(p);
}

static void release_host(void *p)
{
    free(p);
}

static int count(char *, size_t)
{
    return (int)SQ_COUNT(capabilities);
}

static bool start(struct sq_gpu *g)
{
    g->capability = capabilities[g->device];
    return true;
}

static void stop(struct sq_gpu *)
{
}

static void info(struct sq_gpu *g, struct sq_gpu_info *out)
{
    *out = {};
    snprintf(out->name, sizeof out->name, "emulated sm_%d", g->capability);
    out->capability = g->capability;
    out->processors = 1;
    out->bytes = (int64_t)emulated_bytes();
    out->free_bytes = out->bytes - (out->bytes ? (int64_t)taken : 0);
}

static void move(struct sq_gpu *g, enum sq_queue, void *to, const void *from, size_t bytes, const char *)
{
    if (g->rc == 0 && bytes > 0)
        memmove(to, from, bytes);
}

static void fill(struct sq_gpu *g, enum sq_queue, void *to, int byte, size_t bytes)
{
    if (!gpu_owns(to))
        gpu_fail(g, SQ_E_DEVICE, "filling memory of the host's");
    else if (g->rc == 0 && bytes > 0)
        memset(to, byte, bytes);
}

static void after(struct sq_gpu *, enum sq_queue, enum sq_queue)
{
}
static void wait(struct sq_gpu *)
{
}

#endif

/* ---- the same for both ---- */

static void close(struct sq_gpu **out)
{
    struct sq_gpu *g = *out;
    if (!g)
        return;
    wait(g);
    gpu_blas_close(g);
    if (g->space)
        gpu_release(g->space);
    stop(g);
    free(g);
    *out = nullptr;
}

static int open(struct sq_gpu **out, int device, char *why, size_t n)
{
    const int devices = count(why, n);
    *out = nullptr;
    if (devices == 0)
        return SQ_E_UNSUP;
    if (device < 0 || device >= devices) {
        snprintf(why, n, "there is no device %d, but %d of them from 0 on", device, devices);
        return SQ_E_ARG;
    }
    struct sq_gpu *g = static_cast<struct sq_gpu *>(calloc(1, sizeof *g));
    if (!g) {
        snprintf(why, n, "no memory for a handle");
        return SQ_E_NOMEM;
    }
    g->device = device;
    if (!start(g)) {
        const int rc = g->rc;
        snprintf(why, n, "%s", g->error);
        close(&g);
        return rc;
    }
    *out = g;
    return 0;
}

static int alloc_of(struct sq_gpu *g, void **out, size_t bytes, int (*how)(void **, size_t), const char *what)
{
    const int rc = how(out, bytes);
    if (rc < 0)
        gpu_fail(g, rc, "device %d: no %zu bytes of %s memory", g->device, bytes, what);
    return rc;
}

static int alloc(struct sq_gpu *g, void **out, size_t bytes)
{
    return alloc_of(g, out, bytes, gpu_alloc, "its");
}

static int alloc_pinned(struct sq_gpu *g, void **out, size_t bytes)
{
    return alloc_of(g, out, bytes, alloc_host, "pinned");
}

static void free_memory(struct sq_gpu *, void *p)
{
    gpu_release(p);
}

static void free_pinned(struct sq_gpu *, void *p)
{
    release_host(p);
}

static int space(struct sq_gpu *g, size_t bytes)
{
    void *larger;
    if (bytes <= g->space_bytes)
        return 0;
    wait(g);
    if (g->space)
        gpu_release(g->space); /* nothing in it is needed again, and both may be more than there is */
    g->space = nullptr;
    g->space_bytes = 0;
    const int rc = alloc(g, &larger, bytes);
    if (rc < 0)
        return rc;
    g->space = larger;
    g->space_bytes = bytes;
    return 0;
}

/* Memory that a copy or a product takes for the device's. */
static bool expect_own(struct sq_gpu *g, const void *p, const char *what)
{
    if (!gpu_owns(p))
        gpu_fail(g, SQ_E_DEVICE, "%s memory of the host's", what);
    return g->rc == 0;
}

static void put(struct sq_gpu *g, enum sq_queue q, void *to, const void *host, size_t bytes)
{
    if (expect_own(g, to, "copying to"))
        move(g, q, to, host, bytes, "copying to it");
}

static void get(struct sq_gpu *g, enum sq_queue q, void *host, const void *from, size_t bytes)
{
    if (expect_own(g, from, "copying from"))
        move(g, q, host, from, bytes, "copying from it");
}

static void copy(struct sq_gpu *g, enum sq_queue q, void *to, const void *from, size_t bytes)
{
    if (expect_own(g, to, "copying on it to") && expect_own(g, from, "copying on it from"))
        move(g, q, to, from, bytes, "copying on it");
}

static int sync(struct sq_gpu *g)
{
    wait(g);
    return g->rc;
}

static const char *error(const struct sq_gpu *g)
{
    return g->error;
}

static void clear(struct sq_gpu *g)
{
    g->rc = 0;
    g->error[0] = 0;
}

#define ROW(op) .op = sq_##op##_cuda
static const struct sq_device_ops ops = {
    ROW(gemm),
    ROW(gemm_codes),
    ROW(rmsnorm),
    ROW(rmsnorm_grad),
    ROW(rope),
    ROW(swiglu),
    ROW(swiglu_grad),
    ROW(attention),
    ROW(attention_grad),
    ROW(add),
    ROW(bias),
    ROW(bias_grad),
    ROW(adamw),
    ROW(rowquant),
    ROW(rowquant_grad),
    ROW(rowquant_encode),
    ROW(rowquant_error),
    ROW(nll),
    ROW(kl),
    ROW(widen),
    ROW(narrow),
    ROW(round),
    ROW(project),
    ROW(not_finite),
    ROW(gather),
    ROW(column_sums),
    ROW(loss),
    ROW(fold),
    ROW(fold_grad),
    ROW(spread),
    ROW(collect),
};

extern "C" __attribute__((visibility("default"))) const struct sq_device *sq_device_entry(void)
{
    static const struct sq_device device = {
        .abi = SQ_DEVICE_ABI,
        .size = sizeof(struct sq_device),
        .name = device_name,
        .count = count,
        .open = open,
        .close = close,
        .info = info,
        .alloc = alloc,
        .alloc_pinned = alloc_pinned,
        .free = free_memory,
        .free_pinned = free_pinned,
        .space = space,
        .put = put,
        .get = get,
        .copy = copy,
        .fill = fill,
        .after = after,
        .sync = sync,
        .error = error,
        .clear = clear,
        .ops = &ops,
    };
    return &device;
}
