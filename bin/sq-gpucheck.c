/* bin/sq-gpucheck.c - every operation of an accelerator beside the reference, and how fast it is */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "sq/app.h"
#include "sq/device.h"

enum { NO_DEVICE = 77 };

struct table {
    bool json;
    struct sq_gpu_info device;
    int64_t passed, failed;
};

/* The roofline: of the time of a run, that which the device's memory, or its products, need at their full rate; the larger
 * one. 0: unknown. */
static double roofline(const char **of, const struct sq_device_result *r, const struct sq_gpu_info *d)
{
    const double memory = d->bytes_per_second > 0 ? r->bytes / d->bytes_per_second : 0,
                 products = d->flops_per_second > 0 ? r->flops / d->flops_per_second : 0;
    *of = products > memory ? "bf16 products" : "memory";
    return r->seconds > 0 ? fmax(memory, products) / r->seconds : 0;
}

static void put_text(const struct sq_device_result *r, const struct table *t)
{
    const char *of;
    const double share = roofline(&of, r, &t->device);
    char part[40] = "";
    if (share > 0)
        snprintf(part, sizeof part, " %4.0f %% of %s", 100 * share, of);
    if (r->fault)
        printf("%-16s %-44s FAILED: %s (nmse %.2g, limit %.2g)\n", r->op, r->shape, r->fault, r->nmse, r->limit);
    else if (r->seconds > 0)
        printf("%-16s %-44s %9.3f ms %8.1f GB/s %8.2f TFLOP/s%s\n", r->op, r->shape, 1e3 * r->seconds,
               r->bytes / r->seconds / 1e9, r->flops / r->seconds / 1e12, part);
    else
        printf("%-16s %-44s nmse %.2g of %.2g\n", r->op, r->shape, r->nmse, r->limit);
}

static int put_json(const struct sq_device_result *r, const struct table *t)
{
    const char *of;
    json_t *nmse = isfinite(r->nmse) ? json_real(r->nmse) : json_null();
    const double share = roofline(&of, r, &t->device);
    json_t *o = json_pack("{s:s, s:s, s:b, s:o, s:f, s:f, s:f, s:f, s:f, s:s}", "op", r->op, "shape", r->shape, "passed",
                          r->fault == NULL, "nmse", nmse, "limit", r->limit, "seconds", r->seconds, "bytes", r->bytes,
                          "flops", r->flops, "share", share, "of", of);
    if (!o || (r->fault && json_object_set_new(o, "fault", json_string(r->fault)) != 0))
        return sq_fail(SQ_E_NOMEM, "no memory for a line of JSON");
    json_dumpf(o, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(o);
    return 0;
}

static int show(void *ctx, const struct sq_device_result *r)
{
    struct table *t = ctx;
    t->passed += !r->fault && r->seconds == 0;
    t->failed += r->fault != NULL;
    if (t->json)
        return put_json(r, t);
    put_text(r, t);
    return 0;
}

static void show_device(const struct sq_device *d, const struct sq_gpu_info *i, const struct table *t)
{
    if (t->json)
        printf("{\"device\":\"%s\",\"backend\":\"%s\",\"capability\":%d,\"driver\":%d,\"runtime\":%d,\"bytes\":%" PRId64
               ",\"free_bytes\":%" PRId64 ",\"processors\":%" PRId64
               ",\"bytes_per_second\":%.4g,\"flops_per_second\":%.4g}\n",
               i->name, d->name, i->capability, i->driver, i->runtime, i->bytes, i->free_bytes, i->processors,
               i->bytes_per_second, i->flops_per_second);
    else
        printf("%s (%s): sm_%d, driver %d, runtime %d, %.1f of %.1f GB free, %" PRId64
               " processors, %.0f GB/s, %.0f TFLOP/s of bf16\n",
               i->name, d->name, i->capability, i->driver, i->runtime, (double)i->free_bytes / 1e9,
               (double)i->bytes / 1e9, i->processors, i->bytes_per_second / 1e9, i->flops_per_second / 1e12);
}

/* NO_DEVICE (a status, not an error) where there is none to run on */
static int find(const struct sq_device **d, bool emulate)
{
    char why[256] = "";
    const int rc = sq_device_load(d, emulate);
    if (rc == SQ_E_UNSUP && !emulate) {
        fprintf(stderr, "sq-gpucheck: skipped: no CUDA device (%s)\n", sq_errmsg());
        return NO_DEVICE;
    }
    if (rc < 0 || (*d)->count(why, sizeof why) > 0)
        return rc;
    fprintf(stderr, "sq-gpucheck: skipped: no CUDA device (%s)\n", why);
    return NO_DEVICE;
}

int main(int argc, char **argv)
{
    struct sq_app app;
    const struct sq_device *d = NULL;
    struct sq_gpu *g = NULL;
    struct table t = {.json = false};
    bool emulate = false;
    int device;
    const char *only = NULL;
    char why[256] = "";
    const struct sq_opt opts[] = {
        SQ_OPT_FLAG(0, "emulate", &emulate,
                    "run the kernels on the processor, in several orders of threads; cuda:1 has no tensor cores"),
        SQ_OPT_STR(0, "only", &only, "NAME", "operations whose name begins so"),
        SQ_OPT_FLAG(0, "json", &t.json, "JSON lines in place of a table"),
        SQ_OPT_END,
    };
    int rc = 0;

    sq_app_init(&app, "sq-gpucheck", "", "compare every operation of a CUDA device with the reference, with times",
                opts, 0, argc, argv);
    SQ_TRY(sq_device_number(&device, app.device));
    SQ_TRY(find(&d, emulate));
    if (rc == NO_DEVICE) {
        (void)sq_app_exit(&app, 0);
        return NO_DEVICE;
    }
    rc = d->open(&g, device, why, sizeof why);
    if (rc < 0) {
        rc = sq_fail((enum sq_err)rc, "%s", why);
        goto out;
    }
    d->info(g, &t.device);
    show_device(d, &t.device, &t);
    SQ_TRY(sq_device_check(d, g, only, emulate ? SQ_CHECK_REPEATED : SQ_CHECK_TIMED, show, &t));
    if (!t.json)
        printf("%" PRId64 " passed, %" PRId64 " failed\n", t.passed, t.failed);
    if (t.failed > 0 || t.passed == 0)
        rc =
            sq_fail(SQ_E_CHECK, t.failed > 0 ? "%" PRId64 " of %" PRId64 " checks failed" : "no operation is called so",
                    t.failed, t.failed + t.passed);
out:
    if (d)
        d->close(&g);
    return sq_app_exit(&app, rc);
}
