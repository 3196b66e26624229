// A device that is wrong in one way, for tests/cli/sq-gpucheck.bats: libsq_emu.so (SQ_WRONG_BASE, a path) with one
// operation replaced as SQ_WRONG says. What sq-gpucheck must find.
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "../../libsq/include/sq/device.h"

static struct sq_device device;
static struct sq_device_ops ops;
static const struct sq_device_ops *right;
static void (*right_info)(struct sq_gpu *g, struct sq_gpu_info *out);
static int calls;

static void outside(struct sq_gpu *g, float *y, const float *x, int64_t n)
{
    right->add(g, y, x, n);
    device.sync(g);
    y[n] = 0;
}

static void input(struct sq_gpu *g, float *y, const float *x, int64_t n)
{
    right->add(g, y, x, n);
    device.sync(g);
    if (n > 0)
        const_cast<float *>(x)[n - 1] = 0;
}

static void last(struct sq_gpu *g, float *y, const float *x, int64_t n)
{
    right->add(g, y, x, n - 1);
}

static void differs(struct sq_gpu *g, float *y, const float *x, int64_t n)
{
    right->add(g, y, x, n);
    device.sync(g);
    if (n > 1 && calls++ % 3 == 2)
        y[0] += 1;
}

/* 3e-4 of every value: the precision of half floats */
static void coarse(struct sq_gpu *g, struct sq_floats y, const float *gate, const float *up, int64_t n)
{
    right->swiglu(g, y, gate, up, n);
    device.sync(g);
    for (int64_t i = 0; y.type == SQ_F32 && i < n; i++)
        static_cast<float *>(y.x)[i] *= 1.0003f;
}

/* writes between rows */
static void gap(struct sq_gpu *g, struct sq_floats y, int64_t ldy, float *rrms, const float *x, int64_t ldx,
                const float *gain, double eps, int64_t rows, int64_t n)
{
    right->rmsnorm(g, y, ldy, rrms, x, ldx, gain, eps, rows, n);
    device.sync(g);
    if (rows > 1 && ldy > n && y.type == SQ_F32)
        static_cast<float *>(y.x)[n] = 1;
}

static int no_devices(char *why, size_t n)
{
    strncpy(why, "none today", n);
    return 0;
}

/* The operations above wait, which none that is recorded may: what is recorded here runs at once. */
static void record_nothing(struct sq_gpu *)
{
}

static void recorded_nothing(struct sq_gpu *, int)
{
}

static bool replay_nothing(struct sq_gpu *, int)
{
    return true;
}

static bool replay_refused(struct sq_gpu *, int)
{
    return false;
}

/* Right, and with a data sheet. */
static void rated(struct sq_gpu *g, struct sq_gpu_info *out)
{
    right_info(g, out);
    out->bytes_per_second = 1e9;
    out->flops_per_second = 1e12;
}

static int open_none(struct sq_gpu **, int, char *why, size_t n)
{
    strncpy(why, "none today", n);
    return SQ_E_UNSUP;
}

extern "C" __attribute__((visibility("default"))) const struct sq_device *sq_device_entry(void)
{
    const char *base = getenv("SQ_WRONG_BASE"), *how = getenv("SQ_WRONG");
    void *library = base ? dlopen(base, RTLD_NOW | RTLD_LOCAL) : nullptr;
    if (!library || !how)
        return nullptr;
    const auto entry = reinterpret_cast<sq_device_entry_fn *>(dlsym(library, SQ_DEVICE_ENTRY));
    device = *entry();
    right = device.ops;
    right_info = device.info;
    ops = *right;
    device.ops = &ops;
    device.record = record_nothing;
    device.recorded = recorded_nothing;
    device.replay = replay_nothing;
    if (strcmp(how, "outside") == 0)
        ops.add = outside;
    else if (strcmp(how, "input") == 0)
        ops.add = input;
    else if (strcmp(how, "last") == 0)
        ops.add = last;
    else if (strcmp(how, "differs") == 0)
        ops.add = differs;
    else if (strcmp(how, "coarse") == 0)
        ops.swiglu = coarse;
    else if (strcmp(how, "gap") == 0)
        ops.rmsnorm = gap;
    else if (strcmp(how, "version") == 0)
        device.abi++;
    else if (strcmp(how, "unrecorded") == 0)
        device.replay = replay_refused;
    else if (strcmp(how, "rated") == 0)
        device.info = rated;
    else if (strcmp(how, "none") == 0) {
        device.count = no_devices;
        device.open = open_none;
    }
    return &device;
}
