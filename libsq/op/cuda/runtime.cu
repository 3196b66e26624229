/* CUDA's runtime, linked statically. */
#include "runtime.h"

#include <stdio.h>
#include <stdlib.h>

const char gpu_runtime_name[] = "cuda";

struct gpu_runtime {
    cudaEvent_t mark[SQ_GPU_MARKS];
    cudaGraphExec_t recording[SQ_GPU_RECORDINGS];
};

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

/* ---- memory ---- */

/* Memory that ran out has a text of its own; what else is wrong may have happened in an operation before. */
static int allocated(struct sq_gpu *g, cudaError_t e, size_t bytes, const char *kind)
{
    if (e == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        gpu_no_memory(g, bytes, kind);
        return SQ_E_NOMEM;
    }
    return failed(g, e, "memory") ? SQ_E_DEVICE : 0;
}

int gpu_alloc(struct sq_gpu *g, void **out, size_t bytes)
{
    *out = nullptr;
    return allocated(g, cudaMalloc(out, bytes ? bytes : 1), bytes, "its");
}

int gpu_alloc_host(struct sq_gpu *g, void **out, size_t bytes)
{
    *out = nullptr;
    return allocated(g, cudaMallocHost(out, bytes ? bytes : 1), bytes, "pinned");
}

void gpu_release(void *p)
{
    if (p)
        cudaFree(p);
}

void gpu_release_host(void *p)
{
    if (p)
        cudaFreeHost(p);
}

/* ---- devices ---- */

int gpu_count(char *why, size_t n)
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

/* For what is known of the code that the library, or the driver from its PTX, has for a device. */
static __global__ void any_kernel()
{
}

bool gpu_start(struct sq_gpu *g)
{
    int major = 0, minor = 0;
    cudaFuncAttributes code = {};
    g->runtime = static_cast<struct gpu_runtime *>(calloc(1, sizeof *g->runtime));
    if (!g->runtime) {
        gpu_fail(g, SQ_E_NOMEM, "no memory for marks");
        return false;
    }
    if (failed(g, cudaSetDevice(g->device), "choosing it") ||
        failed(g, cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, g->device), "its capability") ||
        failed(g, cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, g->device), "its capability") ||
        failed(g, cudaFuncGetAttributes(&code, any_kernel), "looking for code for it"))
        return false;
    g->capability = 10 * major + minor;
    g->code = code.ptxVersion;
    for (int i = 0; i < 2; i++)
        if (failed(g, cudaStreamCreateWithFlags(&g->stream[i], cudaStreamNonBlocking), "making a stream"))
            return false;
    for (int i = 0; i < SQ_GPU_MARKS; i++)
        if (failed(g, cudaEventCreateWithFlags(&g->runtime->mark[i], cudaEventDisableTiming), "making an event"))
            return false;
    return true;
}

void gpu_stop(struct sq_gpu *g)
{
    if (!g->runtime)
        return;
    gpu_forget(g);
    for (int i = 0; i < SQ_GPU_MARKS; i++)
        if (g->runtime->mark[i])
            cudaEventDestroy(g->runtime->mark[i]);
    for (int i = 0; i < 2; i++)
        if (g->stream[i])
            cudaStreamDestroy(g->stream[i]);
    free(g->runtime);
    g->runtime = nullptr;
}

/* Operations of bf16 products that a processor does in a clock, dense; some consumer devices do half. */
static double flops_a_clock(int capability)
{
    return capability < SQ_GPU_BF16                     ? 0
           : capability == 80                           ? 2048
           : capability == 90                           ? 4096
           : capability >= 100 && capability < 110      ? 8192
                                                        : 1024;
}

void gpu_info(struct sq_gpu *g, struct sq_gpu_info *out)
{
    cudaDeviceProp p;
    size_t free_bytes = 0, all = 0;
    int clock = 0, bits = 0, hertz = 0;
    *out = {};
    if (failed(g, cudaGetDeviceProperties(&p, g->device), "its properties") ||
        failed(g, cudaMemGetInfo(&free_bytes, &all), "its memory"))
        return;
    snprintf(out->name, sizeof out->name, "%.127s", p.name);
    cudaDriverGetVersion(&out->driver);
    cudaRuntimeGetVersion(&out->runtime);
    cudaDeviceGetAttribute(&clock, cudaDevAttrMemoryClockRate, g->device); /* kHz, two transfers a clock */
    cudaDeviceGetAttribute(&bits, cudaDevAttrGlobalMemoryBusWidth, g->device);
    cudaDeviceGetAttribute(&hertz, cudaDevAttrClockRate, g->device); /* kHz */
    out->capability = g->capability;
    out->bytes = (int64_t)all;
    out->free_bytes = (int64_t)free_bytes;
    out->processors = p.multiProcessorCount;
    out->bytes_per_second = 2e3 * clock * bits / 8;
    out->flops_per_second = 1e3 * hertz * p.multiProcessorCount * flops_a_clock(g->capability);
    out->later_bytes = 256 << 20;
}

/* ---- streams ---- */

void gpu_move(struct sq_gpu *g, enum sq_queue q, void *to, const void *from, size_t bytes, const char *what)
{
    failed(g, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, g->stream[q]), what);
}

void gpu_fill(struct sq_gpu *g, enum sq_queue q, void *to, int byte, size_t bytes)
{
    failed(g, cudaMemsetAsync(to, byte, bytes, g->stream[q]), "filling");
}

void gpu_mark(struct sq_gpu *g, int mark, enum sq_queue q)
{
    failed(g, cudaEventRecord(g->runtime->mark[mark], g->stream[q]), "a mark");
}

void gpu_after(struct sq_gpu *g, enum sq_queue q, int mark)
{
    failed(g, cudaStreamWaitEvent(g->stream[q], g->runtime->mark[mark], 0), "waiting for a mark");
}

void gpu_wait(struct sq_gpu *g)
{
    for (int i = 0; i < 2; i++)
        failed(g, cudaStreamSynchronize(g->stream[i]), "waiting for it");
}

void gpu_wait_mark(struct sq_gpu *g, int mark)
{
    failed(g, cudaEventSynchronize(g->runtime->mark[mark]), "waiting for a mark");
}

/* ---- recordings: CUDA graphs ---- */

void gpu_record(struct sq_gpu *g)
{
    /* Relaxed: nobody else is there, and a library that asks the driver something ends no capture. */
    failed(g, cudaStreamBeginCapture(g->stream[SQ_QUEUE_WORK], cudaStreamCaptureModeRelaxed), "recording");
}

/* Ends the capture also where something in it has failed. */
void gpu_recorded(struct sq_gpu *g, int recording)
{
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t *to = &g->runtime->recording[recording];
    if (*to)
        cudaGraphExecDestroy(*to);
    *to = nullptr;
    if (!failed(g, cudaStreamEndCapture(g->stream[SQ_QUEUE_WORK], &graph), "recording") && g->rc == 0)
        failed(g, cudaGraphInstantiate(to, graph, 0), "a recording");
    if (graph)
        cudaGraphDestroy(graph);
}

bool gpu_replay(struct sq_gpu *g, int recording)
{
    cudaGraphExec_t graph = g->runtime->recording[recording];
    if (graph)
        failed(g, cudaGraphLaunch(graph, g->stream[SQ_QUEUE_WORK]), "a recording");
    return graph != nullptr;
}

void gpu_forget(struct sq_gpu *g)
{
    for (int i = 0; i < SQ_GPU_RECORDINGS; i++) {
        if (g->runtime->recording[i])
            cudaGraphExecDestroy(g->runtime->recording[i]);
        g->runtime->recording[i] = nullptr;
    }
}
