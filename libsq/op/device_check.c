#include "device_check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GUARD = 256, RUNS = 3, SPACE = 64 << 20 };

/* ---- arguments ---- */

/* about normal: the sum of eight bytes; fast, as large shapes want many */
double check_normal(struct check_call *c)
{
    int sum = 0;
    c->random = c->random * 6364136223846793005ull + 1442695040888963407ull;
    for (int k = 0; k < 64; k += 8)
        sum += (int)(c->random >> k & 255);
    return ((double)sum - 8 * 127.5) / sqrt(8 * (65536.0 - 1) / 12);
}

static void set(struct check_call *c, const struct check_arg *a, int64_t i)
{
    const double v = check_normal(c);
    switch (a->type) {
    case SQ_F32: ((float *)a->init)[i] = (float)v; break;
    case SQ_F64: ((double *)a->init)[i] = v; break;
    case SQ_BF16: ((uint16_t *)a->init)[i] = sq_f32_to_bf16((float)v); break;
    default: memset((char *)a->init + (size_t)i * sq_dtype_size(a->type), 0, sq_dtype_size(a->type));
    }
}

static struct check_arg *add(struct check_call *c, enum check_role role, enum sq_dtype type, int64_t n, double limit)
{
    SQ_ASSERT(c->nargs < CHECK_ARGS);
    struct check_arg *a = &c->arg[c->nargs++];
    const size_t bytes = (size_t)n * sq_dtype_size(type) + 1;
    *a = (struct check_arg){.role = role, .type = type, .n = n, .limit = limit, .init = malloc(bytes), .want = malloc(bytes), .got = malloc(bytes + 2 * GUARD),
                            .first = malloc(bytes)};
    SQ_ASSERT(a->init && a->want && a->got && a->first);
    memset(a->init, 0xff, bytes); /* NaN */
    return a;
}

static void fill(struct check_call *c, const struct check_arg *a)
{
    for (int64_t i = 0; i < a->n; i++)
        set(c, a, i);
}

void check_in(struct check_call *c, enum sq_dtype type, int64_t n)
{
    fill(c, add(c, CHECK_IN, type, n, 0));
}

void check_out(struct check_call *c, enum sq_dtype type, int64_t n, double limit)
{
    add(c, CHECK_OUT, type, n, limit);
}

void check_filled(struct check_call *c, enum sq_dtype type, int64_t n, double limit)
{
    fill(c, add(c, CHECK_OUT, type, n, limit));
}

static int64_t span(int64_t rows, int64_t n, int64_t ld)
{
    return rows > 0 && n > 0 ? (rows - 1) * ld + n : 0;
}

static void fill_rows(struct check_call *c, const struct check_arg *a, int64_t rows, int64_t n, int64_t ld)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < n; j++)
            set(c, a, i * ld + j);
}

void check_in_rows(struct check_call *c, int64_t rows, int64_t n, int64_t ld)
{
    fill_rows(c, add(c, CHECK_IN, SQ_F32, span(rows, n, ld), 0), rows, n, ld);
}

void check_filled_rows(struct check_call *c, int64_t rows, int64_t n, int64_t ld, double limit)
{
    fill_rows(c, add(c, CHECK_OUT, SQ_F32, span(rows, n, ld), limit), rows, n, ld);
}

void *check_last(struct check_call *c)
{
    return c->arg[c->nargs - 1].init;
}

static size_t bytes_of(const struct check_arg *a)
{
    return (size_t)a->n * sq_dtype_size(a->type);
}

/* ---- one run on the device ---- */

static int to_device(struct check_call *c, const struct sq_device *d, struct sq_gpu *g)
{
    for (int i = 0; i < c->nargs; i++) {
        struct check_arg *a = &c->arg[i];
        void *p = NULL;
        const int rc = a->device ? 0 : d->alloc(g, &p, bytes_of(a) + 2 * GUARD);
        if (rc < 0)
            return sq_fail((enum sq_err)rc, "%s", d->error(g));
        a->device = a->device ? a->device : p;
        d->fill(g, SQ_QUEUE_WORK, a->device, 0xa5, bytes_of(a) + 2 * GUARD);
        d->put(g, SQ_QUEUE_WORK, a->device + GUARD, a->init, bytes_of(a));
    }
    return 0;
}

static void run(struct check_call *c, const struct check_op *op, const struct sq_device *d, struct sq_gpu *g)
{
    void *p[CHECK_ARGS] = {NULL};
    for (int i = 0; i < c->nargs; i++)
        p[i] = c->arg[i].device + GUARD;
    op->dev(d->ops, g, p, c->z);
}

static int from_device(struct check_call *c, const struct sq_device *d, struct sq_gpu *g)
{
    for (int i = 0; i < c->nargs; i++)
        d->get(g, SQ_QUEUE_WORK, c->arg[i].got, c->arg[i].device, bytes_of(&c->arg[i]) + 2 * GUARD);
    const int rc = d->sync(g);
    return rc < 0 ? sq_fail((enum sq_err)rc, "%s", d->error(g)) : 0;
}

static void release(struct check_call *c, const struct sq_device *d, struct sq_gpu *g)
{
    for (int i = 0; i < c->nargs; i++) {
        struct check_arg *a = &c->arg[i];
        if (a->device)
            d->free(g, a->device);
        free(a->init), free(a->want), free(a->got), free(a->first);
    }
}

/* ---- comparing ---- */

static double value(const struct check_arg *a, const void *x, int64_t i)
{
    switch (a->type) {
    case SQ_F32: return (double)((const float *)x)[i];
    case SQ_F64: return ((const double *)x)[i];
    case SQ_BF16: return (double)sq_bf16_to_f32(((const uint16_t *)x)[i]);
    default: return 0;
    }
}

static bool is_untouched(const struct check_arg *a, const void *x, int64_t i)
{
    const size_t size = sq_dtype_size(a->type);
    const unsigned char *p = (const unsigned char *)x + (size_t)i * size;
    for (size_t k = 0; k < size; k++)
        if (p[k] != 0xff)
            return false;
    return true;
}

/* NULL, or what is wrong; *nmse of what the reference wrote */
static const char *compare(double *nmse, const struct check_arg *a, const void *got)
{
    double err = 0, norm = 0;
    *nmse = 0;
    if (a->limit == CHECK_BITS)
        return memcmp(got, a->want, bytes_of(a)) ? "other bits than the reference" : NULL;
    for (int64_t i = 0; i < a->n; i++) {
        if (is_untouched(a, a->want, i) != is_untouched(a, got, i))
            return "wrote where the reference does not, or did not where it does";
        if (is_untouched(a, got, i))
            continue;
        const double w = value(a, a->want, i), e = value(a, got, i) - w;
        err += e * e;
        norm += w * w;
    }
    *nmse = err == 0 ? 0 : err / norm;
    return *nmse <= a->limit ? NULL : "further from the reference than its limit";
}

static bool guarded(const struct check_arg *a)
{
    const unsigned char *p = a->got;
    for (size_t k = 0; k < GUARD; k++)
        if (p[k] != 0xa5 || p[GUARD + bytes_of(a) + k] != 0xa5)
            return false;
    return true;
}

static void look(struct sq_device_result *r, const struct check_call *c, int run)
{
    for (int i = 0; i < c->nargs && !r->fault; i++) {
        const struct check_arg *a = &c->arg[i];
        const char *got = (const char *)a->got + GUARD;
        double nmse = 0;
        if (!guarded(a))
            r->fault = "wrote outside of an array";
        else if (a->role == CHECK_IN)
            r->fault = memcmp(got, a->init, bytes_of(a)) ? "changed an input" : NULL;
        else if (run > 0)
            r->fault = memcmp(got, a->first, bytes_of(a)) ? "other bytes in another run" : NULL;
        else
            r->fault = compare(&nmse, a, got);
        if (run == 0)
            memcpy(a->first, got, bytes_of(a));
        if (a->limit > 0 && nmse * r->limit >= r->nmse * a->limit) {
            r->nmse = nmse;
            r->limit = a->limit;
        }
    }
}

/* ---- one shape ---- */

static void reference(struct check_call *c, const struct check_op *op)
{
    void *p[CHECK_ARGS] = {NULL};
    for (int i = 0; i < c->nargs; i++) {
        memcpy(c->arg[i].want, c->arg[i].init, bytes_of(&c->arg[i]));
        p[i] = c->arg[i].want;
    }
    op->ref(p, c->z);
}

static void name_shape(struct sq_device_result *r, const struct check_op *op, const int64_t *z)
{
    size_t at = 0;
    const char *name = op->dims;
    for (int i = 0; i < CHECK_DIMS && *name && at < sizeof r->shape; i++) {
        const int n = (int)strcspn(name, " ");
        at += (size_t)snprintf(r->shape + at, sizeof r->shape - at, "%s%.*s=%lld", i ? " " : "", n, name, (long long)z[i]);
        name += n + (name[n] == ' ');
    }
}

static int check_shape(struct sq_device_result *r, const struct check_op *op, const int64_t *z, const struct sq_device *d,
                       struct sq_gpu *g)
{
    struct check_call c = {.z = z, .random = 1};
    int rc = 0;
    *r = (struct sq_device_result){.op = op->name};
    name_shape(r, op, z);
    op->args(&c);
    reference(&c, op);
    for (int k = 0; k < RUNS && !r->fault; k++) {
        char seed[8];
        snprintf(seed, sizeof seed, "%d", 7 * k); /* the emulator's order of threads */
        setenv("SQ_EMU_SEED", seed, 1);
        SQ_TRY(to_device(&c, d, g));
        run(&c, op, d, g);
        SQ_TRY(from_device(&c, d, g));
        look(r, &c, k);
    }
out:
    release(&c, d, g);
    return rc < 0 ? sq_fail_in(rc, "%s %s", op->name, r->shape) : 0;
}

/* The fastest of a few runs, each of them waited for: what is measured lasts some hundred microseconds or more. */
static int time_shape(struct sq_device_result *r, const struct check_op *op, const struct sq_device *d, struct sq_gpu *g)
{
    struct check_call c = {.z = op->large, .random = 2};
    int rc = 0;
    *r = (struct sq_device_result){.op = op->name, .seconds = HUGE_VAL, .flops = op->flops ? op->flops(op->large) : 0};
    name_shape(r, op, op->large);
    op->args(&c);
    SQ_TRY(to_device(&c, d, g));
    for (int i = 0; i < c.nargs; i++)
        r->bytes += (double)bytes_of(&c.arg[i]);
    for (int k = 0; k < 6; k++) {
        rc = d->sync(g);
        const double start = sq_now();
        run(&c, op, d, g);
        rc = rc < 0 ? rc : d->sync(g);
        if (rc < 0) {
            rc = sq_fail((enum sq_err)rc, "%s", d->error(g));
            goto out;
        }
        if (k > 0) /* the first one loads code */
            r->seconds = fmin(r->seconds, sq_now() - start);
    }
out:
    release(&c, d, g);
    return rc < 0 ? sq_fail_in(rc, "%s %s", op->name, r->shape) : 0;
}

int sq_device_check(const struct sq_device *d, struct sq_gpu *g, const char *only, bool timed, sq_device_report *report, void *ctx)
{
    struct sq_device_result r;
    int rc = d->space(g, timed ? (size_t)4 * SPACE * 16 : SPACE);
    if (rc < 0)
        return sq_fail((enum sq_err)rc, "%s", d->error(g));
    for (int64_t k = 0; rc == 0 && k < check_nops; k++) {
        const struct check_op *op = &check_ops[k];
        if (only && strncmp(op->name, only, strlen(only)) != 0)
            continue;
        for (int64_t s = 0; rc == 0 && s < op->shapes; s++) {
            rc = check_shape(&r, op, op->shape[s], d, g);
            rc = rc < 0 ? rc : report(ctx, &r);
        }
        if (rc == 0 && timed && op->large[0] > 0) {
            rc = time_shape(&r, op, d, g);
            rc = rc < 0 ? rc : report(ctx, &r);
        }
    }
    return rc;
}
