/* The device: what it is asked for is looked at, the runtime does it, the first failure stays; the table of all that. */
#include "runtime.h"

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

void gpu_no_memory(struct sq_gpu *g, size_t bytes, const char *kind)
{
    gpu_fail(g, SQ_E_NOMEM, "device %d: no %zu bytes of %s memory", g->device, bytes, kind);
}

void *gpu_space(struct sq_gpu *g, size_t bytes, const char *op)
{
    if (bytes <= g->space_bytes)
        return g->space;
    gpu_fail(g, SQ_E_ARG, "%s needs %zu bytes of workspace, there are %zu", op, bytes, g->space_bytes);
    return nullptr;
}

static void close(struct sq_gpu **out)
{
    struct sq_gpu *g = *out;
    if (!g)
        return;
    gpu_wait(g);
    gpu_blas_close(g);
    if (g->space)
        gpu_release(g->space);
    gpu_stop(g);
    free(g);
    *out = nullptr;
}

static int open(struct sq_gpu **out, int device, char *why, size_t n)
{
    const int devices = gpu_count(why, n);
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
    if (!gpu_start(g)) {
        const int rc = g->rc;
        snprintf(why, n, "%s", g->error);
        close(&g);
        return rc;
    }
    *out = g;
    return 0;
}

static void free_memory(struct sq_gpu *, void *p)
{
    gpu_release(p);
}

static void free_pinned(struct sq_gpu *, void *p)
{
    gpu_release_host(p);
}

static int space(struct sq_gpu *g, size_t bytes)
{
    void *larger;
    if (bytes <= g->space_bytes)
        return 0;
    gpu_wait(g);
    gpu_forget(g); /* recordings have its address */
    if (g->space)
        gpu_release(g->space); /* nothing in it is needed again, and both may be more than there is */
    g->space = nullptr;
    g->space_bytes = 0;
    const int rc = gpu_alloc(g, &larger, bytes);
    if (rc < 0)
        return rc;
    g->space = larger;
    g->space_bytes = bytes;
    return 0;
}

/* ---- streams: nothing is queued behind a failure ---- */

/* Memory that a copy takes for the device's. */
static bool expect_own(struct sq_gpu *g, const void *p, const char *what)
{
    if (!gpu_owns(p))
        gpu_fail(g, SQ_E_DEVICE, "%s memory of the host's", what);
    return g->rc == 0;
}

static void put(struct sq_gpu *g, enum sq_queue q, void *to, const void *host, size_t bytes)
{
    if (bytes > 0 && expect_own(g, to, "copying to"))
        gpu_move(g, q, to, host, bytes, "copying to it");
}

static void get(struct sq_gpu *g, enum sq_queue q, void *host, const void *from, size_t bytes)
{
    if (bytes > 0 && expect_own(g, from, "copying from"))
        gpu_move(g, q, host, from, bytes, "copying from it");
}

static void copy(struct sq_gpu *g, enum sq_queue q, void *to, const void *from, size_t bytes)
{
    if (bytes > 0 && expect_own(g, to, "copying on it to") && expect_own(g, from, "copying on it from"))
        gpu_move(g, q, to, from, bytes, "copying on it");
}

static void fill(struct sq_gpu *g, enum sq_queue q, void *to, int byte, size_t bytes)
{
    if (bytes > 0 && expect_own(g, to, "filling"))
        gpu_fill(g, q, to, byte, bytes);
}

static void mark(struct sq_gpu *g, int mark, enum sq_queue q)
{
    if (g->rc == 0)
        gpu_mark(g, mark, q);
}

static void after(struct sq_gpu *g, enum sq_queue q, int mark)
{
    if (g->rc == 0)
        gpu_after(g, q, mark);
}

static int reach(struct sq_gpu *g, int mark)
{
    if (g->rc == 0)
        gpu_wait_mark(g, mark);
    return g->rc;
}

static int sync(struct sq_gpu *g)
{
    gpu_wait(g);
    return g->rc;
}

static void record(struct sq_gpu *g)
{
    if (g->rc == 0)
        gpu_record(g);
}

static bool replay(struct sq_gpu *g, int recording)
{
    return g->rc == 0 && gpu_replay(g, recording);
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
    ROW(rowquant_search),
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
    ROW(hadamard),
    ROW(softmax),
    ROW(choose),
    ROW(assign),
    ROW(route_grad),
    ROW(scatter),
    ROW(scale_rows),
    ROW(row_dots),
};

extern "C" __attribute__((visibility("default"))) const struct sq_device *sq_device_entry(void)
{
    static const struct sq_device device = {
        .abi = SQ_DEVICE_ABI,
        .size = sizeof(struct sq_device) + sizeof(struct sq_device_ops),
        .name = gpu_runtime_name,
        .count = gpu_count,
        .open = open,
        .close = close,
        .info = gpu_info,
        .alloc = gpu_alloc,
        .alloc_pinned = gpu_alloc_host,
        .free = free_memory,
        .free_pinned = free_pinned,
        .space = space,
        .put = put,
        .get = get,
        .copy = copy,
        .fill = fill,
        .mark = mark,
        .after = after,
        .reach = reach,
        .sync = sync,
        .record = record,
        .recorded = gpu_recorded,
        .replay = replay,
        .forget = gpu_forget,
        .error = error,
        .clear = clear,
        .ops = &ops,
    };
    return &device;
}
