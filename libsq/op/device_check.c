#include "device_check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LONG_ENOUGH 2e-3 /* seconds */
enum { GUARD = 256, RUNS = 3, MOST_RUNS = 200, SPACE = 64 << 20 /* what the largest shape of the table needs, and more */ };

/* ---- arguments ---- */

static struct check_arg *add(struct check_call *c, enum check_role role, enum sq_dtype type, int64_t n, double limit)
{
    SQ_ASSERT(c->nargs < CHECK_ARGS);
    struct check_arg *a = &c->arg[c->nargs++];
    *a = (struct check_arg){.role = role, .type = type, .n = n, .limit = limit};
    return a;
}

static void filled(struct check_arg *a, int64_t rows, int64_t cols, int64_t ld)
{
    a->rows = rows;
    a->cols = cols;
    a->ld = ld;
}

void check_in(struct check_call *c, enum sq_dtype type, int64_t n)
{
    filled(add(c, CHECK_IN, type, n, 0), 1, n, n);
}

void check_out(struct check_call *c, enum sq_dtype type, int64_t n, double limit)
{
    add(c, CHECK_OUT, type, n, limit);
}

void check_filled(struct check_call *c, enum sq_dtype type, int64_t n, double limit)
{
    filled(add(c, CHECK_OUT, type, n, limit), 1, n, n);
}

void check_scratch(struct check_call *c, int64_t n)
{
    filled(add(c, CHECK_SCRATCH, SQ_F32, n, 0), 1, n, n);
}

static int64_t span(int64_t rows, int64_t n, int64_t ld)
{
    return rows > 0 && n > 0 ? (rows - 1) * ld + n : 0;
}

void check_in_rows(struct check_call *c, int64_t rows, int64_t n, int64_t ld)
{
    filled(add(c, CHECK_IN, SQ_F32, span(rows, n, ld), 0), rows, n, ld);
}

void check_filled_rows(struct check_call *c, int64_t rows, int64_t n, int64_t ld, double limit)
{
    filled(add(c, CHECK_OUT, SQ_F32, span(rows, n, ld), limit), rows, n, ld);
}

static size_t bytes_of(const struct check_arg *a)
{
    return (size_t)a->n * sq_dtype_size(a->type);
}

/* about normal: the sum of eight bytes; fast, as large shapes want many */
static double normal(uint64_t *random)
{
    int sum = 0;
    *random = *random * 6364136223846793005ull + 1442695040888963407ull;
    for (int k = 0; k < 64; k += 8)
        sum += (int)(*random >> k & 255);
    return ((double)sum - 8 * 127.5) / sqrt(8 * (65536.0 - 1) / 12);
}

static void set(const struct check_arg *a, int64_t i, double v)
{
    switch (a->type) {
    case SQ_F32: ((float *)a->init)[i] = (float)v; break;
    case SQ_F64: ((double *)a->init)[i] = v; break;
    case SQ_BF16: ((uint16_t *)a->init)[i] = sq_f32_to_bf16((float)v); break;
    default: memset((char *)a->init + (size_t)i * sq_dtype_size(a->type), 0, sq_dtype_size(a->type));
    }
}

/* Declares, allocates and fills; `compared`: with room for results. */
static int make(struct check_call *c, const struct check_op *op, bool compared)
{
    uint64_t random = 1;
    void *p[CHECK_ARGS] = {NULL};
    int rc = 0;
    op->args(c);
    for (int k = 0; k < c->nargs; k++) {
        struct check_arg *a = &c->arg[k];
        const int64_t bytes = (int64_t)bytes_of(a) + 1;
        SQ_TRY(sq_alloc_bytes(&a->init, bytes, 1));
        memset(a->init, 0xff, (size_t)bytes); /* NaN */
        if (compared) {
            SQ_TRY(sq_alloc_bytes(&a->want, bytes, 1));
            SQ_TRY(sq_alloc_bytes(&a->first, bytes, 1));
            SQ_TRY(sq_alloc_bytes(&a->got, bytes + 2 * GUARD, 1));
        }
        for (int64_t i = 0; i < a->rows; i++)
            for (int64_t j = 0; j < a->cols; j++)
                set(a, i * a->ld + j, normal(&random));
        p[k] = a->init;
    }
    if (op->values)
        op->values(p, c->z);
out:
    return rc;
}

/* ---- one run on the device ---- */

static int to_device(struct check_call *c, const struct sq_device *d, struct sq_gpu *g)
{
    for (int i = 0; i < c->nargs; i++) {
        struct check_arg *a = &c->arg[i];
        void *p = NULL;
        if (a->role == CHECK_SCRATCH)
            continue;
        const int rc = a->device ? 0 : d->alloc(g, &p, bytes_of(a) + 2 * GUARD);
        if (rc < 0)
            return sq_fail((enum sq_err)rc, "%s", d->error(g));
        a->device = a->device ? a->device : p;
        d->fill(g, SQ_QUEUE_WORK, a->device, 0xa5, bytes_of(a) + 2 * GUARD);
        d->put(g, SQ_QUEUE_WORK, a->device + GUARD, a->init, bytes_of(a));
    }
    return 0;
}

static void run_once(struct check_call *c, const struct check_op *op, const struct sq_device *d, struct sq_gpu *g)
{
    void *p[CHECK_ARGS] = {NULL};
    for (int i = 0; i < c->nargs; i++)
        p[i] = c->arg[i].device ? c->arg[i].device + GUARD : NULL;
    op->dev(d->ops, g, p, c->z);
}

/* The same, recorded and replayed: what a step of training does. Nothing queued is nothing to replay. */
static void run_recorded(struct check_call *c, const struct check_op *op, const struct sq_device *d, struct sq_gpu *g)
{
    d->record(g);
    run_once(c, op, d, g);
    d->recorded(g, 0);
    (void)d->replay(g, 0);
}

static int from_device(struct check_call *c, const struct sq_device *d, struct sq_gpu *g)
{
    for (int i = 0; i < c->nargs; i++)
        if (c->arg[i].device)
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
        sq_free(a->init), sq_free(a->want), sq_free(a->got), sq_free(a->first);
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
        if (a->role == CHECK_SCRATCH)
            continue;
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
        if (a->limit > 0 && isfinite(a->limit) && (r->limit == 0 || nmse / a->limit > r->nmse / r->limit)) {
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
        at += (size_t)snprintf(r->shape + at, sizeof r->shape - at, "%s%.*s=%lld", i ? " " : "", n, name,
                               (long long)z[i]);
        name += n + (name[n] == ' ');
    }
}

static void set_order(int run)
{
    char seed[8];
    snprintf(seed, sizeof seed, "%d", 7 * run); /* the emulator's order of threads */
    setenv("SQ_EMU_SEED", seed, 1);
}

static int check_shape(struct sq_device_result *r, const struct check_op *op, const int64_t *z,
                       const struct sq_device *d, struct sq_gpu *g, int runs)
{
    struct check_call c = {.z = z};
    int rc = 0;
    *r = (struct sq_device_result){.op = op->name};
    name_shape(r, op, z);
    SQ_TRY(make(&c, op, true));
    reference(&c, op);
    for (int k = 0; k < runs && !r->fault; k++) {
        if (runs > 1)
            set_order(k);
        SQ_TRY(to_device(&c, d, g));
        if (k > 0 && k == runs - 1)
            run_recorded(&c, op, d, g);
        else
            run_once(&c, op, d, g);
        SQ_TRY(from_device(&c, d, g));
        look(r, &c, k);
    }
out:
    d->forget(g);
    release(&c, d, g);
    return rc < 0 ? sq_fail_in(rc, "%s %s", op->name, r->shape) : 0;
}

/* Seconds of n runs, waited for once. */
static int time_runs(double *seconds, struct check_call *c, const struct check_op *op, int64_t n,
                     const struct sq_device *d, struct sq_gpu *g)
{
    const int before = d->sync(g);
    const double start = sq_now();
    for (int64_t i = 0; i < n; i++)
        run_once(c, op, d, g);
    const int rc = d->sync(g);
    *seconds = sq_now() - start;
    return before < 0 || rc < 0 ? sq_fail((enum sq_err)SQ_MIN(before, rc), "%s", d->error(g)) : 0;
}

/* The fastest of a few tries, each of so many runs that waiting for the device is nothing beside them. */
static int time_shape(struct sq_device_result *r, const struct check_op *op, const struct sq_device *d,
                      struct sq_gpu *g)
{
    struct check_call c = {.z = op->large};
    int rc = 0;
    *r = (struct sq_device_result){.op = op->name, .seconds = HUGE_VAL, .flops = op->flops ? op->flops(op->large) : 0};
    name_shape(r, op, op->large);
    SQ_TRY(make(&c, op, false));
    SQ_TRY(to_device(&c, d, g));
    for (int i = 0; i < c.nargs; i++) {
        const struct check_arg *a = &c.arg[i];
        const int times = a->role == CHECK_SCRATCH ? 0 : a->role == CHECK_OUT && a->rows > 0 ? 2 : 1; /* read and written */
        r->bytes += times * (double)bytes_of(a);
    }
    double seconds;
    SQ_TRY(time_runs(&seconds, &c, op, 1, d, g)); /* loads code */
    SQ_TRY(time_runs(&seconds, &c, op, 1, d, g));
    const int64_t n = SQ_MAX(1, SQ_MIN(MOST_RUNS, (int64_t)(LONG_ENOUGH / seconds)));
    for (int k = 0; k < 5; k++) {
        SQ_TRY(time_runs(&seconds, &c, op, n, d, g));
        r->seconds = fmin(r->seconds, seconds / (double)n);
    }
out:
    release(&c, d, g);
    return rc < 0 ? sq_fail_in(rc, "%s %s", op->name, r->shape) : 0;
}

static int check_operation(const struct check_op *op, const struct sq_device *d, struct sq_gpu *g,
                           enum sq_device_depth depth, sq_device_report *report, void *ctx)
{
    struct sq_device_result r;
    bool right = true;
    int rc = 0;
    for (int64_t s = 0; rc == 0 && s < op->shapes; s++) {
        rc = check_shape(&r, op, op->shape[s], d, g, depth == SQ_CHECK_ONCE ? 1 : RUNS);
        rc = rc < 0 ? rc : report(ctx, &r);
        right &= !r.fault;
    }
    if (rc == 0 && right && depth == SQ_CHECK_TIMED && op->large[0] > 0) {
        rc = time_shape(&r, op, d, g);
        rc = rc < 0 ? rc : report(ctx, &r);
    }
    return rc;
}

int sq_device_check(const struct sq_device *d, struct sq_gpu *g, const char *only, enum sq_device_depth depth,
                    sq_device_report *report, void *ctx)
{
    const struct check_table *const tables[] = {&check_layer, &check_weights, &check_step, &check_experts};
    int rc = d->space(g, SPACE);
    if (rc < 0)
        return sq_fail((enum sq_err)rc, "%s", d->error(g));
    for (int t = 0; t < SQ_COUNT(tables); t++)
        for (int64_t k = 0; rc == 0 && k < tables[t]->n; k++)
            if (!only || strncmp(tables[t]->op[k].name, only, strlen(only)) == 0)
                rc = check_operation(&tables[t]->op[k], d, g, depth, report, ctx);
    return rc;
}
